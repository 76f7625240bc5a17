"""A VAE whose state waits in host memory, against the same VAE with all of it there.

On the CPU both ends are host memory. Lanes of their own make copies late, as a card does, to show
that the order of marks alone keeps work and copies apart.
"""

import gc

import pytest
import torch

from swift_core import lanes
from swift_core.locked import lockable
from swift_core.vae import parking
from swift_core.vae.bands import Banding
from swift_core.vae.causal import TailCache
from tests.models import small_vae

FORMS = {
    "wan2.2": small_vae(encoder_dim=8, decoder_dim=8),
    "wan2.1": small_vae(
        encoder_dim=8, decoder_dim=8, residual=False, dim_mult=(1, 2, 4), patch=1, residual_blocks=2
    ),
}


class LateLane(lanes.DirectLane):
    """Copies are done when somebody must wait for them, and not before."""

    def __init__(self):
        super().__init__()
        self.waiting = []
        self.done = self.finished = 0

    def copy(self, target, source):
        if not target.is_inference() or torch.is_inference_mode_enabled():
            target.fill_(float("nan"))  # whoever reads too soon reads nonsense
        self.waiting.append((target, source))

    def after_copies(self):
        return self, self.done + len(self.waiting)

    def hold_work(self, mark):
        lane, count = mark
        assert lane is self, "work waits for a lane by that lane"
        self.run(count)

    def hold_copies(self, mark):
        """Wait: of the other lane's copies those come first that this one's next must not pass."""
        if mark is not self:
            lane, count = mark
            lane.run(count)

    def run(self, count):
        while self.done < count:
            target, source = self.waiting.pop(0)
            target.copy_(source)
            self.done += 1

    def finish(self):
        self.finished += 1
        self.run(self.done + len(self.waiting))


@pytest.fixture
def late(monkeypatch):
    made = []

    def open_lane(_device, *, is_timed):
        assert not is_timed, "nobody asks for the times"
        made.append(LateLane())
        return made[-1]

    monkeypatch.setattr(parking, "open_lane", open_lane)
    return made


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("levels", "bands"), [(1, 1), (2, 1), (2, 3), (3, 2)])
def test_late_copies_change_nothing(form, levels, bands):
    vae, draw = FORMS[form], torch.Generator().manual_seed(0)
    banding = Banding(levels=levels, bands=bands, parks=True)
    space = vae.config.compression.space
    latent = torch.randn(1, 8, 4, 5, 3, generator=draw)
    pixels = torch.rand(1, 3, 13, 5 * space, 3 * space, generator=draw) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(vae.decode(latent, banding=banding), vae.decode(latent))
        assert torch.equal(vae.encode(pixels, banding=banding), vae.encode(pixels))


def test_without_its_marks_the_comparison_would_see_it(late, monkeypatch):
    monkeypatch.setattr(LateLane, "hold_work", lambda *_: None)
    vae, latent = FORMS["wan2.2"], torch.randn(1, 8, 3, 5, 3)
    with torch.inference_mode():
        made = vae.decode(latent, banding=Banding(levels=2, bands=1, parks=True), clamp=False)
    assert late
    assert made.isnan().any()


def test_the_next_tail_is_on_its_way_and_no_other(late):
    vae, cache = FORMS["wan2.2"], TailCache()
    banding, latent = Banding(levels=2, bands=2, parks=True), torch.randn(1, 8, 1, 5, 3)
    with torch.inference_mode():
        for _ in range(2):
            vae.decode_chunk(latent, cache=cache, banding=banding)
        inward, outward = late
        tails = len(cache._parking._berths)
        assert tails > 10
        assert inward.done == tails
        assert len(inward.waiting) == 1, "the first of the next chunk"
        assert len(outward.waiting) == 1, "the last that was made"
        vae.decode_chunk(latent, cache=cache, banding=banding)
    assert inward.done == 2 * tails


def test_copies_end_before_their_memory_goes(late):
    """A run may be broken off in the middle of anything."""
    cache = TailCache()
    with torch.inference_mode():
        FORMS["wan2.2"].decode_chunk(
            torch.randn(1, 8, 1, 5, 3), cache=cache, banding=Banding(levels=2, bands=1, parks=True)
        )
    assert [lane.finished for lane in late] == [0, 0]
    del cache
    gc.collect()
    assert [lane.finished for lane in late] == [1, 1]
    assert [lane.waiting for lane in late] == [[], []]


def test_tails_out_of_turn_are_the_right_ones(late):
    kept = parking.Parking()
    tails = {name: torch.full((2,), float(ord(name))) for name in "abc"}
    for name, tail in tails.items():
        kept.keep(name, tail.clone())
    for name in "bacba":
        assert torch.equal(kept.take(name, torch.device("cpu")), tails[name])
        kept.keep(name, tails[name].clone())
    twin = kept.clone()
    kept.keep("a", torch.zeros(2))
    assert torch.equal(twin.take("a", torch.device("cpu")), tails["a"])
    assert torch.equal(kept.take("a", torch.device("cpu")), torch.zeros(2))
    assert late


def test_what_is_locked_shares_no_page():
    card = torch.device("cuda")
    pieces = [lockable(size, card) for size in (1, 4096, 5000, 12288)]
    for piece, pages in zip(pieces, (1, 1, 2, 3), strict=True):
        assert piece.data_ptr() % 4096 == 0
        assert piece.nbytes == 4096 * pages
    assert lockable(5000, torch.device("cpu")).nbytes == 5000


def test_no_more_is_locked_than_may_be_and_nothing_after_a_refusal(monkeypatch):
    locked, refuses = [], False

    class Pinning(lanes.DirectLane):
        def pin(self, slab):
            locked.append(slab.nbytes)
            return not refuses

    monkeypatch.setattr(parking, "open_lane", lambda *_, **__: Pinning())
    monkeypatch.setattr(parking, "most_locked", lambda: 250)
    for expected in ([100, 100, 40], [100]):
        kept = parking.Parking()
        for name, size in enumerate((25, 25, 25, 10)):
            kept.keep(name, torch.zeros(size))
        assert locked == expected
        locked.clear()
        refuses = True
