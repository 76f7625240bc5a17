"""Our solvers against diffusers' schedulers, on the schedulers' own noise levels."""

import pytest
import torch

from swift_core.flow.recipe import SolverName
from swift_core.flow.sigmas import make_sigmas
from swift_core.flow.solvers import sample

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.oracle


def velocity(latent, sigma):
    """A smooth nonlinear stand-in for a model."""
    return torch.tanh(latent * (0.5 + sigma)) + 0.3 * torch.sin(3 * latent)


def run_scheduler(scheduler, latent):
    for timestep in scheduler.timesteps:
        direction = velocity(latent, float(timestep) / 1000)
        latent = scheduler.step(direction, timestep, latent, return_dict=False)[0]
    return latent


def start(seed=0):
    return torch.randn(1, 4, 3, 5, 6, generator=torch.Generator().manual_seed(seed))


def no_noise(_step):
    raise AssertionError("only re-noise may ask for noise")


def solve(solver, sigmas):
    return sample(solver, velocity, start(), sigmas, fresh_noise=no_noise, on_step=lambda *_: None)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_euler_is_diffusers_euler(steps):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    sigmas = make_sigmas(steps, sigma_shift=5.0)
    # The scheduler shifts what it is given; 1/5 undoes that so both walk the same levels.
    scheduler.set_shift(1.0)
    scheduler.set_timesteps(sigmas=list(sigmas[:-1]))
    expected = run_scheduler(scheduler, start())
    # fp32 on both sides, the schedules differ by float32 rounding of sigma (6e-8) per step.
    torch.testing.assert_close(solve(SolverName.EULER, sigmas), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20])
def test_unipc_is_diffusers_unipc(steps):
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    scheduler.set_timesteps(steps)
    sigmas = tuple(scheduler.sigmas.double().tolist())
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000  # theirs are cut to whole numbers
    expected = run_scheduler(scheduler, start())
    # fp32; UniPC divides differences of estimates by small steps, which magnifies rounding.
    torch.testing.assert_close(solve(SolverName.UNIPC, sigmas), expected, atol=5e-5, rtol=0)


def test_unipc_from_pure_noise_is_the_limit_of_starting_just_below():
    exact = solve(SolverName.UNIPC, make_sigmas(6, sigma_shift=5.0))
    below = solve(SolverName.UNIPC, (1 - 1e-6, *make_sigmas(6, sigma_shift=5.0)[1:]))
    torch.testing.assert_close(exact, below, atol=1e-4, rtol=0)
