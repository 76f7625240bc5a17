"""How many blocks stay, for any sizes: as many as fit, the others spread evenly, or a refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift_core.errors import BudgetError
from swift_core.memory.residency import SLOTS, fit_residency

sizes = st.integers(1, 10**12)


@given(st.integers(1, 80), sizes, sizes, sizes, st.integers(0, 10**14))
def test_as_many_blocks_as_fit_stay(blocks, block_nbytes, fixed_nbytes, working_nbytes, budget):
    given = {
        "blocks": blocks,
        "block_nbytes": block_nbytes,
        "fixed_nbytes": fixed_nbytes,
        "working_nbytes": working_nbytes,
    }
    least = fixed_nbytes + working_nbytes + min(SLOTS, blocks) * block_nbytes
    if budget < least:
        with pytest.raises(BudgetError, match=f"takes at least {least / 1e9:.1f} GB"):
            fit_residency(**given, budget_nbytes=budget)
        return
    made = fit_residency(**given, budget_nbytes=budget)
    assert made.device_nbytes <= budget
    if made.resident < blocks:
        one_more = made.resident + 1
        slots = min(SLOTS, blocks - one_more)
        assert fixed_nbytes + working_nbytes + (one_more + slots) * block_nbytes > budget
    streamed = made.streamed
    assert len(streamed) == blocks - made.resident
    assert sorted(set(streamed)) == list(streamed)
    assert all(0 <= index < blocks for index in streamed)
    gaps = (
        [b - a for a, b in zip(streamed, (*streamed[1:], streamed[0] + blocks), strict=True)]
        if streamed
        else []
    )
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_it_is_said_in_words():
    given = {"blocks": 40, "block_nbytes": 700, "fixed_nbytes": 500, "working_nbytes": 3000}
    given = {name: value if name == "blocks" else value * 10**6 for name, value in given.items()}
    assert fit_residency(**given, budget_nbytes=40 * 10**9).describe() == (
        "all 40 blocks resident, 31.5 GB on the device"
    )
    assert fit_residency(**given, budget_nbytes=20 * 10**9).describe() == (
        "21 of 40 blocks resident, the others streamed (13.3 GB in each pass), 19.6 GB on the "
        "device"
    )
    with pytest.raises(
        BudgetError, match=r"at least 4\.9 GB .*3\.0 GB of it for one step.*4\.0 GB"
    ):
        fit_residency(**given, budget_nbytes=4 * 10**9)
