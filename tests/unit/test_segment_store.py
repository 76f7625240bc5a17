"""Finished segments on disk, and runs that go on with them."""

import os

import pytest
import torch
from safetensors.torch import save_file

from swift_core.flow.recipe import SolverName
from swift_core.segments.plan import SegmentSettings, plan_segments
from swift_core.segments.sampler import Finished, SegmentSampling, sample_segments
from swift_core.weights.segment_store import MOST_TAKES, SegmentStore, forget_old

PLAN = plan_segments(8, SegmentSettings(segment_length=3))
SHAPES = {segment.index: (1, 2, len(segment.targets), 4, 4) for segment in PLAN.segments}


class _Denoiser:
    """Pulls targets towards what the segment sees; counts its segments."""

    def __init__(self, stop_at=None):
        self.opened = []
        self.stop_at = stop_at

    def open(self, context):
        if context.segment.index == self.stop_at:
            raise KeyboardInterrupt
        self.opened.append(context.segment.index)
        seen = context.reference.mean()
        return lambda targets, sigma: targets * sigma - seen


def _run(denoiser, finished=None, segment_seeds=None):
    reference = torch.arange(1 * 2 * 8 * 4 * 4).reshape(1, 2, 8, 4, 4) / 256
    sampling = SegmentSampling(
        sigmas=(1.0, 0.6, 0.0),
        solver=SolverName.RENOISE,
        seed=3,
        segment_seeds=segment_seeds or {},
        finished=finished or Finished(),
    )
    steps = []
    latent = sample_segments(denoiser, reference, PLAN, sampling, observe=steps.append)
    return latent, steps


def test_a_stopped_run_goes_on_and_equals_a_whole_one(tmp_path):
    whole, _ = _run(_Denoiser())
    store = SegmentStore(tmp_path / "run", {})
    with pytest.raises(KeyboardInterrupt):
        _run(_Denoiser(stop_at=2), Finished(keep=store.save))
    rest = _Denoiser()
    found = store.load(SHAPES)
    latent, steps = _run(rest, Finished(targets=found, keep=store.save))
    assert sorted(found) == [0, 1]
    assert rest.opened == [2]
    assert torch.equal(latent, whole)
    assert [(step.segment, step.step) for step in steps] == [(0, 2), (1, 2), (2, 1), (2, 2)]


def _go_on(folder, segment_seeds):
    """Run with what a store has, and give what was sampled, and the clip."""
    store, rest = SegmentStore(folder, segment_seeds), _Denoiser()
    finished = Finished(targets=store.load(SHAPES), keep=store.save)
    latent, _ = _run(rest, finished, segment_seeds)
    return rest.opened, latent


@pytest.mark.parametrize(
    ("before", "after", "sampled"),
    [
        ({}, {1: 77}, [1, 2]),
        ({1: 77}, {}, [1, 2]),
        ({1: 77}, {1: 78}, [1, 2]),
        ({0: 5}, {0: 5, 2: 6}, [2]),
        ({1: 77, 2: 5}, {2: 5}, [1, 2]),
        ({2: 5}, {2: 5}, []),
    ],
)
def test_a_segment_with_a_seed_of_its_own_keeps_those_before_it(tmp_path, before, after, sampled):
    """And is followed by those that see it; what was there before is there again."""
    first, made = _go_on(tmp_path, before)
    again, rolled = _go_on(tmp_path, after)
    assert (first, again) == ([0, 1, 2], sampled)
    assert torch.equal(rolled, _run(_Denoiser(), segment_seeds=after)[0])
    back, latent = _go_on(tmp_path, before)
    assert back == []
    assert torch.equal(latent, made)


def test_not_every_take_is_kept(tmp_path):
    for seed in range(2 * MOST_TAKES):
        store = SegmentStore(tmp_path, {1: seed})
        for index in SHAPES:
            store.save(index, torch.full(SHAPES[index], float(seed)))
        for path in tmp_path.iterdir():  # all a second older
            os.utime(path, (path.stat().st_mtime - 1,) * 2)
    assert len(list(tmp_path.glob("segment-0*"))) == 1
    assert len(list(tmp_path.glob("segment-1*"))) == MOST_TAKES
    assert store.load(SHAPES)[1].unique().tolist() == [2 * MOST_TAKES - 1]
    assert SegmentStore(tmp_path, {1: 0}).load(SHAPES).keys() == {0}


def test_a_take_that_is_used_again_is_not_the_next_to_go(tmp_path):
    for seed in range(MOST_TAKES):
        store = SegmentStore(tmp_path, {1: seed})
        store.save(1, torch.zeros(SHAPES[1]))
        os.utime(store._path(1), (1000 + seed,) * 2)
    first = SegmentStore(tmp_path, {1: 0})
    assert 1 in first.load(SHAPES)
    SegmentStore(tmp_path, {1: 99}).save(1, torch.zeros(SHAPES[1]))
    assert 1 in first.load(SHAPES)
    assert 1 not in SegmentStore(tmp_path, {1: 1}).load(SHAPES)


def test_what_is_broken_or_of_another_shape_is_not_there(tmp_path, caplog):
    (tmp_path / "segment-0.safetensors").write_bytes(b"half a file")
    save_file({"targets": torch.zeros(1, 2, 3, 4, 5)}, tmp_path / "segment-1.safetensors")
    save_file({"other": torch.zeros(1, 2, 1, 4, 4)}, tmp_path / "segment-2.safetensors")
    save_file({"targets": torch.zeros(1, 2, 3, 4, 4)}, tmp_path / "segment-99.safetensors")
    assert SegmentStore(tmp_path, {}).load(SHAPES) == {}
    assert "segment-0.safetensors" in caplog.text


def test_what_was_read_does_not_hold_its_file(tmp_path):
    """Windows lets no file go that is mapped; here one can see whether it is."""
    made = torch.rand(SHAPES[0]) + 1
    store = SegmentStore(tmp_path, {})
    store.save(0, made)
    found = store.load(SHAPES)[0]
    path = tmp_path / "segment-0.safetensors"
    with path.open("r+b") as file:  # in place: not a new file beside the old one
        file.write(bytes(path.stat().st_size))
    assert torch.equal(found, made)


def test_a_place_that_cannot_be_written_costs_no_run(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = SegmentStore(tmp_path / "file" / "run", {})
    store.save(0, torch.zeros(SHAPES[0]))
    assert "segment 0 is not kept" in caplog.text
    assert store.load(SHAPES) == {}


def test_only_the_newest_runs_are_left(tmp_path):
    for age, name in enumerate("dcba"):
        folder = tmp_path / name
        folder.mkdir()
        os.utime(folder, (1000 - age, 1000 - age))
    forget_old(tmp_path, most=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d"]
