from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swift_core.errors import ScheduleError
from swift_core.flow.noise import ClipNoise
from swift_core.flow.recipe import SolverName
from swift_core.flow.sigmas import make_sigmas
from swift_core.flow.solvers import sample
from swift_core.geometry import LatentShape

steps = st.integers(1, 60)
shifts = st.floats(0.1, 30)


@given(steps, shifts)
def test_sigmas_fall_from_exactly_1_to_exactly_0(steps, shift):
    sigmas = make_sigmas(steps, sigma_shift=shift)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0
    assert all(after < before for before, after in pairwise(sigmas))


@given(steps, shifts, st.floats(0.01, 1))
def test_a_later_start_is_exact_too(steps, shift, start):
    sigmas = make_sigmas(steps, sigma_shift=shift, start=start)
    assert (sigmas[0], sigmas[-1]) == (start, 0.0)
    assert all(after < before for before, after in pairwise(sigmas))


def test_the_four_steps_the_distillations_were_made_for():
    timesteps = [1000 * sigma for sigma in make_sigmas(4, sigma_shift=5.0)[:-1]]
    assert timesteps == pytest.approx([1000, 937.5, 2500 / 3, 625], rel=1e-15)
    assert timesteps[0] == 1000


@given(
    st.sampled_from(SolverName),
    st.integers(1, 12),
    st.floats(0.5, 12),
    st.integers(0, 2**64 - 1),
)
def test_a_straight_flow_is_solved_exactly(solver, steps, shift, seed):
    """With one clean picture the velocity is (latent - clean) / sigma: all solvers find it."""
    shape = LatentShape(channels=2, latent_frames=2, height=2, width=2)
    noise = ClipNoise(seed=seed, shape=shape)
    clean = torch.linspace(-1, 1, 16).reshape(1, 2, 2, 2, 2)
    out = sample(
        solver,
        lambda latent, sigma: (latent - clean) / sigma,
        noise.start(range(2)),
        make_sigmas(steps, sigma_shift=shift),
        fresh_noise=lambda step: noise.fresh(range(2), step=step),
        on_step=lambda *_: None,
    )
    torch.testing.assert_close(out, clean, atol=2e-5, rtol=0)


@given(st.integers(0, 2**64 - 1), st.integers(1, 6))
def test_noise_of_a_frame_does_not_depend_on_the_segment(seed, step):
    shape = LatentShape(channels=3, latent_frames=5, height=2, width=3)
    noise = ClipNoise(seed=seed, shape=shape)
    whole = noise.start(range(5)), noise.fresh(range(5), step=step)
    for frames in ([1, 2], [4], [0, 3]):
        assert torch.equal(noise.start(frames), whole[0][:, :, frames])
        assert torch.equal(noise.fresh(frames, step=step), whole[1][:, :, frames])
    assert not torch.equal(noise.fresh([1], step=step), noise.fresh([1], step=step + 1))
    assert not torch.equal(noise.fresh([1], step=step), noise.fresh([2], step=step))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0, "sigma_shift": 5.0}, "steps is 0; at least 1"),
        ({"steps": 4, "sigma_shift": 0.0}, "sigma_shift is 0; it must be between"),
        ({"steps": 4, "sigma_shift": float("nan")}, "sigma_shift is nan"),
        ({"steps": 4, "sigma_shift": 5.0, "start": 0.0}, "first noise level is 0"),
        ({"steps": 4, "sigma_shift": 5.0, "start": 1.1}, "first noise level is 1.1"),
        ({"steps": 4, "sigma_shift": 1e300}, "sigma_shift is 1e\\+300; .* between 0.001 and 1000"),
    ],
)
def test_impossible_schedules(arguments, message):
    with pytest.raises(ScheduleError, match=message):
        make_sigmas(arguments.pop("steps"), **arguments)
