"""What the sampler refuses, reports, and leaves behind when it is stopped."""

import gc
from dataclasses import replace

import pytest
import torch

from swift_core.errors import CheckpointError, ScheduleError, SegmentError
from swift_core.flow.recipe import Recipe, SolverName
from swift_core.flow.sigmas import make_sigmas
from swift_core.progress import Phase
from swift_core.segments.dit_denoiser import DiTDenoiser
from swift_core.segments.plan import Interaction, SegmentSettings, plan_segments
from swift_core.segments.sampler import SegmentSampling, sample_segments, start_targets
from tests.models import small_dit

PLAN = plan_segments(6, SegmentSettings(segment_length=2))
SAMPLING = SegmentSampling(sigmas=make_sigmas(2, sigma_shift=5.0), solver=SolverName.UNIPC, seed=1)


class Stopped(BaseException):
    """As ComfyUI's interrupt is by now: no Exception."""


def live_tensors():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.fixture
def denoiser():
    dit = small_dit()
    return DiTDenoiser(
        dit=dit, prompt=dit.read_prompt(torch.zeros(1, 1, 16)), compute=torch.float32
    )


@pytest.fixture
def reference():
    return torch.randn(1, 8, 6, 4, 4, generator=torch.Generator().manual_seed(0))


def test_progress_tells_every_step(denoiser, reference):
    seen = []
    sample_segments(denoiser, reference, PLAN, SAMPLING, observe=seen.append)
    assert [(p.segment, p.step) for p in seen] == [
        (segment, step) for segment in range(3) for step in (1, 2)
    ]
    assert {(p.phase, p.steps, p.segments) for p in seen} == {(Phase.REFINE, 2, 3)}
    assert [p.preview.shape[2] for p in seen] == [2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("interaction", list(Interaction))
@pytest.mark.parametrize("stop_at", range(6))
def test_an_observer_that_raises_leaves_nothing_behind(denoiser, reference, stop_at, interaction):
    """Stopped at every possible step: no hooks, no tensors kept, and the next run is as new."""
    plan = replace(PLAN, settings=replace(PLAN.settings, interaction=interaction))
    fresh = sample_segments(denoiser, reference, plan, SAMPLING)
    before = reference.clone()
    count = [0]

    def observe(_progress):
        if count[0] == stop_at:
            raise Stopped
        count[0] += 1

    gc.collect()
    tensors = live_tensors()
    with pytest.raises(Stopped):
        sample_segments(denoiser, reference, plan, SAMPLING, observe=observe)
    gc.collect()
    assert live_tensors() == tensors
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in denoiser.dit.modules()
    )
    assert torch.equal(reference, before)
    assert torch.equal(sample_segments(denoiser, reference, plan, SAMPLING), fresh)


def test_a_plan_for_another_clip(denoiser, reference):
    with pytest.raises(SegmentError, match="plan is for 6 latent frames, the reference has 5"):
        sample_segments(denoiser, reference[:, :, :5], PLAN, SAMPLING)


def test_a_seed_for_no_segment(denoiser, reference):
    with pytest.raises(
        SegmentError, match=r"segment 3 cannot be re-rolled: the plan has 3 segments, .* 0 to 2"
    ):
        sample_segments(denoiser, reference, PLAN, replace(SAMPLING, segment_seeds={3: 1}))


def test_a_dit_of_another_stage():
    dit = small_dit(in_channels=20)
    with pytest.raises(CheckpointError, match=r"8 input channels or, .* 16; this one takes 20"):
        DiTDenoiser(dit=dit, prompt=dit.read_prompt(torch.zeros(1, 1, 16)), compute=torch.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segment_length": 0}, "segment_length is 0; a segment samples at least 1"),
        ({"neighbors": -1}, "neighbors is -1; it must be 0 or more"),
        ({"right_neighbors": -2}, "right_neighbors is -2; it must be 0 or more"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(SegmentError, match=message):
        SegmentSettings(**settings)


def test_no_clip():
    with pytest.raises(SegmentError, match="0 latent frames"):
        plan_segments(0, SegmentSettings())


def test_no_step():
    with pytest.raises(ScheduleError, match="schedule of 1 noise levels has no step"):
        replace(SAMPLING, sigmas=(1.0,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; at least 1"),
        ({"cfg": -1.0}, "cfg is -1; it must be 0 or more"),
        ({"cfg": float("nan")}, "cfg is nan"),
        ({"sigma_shift": 0.0}, "sigma_shift is 0; it must be between"),
    ],
)
def test_impossible_recipes(change, message):
    recipe = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
    with pytest.raises(ScheduleError, match=message):
        replace(recipe, **change)


def test_where_targets_start():
    reference, noise = torch.full((2, 1, 1, 1, 1), 8.0), torch.full((1, 1, 1, 1, 1), 4.0)
    assert start_targets(reference, noise, sigma=1.0).flatten().tolist() == [4.0, 4.0]
    assert start_targets(reference, noise, sigma=0.25).flatten().tolist() == [7.0, 7.0]
