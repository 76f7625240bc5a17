"""References for Stage II's training: the paper's stage transition.

A reference is the truth, made small, put through Stage I, and made large again: noised there and
lightly denoised, so that it shows what moves as the truth does and carries Stage I's own
artefacts. Frame 0 is the picture itself, and all is encoded: exactly what sampling will bring.

Source: SwiftI2V, arXiv 2605.06356, stage transition training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from swift_core.geometry import MOTION_SCALE
from swift_core.media.pictures import fit_clip
from swift_core.shapes import Float, Tensor
from swift_core.stages.reference import enlarging
from swift_core.vae.autoencoder import WanVAE

from .chance import happens, uniform
from .latents import shown_picture
from .motion import Stage1
from .moves import Move
from .sizes import CARRY
from .vae import to_clips, to_model

THROUGH_STAGE1 = 0.6
"""Share of batches whose reference went through Stage I; the others are only small and large."""

NOISE_RANGE = (0.05, 0.6)
"""From how much noise Stage I lightly denoises."""


@dataclass(frozen=True, kw_only=True)
class DetailBatch:
    """Clips as Stage II meets them.

    Attributes:
        clean: latents of the true clips.
        reference: latents of the hybrid references.
        moves: what the camera does.
    """

    clean: Float[Tensor, "b c t h w"]
    reference: Float[Tensor, "b c t h w"]
    moves: tuple[Move, ...]


def shrink(clips: Float[Tensor, "b p h w 3"]) -> Float[Tensor, "b p i j 3"]:
    """Bring clips to the motion clip's size, as the pipeline resizes."""
    height, width = clips.shape[2:4]
    small = {"height": height // MOTION_SCALE, "width": width // MOTION_SCALE}
    return torch.stack([fit_clip(clip, **small) for clip in clips])


@torch.no_grad()
def through_stage1(
    small: Float[Tensor, "b p h w 3"],
    moves: Sequence[Move],
    stage: Stage1,
    draw: torch.Generator,
) -> Float[Tensor, "b p h w 3"]:
    """Noise a small clip and denoise it in one stride."""
    pixels = to_model(small)
    latent = stage.vae.encode(pixels).float()
    sigma = uniform(draw, *NOISE_RANGE)
    noise = torch.randn(latent.shape, generator=draw).to(latent.device)
    velocity = stage.velocity(shown_picture(stage.vae, pixels).float(), stage.read(moves, draw))
    noised = (1 - sigma) * latent + sigma * noise
    return to_clips(stage.vae.decode(noised - sigma * velocity(noised, sigma).float()))


@torch.no_grad()
def hybrid_reference(
    clips: Float[Tensor, "b p h w 3"], small: Float[Tensor, "b p i j 3"], *, carry: float = CARRY
) -> Float[Tensor, "b p h w 3"]:
    """Make small clips large, with the picture in the place of frame 0 and its detail after it."""
    large = [
        torch.cat((true[:1], enlarging(true[0], carry)(given[1:])))
        for true, given in zip(clips, small, strict=True)
    ]
    return torch.stack(large)


@torch.no_grad()
def encode_batch(
    clips: Float[Tensor, "b p h w 3"],
    small: Float[Tensor, "b p i j 3"],
    moves: tuple[Move, ...],
    vae: WanVAE,
) -> DetailBatch:
    """Encode clips, and the references that small clips make."""
    return DetailBatch(
        clean=vae.encode(to_model(clips)).float(),
        reference=vae.encode(to_model(hybrid_reference(clips, small))).float(),
        moves=moves,
    )


@torch.no_grad()
def make_batch(
    clips: Float[Tensor, "b p h w 3"],
    moves: tuple[Move, ...],
    stage: Stage1 | None,
    vae: WanVAE,
    draw: torch.Generator,
) -> DetailBatch:
    """Encode clips and references, some of which go through Stage I, if there is one."""
    small = shrink(clips)
    if stage is not None and happens(draw, THROUGH_STAGE1):
        small = through_stage1(small, moves, stage, draw)
    return encode_batch(clips, small, moves, vae)
