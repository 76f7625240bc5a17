"""Solvers: walk a latent down a schedule, given its velocity.

A solver is a pure function of the velocity, the latent and the schedule. The latent stays fp32
between steps. The velocity is ``noise - clean``, so the clean estimate at a level is
``latent - sigma * velocity``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..errors import ScheduleError
from ..shapes import Float, Tensor
from .recipe import SolverName

Velocity = Callable[[Tensor, float], Tensor]
"""``(latent, sigma) -> velocity``, same shape."""

FreshNoise = Callable[[int], Tensor]
"""``step -> noise`` of the latent's shape; ``step`` counts from 1."""

OnStep = Callable[[int, Tensor], None]
"""``(step, clean estimate)``, called after each step; ``step`` counts from 1. It may raise."""

ALMOST_ONE = 1 - 1e-6
"""UniPC works in log(1 - sigma), which has no value at 1 (diffusers clips there as well)."""


def step_euler(
    latent: Float[Tensor, "b c t h w"],
    velocity: Float[Tensor, "b c t h w"],
    *,
    sigma: float,
    sigma_next: float,
) -> Float[Tensor, "b c t h w"]:
    """Advance the latent one Euler step along the flow.

    The flow is ``d latent / d sigma = velocity``, so the step is exact for a straight path.

    Args:
        sigma: noise level of ``latent``, in (0, 1].
        sigma_next: level to reach; 0 ends the sampling.

    Raises:
        ScheduleError: if ``sigma_next`` is not below ``sigma``.

    Source: rectified flow, arXiv 2209.03003. Oracle: tests/oracle/test_solvers.py.
    """
    if not sigma_next < sigma:
        raise ScheduleError(f"a step from sigma {sigma:g} to {sigma_next:g} does not go down.")
    return latent + (sigma_next - sigma) * velocity


def sample_euler(
    velocity: Velocity,
    latent: Float[Tensor, "b c t h w"],
    sigmas: Sequence[float],
    *,
    on_step: OnStep,
) -> Float[Tensor, "b c t h w"]:
    """Follow the velocity in straight steps."""
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
        direction = velocity(latent, sigma)
        clean = latent - sigma * direction
        latent = step_euler(latent, direction, sigma=sigma, sigma_next=sigma_next)
        on_step(step, clean)
    return latent


def sample_renoise(
    velocity: Velocity,
    latent: Float[Tensor, "b c t h w"],
    sigmas: Sequence[float],
    *,
    on_step: OnStep,
    fresh_noise: FreshNoise,
) -> Float[Tensor, "b c t h w"]:
    """Predict the clean latent, then noise it afresh to the next level.

    Source: the sampling that Wan2.2-TI2V-5B-Turbo was distilled for (Self-Forcing, 2506.08009).
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
        clean = latent - sigma * velocity(latent, sigma)
        latent = clean
        if sigma_next > 0:
            latent = (1 - sigma_next) * clean + sigma_next * fresh_noise(step)
        on_step(step, clean)
    return latent


@dataclass(frozen=True, kw_only=True)
class _UniPCState:
    """What UniPC remembers: the latent it left, where, with what order, and two clean estimates."""

    latent: Tensor
    sigma: float
    order: int
    clean: Tensor
    earlier_clean: Tensor | None = None
    earlier_sigma: float | None = None


def sample_unipc(
    velocity: Velocity,
    latent: Float[Tensor, "b c t h w"],
    sigmas: Sequence[float],
    *,
    on_step: OnStep,
) -> Float[Tensor, "b c t h w"]:
    """Predict with the last two clean estimates, and correct each step with the next estimate.

    Source: UniPC, arXiv 2302.04867, order 2, B2(h), on clean estimates. Oracle:
    diffusers' UniPCMultistepScheduler, tests/oracle/test_solvers.py.
    """
    steps = len(sigmas) - 1
    state: _UniPCState | None = None
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
        clean = latent - sigma * velocity(latent, sigma)
        if state is None:
            state = _UniPCState(latent=latent, sigma=sigma, order=1, clean=clean)
        else:
            latent = _unipc_move(state, sigma, next_clean=clean)
            state = replace(
                state,
                latent=latent,
                sigma=sigma,
                order=min(2, steps - step + 1),
                clean=clean,
                earlier_clean=state.clean,
                earlier_sigma=state.sigma,
            )
        latent = _unipc_move(state, sigma_next)
        on_step(step, clean)
    return latent


def _half_log_snr(sigma: float) -> float:
    if sigma == 0:
        return math.inf
    sigma = min(sigma, ALMOST_ONE)
    return math.log1p(-sigma) - math.log(sigma)


def _unipc_move(state: _UniPCState, sigma: float, *, next_clean: Tensor | None = None) -> Tensor:
    """Move from the state's level to ``sigma``: a prediction, or, knowing the end, a correction."""
    here = _half_log_snr(state.sigma)
    h = _half_log_snr(sigma) - here
    growth = math.expm1(-h)
    alpha = 1 - sigma
    out = (sigma / min(state.sigma, ALMOST_ONE)) * state.latent - alpha * growth * state.clean

    difference = ratio = None
    if state.order == 2 and state.earlier_clean is not None and state.earlier_sigma is not None:
        ratio = (_half_log_snr(state.earlier_sigma) - here) / h
        difference = (state.earlier_clean - state.clean) / ratio
    if next_clean is None:
        return out if difference is None else out - alpha * growth * 0.5 * difference
    if difference is None or ratio is None:
        return out - alpha * growth * 0.5 * (next_clean - state.clean)
    past, future = _corrector_weights(h, ratio)
    return out - alpha * growth * (past * difference + future * (next_clean - state.clean))


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """Solve the order conditions ``[[1, 1], [ratio, 1]] @ weights = moments`` of B2(h)."""
    growth = math.expm1(-h)
    first = growth / -h - 1
    second = first / -h - 0.5
    moment1, moment2 = first / growth, 2 * second / growth
    past = (moment1 - moment2) / (1 - ratio)
    return past, moment1 - past


def sample(
    solver: SolverName,
    velocity: Velocity,
    latent: Float[Tensor, "b c t h w"],
    sigmas: Sequence[float],
    *,
    fresh_noise: FreshNoise,
    on_step: OnStep,
) -> Float[Tensor, "b c t h w"]:
    """Walk the latent down the schedule with the named solver.

    Args:
        velocity: the model.
        latent: at noise level ``sigmas[0]``, fp32.
        sigmas: from ``make_sigmas``.
        fresh_noise: asked by ``renoise`` only.
        on_step: told of every step; what it raises passes through.
    """
    if solver is SolverName.RENOISE:
        return sample_renoise(velocity, latent, sigmas, on_step=on_step, fresh_noise=fresh_noise)
    if solver is SolverName.UNIPC:
        return sample_unipc(velocity, latent, sigmas, on_step=on_step)
    return sample_euler(velocity, latent, sigmas, on_step=on_step)
