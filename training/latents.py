"""What the DiTs need to know of the finished VAE's latents."""

import torch

from swift_core.geometry import PixelShape
from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE

from .data import VARIED, ClipMaker
from .vae import to_model

NUDGED = PixelShape(pixel_frames=9, height=64, width=64)
NUDGE = 0.1
"""By how much a latent channel is changed to see what it does to pixels."""

EVENNESS = 0.05
"""Share of the mean weight that every channel gets at least."""


@torch.no_grad()
def channel_weights(vae: WanVAE, clips: ClipMaker) -> Float[Tensor, "c 1 1 1"]:
    """Weigh latent channels by what an error in them does to pixels, in squares.

    The channels are nudged one at a time: the mean change of the decoded pixels is the weight.
    """
    pixels = clips.make(10**8, count=1, shape=NUDGED, style=VARIED).pixels
    latent = vae.encode(to_model(pixels))
    still = vae.decode(latent, clamp=False)
    changes: list[Tensor] = []
    for channel in range(latent.shape[1]):
        nudged = latent.clone()
        nudged[:, channel] += NUDGE
        changes.append((vae.decode(nudged, clamp=False) - still).square().mean())
    weights = torch.stack(changes) / torch.stack(changes).mean()
    return ((1 - EVENNESS) * weights + EVENNESS)[:, None, None, None]


@torch.no_grad()
def shown_picture(vae: WanVAE, pixels: Float[Tensor, "b 3 p h w"]) -> Float[Tensor, "b c t i j"]:
    """Encode frame 0 followed by middle grey: what Stage I is shown of a clip."""
    shown = torch.zeros_like(pixels)
    shown[:, :, :1] = pixels[:, :, :1]
    return vae.encode(shown)
