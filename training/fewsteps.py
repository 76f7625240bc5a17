"""Training for few steps: a DiT learns from the very latents that its own sampling meets.

Plain flow matching teaches a model what is true of noised *data*; four long Euler steps then
visit places that it was never taught. So most training steps go from pure noise to one of the four
levels with the model as it is, in one stride and without gradients, and ask it there for the clean
latent; a fourth of them ask at pure noise itself. One stride is enough, because the reference
(Stage II) or the move's name (Stage I) leaves little to chance: estimates from noise and from later
levels are near each other. The rest is plain flow matching over all noise levels, so that other
step counts work too.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch

from swift_core.flow.sigmas import make_sigmas, shift_sigma
from swift_core.flow.solvers import Velocity, step_euler
from swift_core.shapes import Float, Tensor

from .chance import choose, happens, uniform, whole
from .sizes import FEW_STEPS

STRODE = 0.85
"""Share of training steps that begin at pure noise."""

SHIFTS = (3.0, 5.0)
"""Warps of the schedule that the model is to stand."""


def clean_estimate(
    velocity: Velocity,
    clean: Float[Tensor, "b c t h w"],
    noise: Float[Tensor, "b c t h w"],
    draw: torch.Generator,
) -> tuple[Float[Tensor, "b c t h w"], float]:
    """Ask for the clean latent at a place drawn at random.

    Returns:
        The estimate, with gradients, and the noise level it was asked at.
    """
    if happens(draw, STRODE):
        sigmas = make_sigmas(FEW_STEPS.steps, sigma_shift=choose(draw, SHIFTS))
        sigma = sigmas[whole(draw, 0, FEW_STEPS.steps)]
        latent = walk(velocity, noise, (1.0, sigma)) if sigma < 1 else noise
    else:
        sigma = shift_sigma(uniform(draw, 0.02, 1.0), sigma_shift=choose(draw, SHIFTS))
        latent = (1 - sigma) * clean + sigma * noise
    return latent - sigma * velocity(latent, sigma), sigma


@torch.no_grad()
def walk(
    velocity: Velocity, latent: Float[Tensor, "b c t h w"], sigmas: Sequence[float]
) -> Float[Tensor, "b c t h w"]:
    """Take Euler steps along the given noise levels."""
    for sigma, sigma_next in pairwise(sigmas):
        direction = velocity(latent, sigma).float()
        latent = step_euler(latent, direction, sigma=sigma, sigma_next=sigma_next)
    return latent


def latent_loss(
    estimate: Float[Tensor, "b c t h w"],
    clean: Float[Tensor, "b c t h w"],
    weights: Float[Tensor, "c 1 1 1"],
) -> Float[Tensor, ""]:
    """Compare latents, channels weighted by what they mean to pixels."""
    error = estimate.float() - clean
    return (weights * error.square()).mean()
