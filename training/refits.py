"""Least squares through whole DiTs: both stages learn to use what their branches hold.

Each clip is asked about once, at one of the four levels that sampling visits, by the same stride
that training takes (see ``fewsteps``).
"""

import torch

from swift_core.flow.sigmas import make_sigmas
from swift_core.flow.solvers import Velocity
from swift_core.geometry import PixelShape
from swift_core.model.dit import WanDiT
from swift_core.model.patches import fold_patches
from swift_core.segments.denoiser import SegmentContext
from swift_core.segments.dit_denoiser import DiTDenoiser
from swift_core.segments.plan import Interaction
from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE

from .chance import generator
from .data import STEADY, ClipMaker
from .detail import draw_segment, gather_context
from .fewsteps import walk
from .latents import shown_picture
from .motion import Stage1
from .references import encode_batch, shrink
from .refit import Refit
from .sizes import FEW_STEPS, Diet
from .vae import to_model
from .wiener import NATURAL_PARTS

COPY_RIDGE = 1e-4
DETAIL_RIDGE = 10.0
"""Prices of the two fits: what heads fetched is plain; what a patch only hints at would be learned
by heart from a hundred clips."""

STAGE1_CLIPS = 4 * 10**8
DETAIL_CLIPS = 6 * 10**8
"""Numbers of the first clips: others than training's own."""


@torch.no_grad()
def error_at(
    velocity: Velocity,
    clean: Float[Tensor, "b c t h w"],
    noise: Float[Tensor, "b c t h w"],
    level: int,
    refit: Refit,
) -> Float[Tensor, "b c t h w"]:
    """Give the error of the clean estimate at a level of the schedule, reached in one stride."""
    sigma = make_sigmas(FEW_STEPS.steps, sigma_shift=FEW_STEPS.sigma_shift)[level]
    latent = walk(velocity, noise, (1.0, sigma)) if sigma < 1 else noise
    with refit.listening():
        return latent - sigma * velocity(latent, sigma) - clean


def token_errors(error: Float[Tensor, "b c t h w"], dit: WanDiT) -> Float[Tensor, "b t s features"]:
    """Cut errors into tokens, features in the head's order."""
    patch = dit.config.patch
    folded = fold_patches(error, patch)
    return folded.unflatten(-1, (error.shape[1], patch.height * patch.width)).mT.flatten(-2)


@torch.no_grad()
def refit_stage1(stage: Stage1, clips: ClipMaker, diet: Diet, *, count: int) -> float:
    """Correct copies by what is really fetched.

    Returns:
        The share of the squared error that is left.
    """
    dit = stage.dit
    names = [f"blocks.{b}.self_attn.o" for b in range(1, len(dit.blocks))]
    refit = Refit(dit, names, answer=dit.config.out_channels)
    for index in range(count):
        draw = generator(clips.seed, 9, index)
        shape = diet.shape(index)
        made = clips.make(STAGE1_CLIPS + index, count=1, shape=shape, style=STEADY)
        pixels = to_model(made.pixels)
        clean = stage.vae.encode(pixels).float()
        given = shown_picture(stage.vae, pixels).float()
        velocity = stage.velocity(given, stage.read(made.moves, draw))
        noise = torch.randn(clean.shape, generator=draw).to(clean.device)
        error = error_at(velocity, clean, noise, index % FEW_STEPS.steps, refit)
        refit.add(token_errors(error, dit)[:, 1:], slice(1, None))
    return refit.solve(ridge=COPY_RIDGE)


@torch.no_grad()
def refit_detail(
    dit: WanDiT, vae: WanVAE, clips: ClipMaker, shape: PixelShape, *, count: int
) -> float:
    """Use what the first DiT block sees of clean frames and around, and what it bends.

    Only the first: what a later one reads would be changed by the very correction of this one.

    Returns:
        The share of the squared error that is left.
    """
    names = ["blocks.0.self_attn.o", "blocks.0.ffn.2"]
    patch = dit.config.patch
    refit = Refit(dit, names, answer=dit.config.out_channels * patch.height * patch.width)
    device = next(dit.parameters()).device
    silence = dit.read_prompt(torch.zeros((1, 0, dit.config.text_dim), device=device))
    denoiser = DiTDenoiser(dit=dit, prompt=silence, compute=torch.float32)
    for index in range(count):
        draw = generator(clips.seed, 10, index)
        made = clips.make(DETAIL_CLIPS + index, count=1, shape=shape, style=NATURAL_PARTS)
        batch = encode_batch(made.pixels, shrink(made.pixels), made.moves, vae)
        segment, _ = draw_segment(draw, batch.clean.shape[2])
        context = SegmentContext(
            segment=segment,
            reference=gather_context(batch, segment, draw),
            interaction=Interaction.BIDIRECTIONAL,
        )
        clean = batch.clean[:, :, list(segment.targets)]
        noise = torch.randn(clean.shape, generator=draw).to(clean.device)
        velocity = denoiser.open(context)
        error = error_at(velocity, clean, noise, index % FEW_STEPS.steps, refit)
        refit.add(token_errors(error, dit), segment.target_slice)
    return refit.solve(ridge=DETAIL_RIDGE)
