"""The CSG sampler beside the simplest thing it must equal."""

from dataclasses import replace

import pytest
import torch

from swift_core.flow.noise import ClipNoise
from swift_core.flow.recipe import SolverName
from swift_core.flow.sigmas import make_sigmas
from swift_core.flow.solvers import sample_euler
from swift_core.geometry import LatentShape
from swift_core.segments.denoiser import GuidedDenoiser
from swift_core.segments.dit_denoiser import DiTDenoiser
from swift_core.segments.plan import (
    Interaction,
    RopePositions,
    SegmentSettings,
    plan_segments,
)
from swift_core.segments.sampler import SegmentSampling, sample_segments
from tests.models import small_dit

CLOSE = {"atol": 1e-5, "rtol": 0}
SHAPE = LatentShape(channels=8, latent_frames=8, height=4, width=6)
SAMPLING = SegmentSampling(sigmas=make_sigmas(3, sigma_shift=5.0), solver=SolverName.EULER, seed=7)


def draw(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def reference():
    return draw(1, 8, 8, 4, 6, seed=3)


@pytest.fixture(params=[8, 16], ids=["latent alone", "reference concatenated"])
def denoiser(request):
    dit = small_dit(in_channels=request.param)
    return DiTDenoiser(dit=dit, prompt=dit.read_prompt(draw(1, 5, 16)), compute=torch.float32)


def plan(latent_frames=8, **settings):
    return plan_segments(latent_frames, SegmentSettings(**settings))


def channels(denoiser, latent, reference):
    return torch.cat((latent, reference), dim=1) if denoiser.concatenates_reference else latent


def test_one_segment_is_plain_sampling(denoiser, reference):
    segmented = sample_segments(denoiser, reference, plan(segment_length=7), SAMPLING)

    def velocity(targets, sigma):
        latent = torch.cat((reference[:, :, :1], targets), dim=2)
        timestep = torch.full((1, 8), 1000 * sigma)
        timestep[:, 0] = 0
        shown = channels(denoiser, latent, reference)
        out = denoiser.dit(shown, timestep, denoiser.prompt, positions=range(8))
        return out[:, :, 1:]

    noise = ClipNoise(seed=7, shape=SHAPE).start(range(1, 8))
    plain = sample_euler(velocity, noise, SAMPLING.sigmas, on_step=lambda *_: None)
    assert torch.equal(segmented[:, :, :1], reference[:, :, :1])
    assert torch.equal(segmented[:, :, 1:], plain)


def test_segments_by_hand(denoiser, reference):
    """Write-back: the second segment sees what the first one made, not the reference."""
    made = sample_segments(denoiser, reference, plan(), SAMPLING)
    noise = ClipNoise(seed=7, shape=SHAPE)
    latent = reference.clone()
    for frames, targets in (
        ([0, 1, 2, 3], [1, 2, 3]),
        ([0, 3, 4, 5, 6], [4, 5, 6]),
        ([0, 4, 5, 6, 7], [7]),
    ):
        seen = latent[:, :, frames]
        where = [frames.index(target) for target in targets]
        inside = noise.start(targets)
        for sigma, sigma_next in zip(SAMPLING.sigmas, SAMPLING.sigmas[1:], strict=False):
            shown = seen.clone()
            shown[:, :, where] = inside
            timestep = torch.zeros(1, len(frames))
            timestep[:, where] = 1000 * sigma
            velocity = denoiser.dit(
                channels(denoiser, shown, seen), timestep, denoiser.prompt, positions=frames
            )[:, :, where]
            inside = inside + (sigma_next - sigma) * velocity
        latent[:, :, targets] = inside
    torch.testing.assert_close(made, latent, **CLOSE)


def test_right_neighbors_are_the_unrefined_reference(denoiser, reference):
    with_right = plan(segment_length=3, neighbors=0, right_neighbors=1)
    made = sample_segments(denoiser, reference, with_right, SAMPLING)
    other = reference.clone()
    other[:, :, 4] += 1  # the first segment's right neighbor
    changed = sample_segments(denoiser, other, with_right, SAMPLING)
    assert not torch.equal(made[:, :, 1:4], changed[:, :, 1:4])
    later = reference.clone()
    later[:, :, 5] += 1  # nobody's neighbor when frames 1-3 are sampled
    same = sample_segments(denoiser, later, with_right, SAMPLING)
    assert torch.equal(made[:, :, 1:4], same[:, :, 1:4])


def test_read_only_is_bidirectional_under_a_mask(denoiser, reference):
    """The sampler's cached read-only path against the whole segment with masked conditions."""
    read_only = replace(plan(), settings=SegmentSettings(interaction=Interaction.READ_ONLY))
    made = sample_segments(denoiser, reference, read_only, SAMPLING)

    class Masked:
        concatenates_reference = denoiser.concatenates_reference

        def open(self, context):
            where = context.segment.target_slice
            count = len(context.segment.latent_frames)
            is_target = torch.zeros(count, dtype=torch.bool)
            is_target[where] = True
            visible = is_target[:, None] | ~is_target[None, :]

            def velocity(targets, sigma):
                latent = context.reference.clone()
                latent[:, :, where] = targets
                timestep = torch.where(is_target, 1000 * sigma, 0.0)[None]
                return denoiser.dit(
                    channels(denoiser, latent, context.reference),
                    timestep,
                    denoiser.prompt,
                    positions=context.segment.positions,
                    visible=visible,
                )[:, :, where]

            return velocity

    slow = sample_segments(Masked(), reference, plan(), SAMPLING)
    torch.testing.assert_close(made, slow, **CLOSE)
    both_ways = sample_segments(denoiser, reference, plan(), SAMPLING)
    assert (made - both_ways).abs().max() > 100 * CLOSE["atol"]


def test_local_and_global_positions_differ_only_after_the_first_segment(denoiser, reference):
    made = sample_segments(denoiser, reference, plan(), SAMPLING)
    local = sample_segments(denoiser, reference, plan(rope=RopePositions.LOCAL), SAMPLING)
    assert torch.equal(made[:, :, :4], local[:, :, :4])
    assert not torch.allclose(made[:, :, 4:], local[:, :, 4:], atol=1e-4)


def test_a_seed_of_its_own_rerolls_a_segment_and_what_follows(denoiser, reference):
    made = sample_segments(denoiser, reference, plan(), SAMPLING)
    rerolled = sample_segments(
        denoiser, reference, plan(), replace(SAMPLING, segment_seeds={1: 99})
    )
    assert torch.equal(made[:, :, :4], rerolled[:, :, :4])
    assert not torch.equal(made[:, :, 4:7], rerolled[:, :, 4:7])
    same = sample_segments(denoiser, reference, plan(), replace(SAMPLING, segment_seeds={1: 7}))
    assert torch.equal(made, same)


@pytest.mark.parametrize("solver", list(SolverName))
def test_guidance_of_1_is_one_prompt_and_of_0_the_other(denoiser, reference, solver):
    other = replace(denoiser, prompt=denoiser.dit.read_prompt(draw(1, 5, 16, seed=5)))
    sampling = replace(SAMPLING, solver=solver)
    run = {
        cfg: sample_segments(
            GuidedDenoiser(conditional=denoiser, unconditional=other, cfg=cfg),
            reference,
            plan(),
            sampling,
        )
        for cfg in (0.0, 1.0, 3.0)
    }
    alone = sample_segments(denoiser, reference, plan(), sampling)
    torch.testing.assert_close(run[1.0], alone, **CLOSE)
    alone = sample_segments(other, reference, plan(), sampling)
    torch.testing.assert_close(run[0.0], alone, **CLOSE)
    assert not torch.allclose(run[3.0], run[1.0], atol=1e-3)


def test_a_batch_of_two_is_two_singles(denoiser, reference):
    two = torch.cat((reference, draw(1, 8, 8, 4, 6, seed=11)))
    prompt = denoiser.dit.read_prompt(draw(1, 5, 16).expand(2, -1, -1))
    both = sample_segments(replace(denoiser, prompt=prompt), two, plan(), SAMPLING)
    for i in range(2):
        alone = sample_segments(denoiser, two[i : i + 1], plan(), SAMPLING)
        torch.testing.assert_close(both[i : i + 1], alone, **CLOSE)
