"""What the measurements are to reach, and whether they do."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .caps import NO_CAP
from .places import Data, Place, places
from .whole import CONTEXT_NBYTES, GIB, WHOLE_RUN

SECONDS_FIRST, SECONDS_AIM, SECONDS_PAPER = 60, 36, 111
CAPPED_GIB, CAPPED_PEAK_GIB, CAPPED_RATIO = 24, 22, 1.15
MEMORY_SPREAD, TIME_SPREAD, PREDICTION_ERROR = 0.02, 0.05, 0.10
AIM_SHARE = 0.6
"""Of the measured ceiling: what the 36 seconds stand for."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One mark.

    Attributes:
        name: of what is to be reached.
        figure: what was reached.
        is_met: whether that is enough.
        why: which stage is to blame, and for what.
    """

    name: str
    figure: str
    is_met: bool
    why: str = ""


def judge(parts: Sequence[Data]) -> list[Mark]:
    """Hold all whole runs against the marks, place by place; what was not measured has none."""
    return [
        replace(mark, name=mark.name + place.name)
        for place in places(parts)
        for mark in _judge_place(place)
    ]


def _judge_place(place: Place) -> list[Mark]:
    rows, runs = place.rows, place.runs
    ceiling = max((part["ceiling_flops"] for part in place.parts), default=0.0)
    marks: list[Mark] = []
    for run in runs:
        stages = stages_of(rows, run)
        if "cap_gib" in run["facts"]:
            marks += _capped(run, runs, stages, rows)
        else:
            marks += _timed(run, stages, ceiling, runs)
    return [*marks, *_steady(runs, rows)]


def stages_of(rows: Iterable[Data], run: Data) -> list[Data]:
    """Give the phases of a whole run."""
    return [row for row in rows if row["group"] == run["group"] and row["name"] != WHOLE_RUN]


def _timed(
    run: Data, stages: Sequence[Data], ceiling: float, runs: Sequence[Data]
) -> Iterator[Mark]:
    """Judge the time of a run of the shortest length."""
    if run["facts"]["frames"] != min(other["facts"]["frames"] for other in runs):
        return
    seconds = run["facts"]["wall_seconds"]
    for limit, words in (
        (SECONDS_PAPER, "the paper's time"),
        (SECONDS_FIRST, "first"),
        (SECONDS_AIM, "aim"),
    ):
        yield Mark(
            name=f"{run['group']}: at most {limit} s ({words})",
            figure=f"{seconds:.1f} s, {run['load_seconds']:.1f} of it loading, "
            f"{run['write_seconds']:.1f} writing",
            is_met=seconds <= limit,
            why="" if seconds <= limit else slowest(stages, ceiling),
        )


def slowest(stages: Sequence[Data], ceiling: float) -> str:
    """Name the stage with the lowest share of the ceiling, and the one that loses most seconds."""
    rated = [row for row in stages if row["flops"] and row["seconds"]]
    if not rated or not ceiling:
        return ""

    def share(row: Data) -> float:
        return row["flops"] / row["seconds"] / ceiling

    def lost(row: Data) -> float:
        return row["seconds"] - row["flops"] / (AIM_SHARE * ceiling)

    least, most = min(rated, key=share), max(rated, key=lost)
    return (
        f"lowest share: {least['name']} ({share(least):.1%} of the ceiling); most seconds above "
        f"{AIM_SHARE:.0%}: {most['name']} ({lost(most):.1f} s)"
    )


def _capped(
    run: Data, runs: Sequence[Data], stages: Sequence[Data], rows: Sequence[Data]
) -> Iterator[Mark]:
    """Judge memory and time of a run under a cap."""
    cap = run["facts"]["cap_gib"]
    peak = run["peak_nbytes"]
    if peak is not None and cap == CAPPED_GIB:
        context = run["facts"].get("context_nbytes") or CONTEXT_NBYTES
        taken, held = (
            (nbytes + context) / GIB for nbytes in (peak, run["reserved_nbytes"] or peak)
        )
        largest = max(stages, key=lambda row: row["peak_nbytes"] or 0)
        yield Mark(
            name=f"{run['group']}: at most {CAPPED_PEAK_GIB} GiB",
            figure=f"{taken:.2f} GiB with {context / GIB:.1f} for CUDA's context; with what the "
            f"allocator keeps for later {held:.2f}",
            is_met=taken <= CAPPED_PEAK_GIB,
            why=f"largest: {largest['name']}",
        )
    if peak is not None:
        yield from _predicted(run, stages)
    base = next((other for other in runs if other["group"] == uncapped_group(run)), None)
    if base is None:
        return
    ratio = run["facts"]["wall_seconds"] / base["facts"]["wall_seconds"]
    own = {row["name"]: row for row in stages_of(rows, base)}
    slower = [(_spent(row) - _spent(own[row["name"]]), row) for row in stages if row["name"] in own]
    difference, worst = max(slower, key=lambda pair: pair[0])
    yield Mark(
        name=f"{run['group']}: at most {CAPPED_RATIO} x the uncapped time",
        figure=f"{ratio:.3f} x",
        is_met=ratio <= CAPPED_RATIO,
        why=f"most lost: {worst['name']} ({difference:+.1f} s with loading)",
    )


def _spent(row: Data) -> float:
    return row["seconds"] + row["load_seconds"]


def uncapped_group(run: Data) -> str:
    """Name the run without a cap that a capped one is held against: only the end differs."""
    return run["group"].removesuffix(f", {run['facts']['cap_gib']:g} GiB") + f", {NO_CAP}"


def _predicted(run: Data, stages: Sequence[Data]) -> Iterator[Mark]:
    known = [row for row in stages if row["predicted_nbytes"] and row["peak_nbytes"]]
    if not known:
        return
    worst = max(known, key=lambda row: abs(_error(row)))
    yield Mark(
        name=f"{run['group']}: predicted memory within {PREDICTION_ERROR:.0%}",
        figure=f"{_error(worst):+.1%} at worst",
        is_met=abs(_error(worst)) <= PREDICTION_ERROR,
        why=f"worst: {worst['name']}",
    )


def _error(row: Data) -> float:
    """Give how far the measured peak is above the predicted one."""
    return row["peak_nbytes"] / row["predicted_nbytes"] - 1


def _steady(runs: Sequence[Data], rows: Sequence[Data]) -> Iterator[Mark]:
    """Judge what changes with the length of the clip."""
    kinds: dict[str, list[Data]] = {}
    for run in runs:
        _, _, kind = run["group"].partition(" frames")
        kinds.setdefault(kind, []).append(run)
    for kind, same in kinds.items():
        same = sorted(same, key=lambda run: run["facts"]["frames"])
        if len(same) < 2:
            continue
        span = f"{same[0]['facts']['frames']} to {same[-1]['facts']['frames']} frames{kind}"
        for name, value, limit in (
            ("memory", _peak, MEMORY_SPREAD),
            ("seconds per frame", _per_frame, TIME_SPREAD),
        ):
            yield from _spread(f"{span}: {name} within {limit:.0%}", same, rows, value, limit)


def _peak(row: Data, _frames: int) -> float | None:
    return row["peak_nbytes"]


def _per_frame(row: Data, frames: int) -> float | None:
    return row["seconds"] / frames


def _spread(
    name: str, runs: Sequence[Data], rows: Sequence[Data], value: Any, limit: float
) -> Iterator[Mark]:
    """Judge how far a value is from the shortest run's, and blame the stage that moved most."""

    def change(named: str) -> float | None:
        values = [
            value(row, run["facts"]["frames"])
            for run in runs
            for row in rows
            if row["group"] == run["group"] and row["name"] == named and not row["error"]
        ]
        if len(values) < 2 or not all(values):
            return None
        return max((each / values[0] - 1 for each in values), key=abs)

    whole = change(WHOLE_RUN)
    if whole is None:
        return
    names = dict.fromkeys(row["name"] for row in stages_of(rows, runs[0]))
    moved = {stage: found for stage in names if (found := change(stage)) is not None}
    each = ", ".join(f"{stage} {found:+.1%}" for stage, found in moved.items())
    yield Mark(name=name, figure=f"{whole:+.1%}", is_met=abs(whole) <= limit, why=each)
