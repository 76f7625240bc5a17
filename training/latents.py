"""What the DiTs need to know of the finished VAE's latents."""

import torch

from swift_core.geometry import PixelShape
from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE

from .data import VARIED, ClipMaker
from .vae import to_model

WEIGHT_BATCHES = 4


@torch.no_grad()
def channel_weights(vae: WanVAE, clips: ClipMaker, shape: PixelShape) -> Float[Tensor, "c 1 1 1"]:
    """Weigh latent channels by how much noise the VAE itself allows them.

    Where a channel matters to the picture, the VAE learned a small posterior deviation. Channels
    are weighed by their deviation over that one: half way, in powers, between all alike and an
    error in pixels.
    """
    ratios: list[Tensor] = []
    for index in range(WEIGHT_BATCHES):
        pixels = clips.make(10**8 + index, count=2, shape=shape, style=VARIED).pixels
        _, log_var = vae.encode_moments(to_model(pixels))
        sigma = (0.5 * log_var.float()).exp().mean((0, 2, 3, 4))
        ratios.append(torch.tensor(vae.config.latent_std, device=sigma.device) / sigma)
    weights = torch.stack(ratios).mean(0)
    return (weights / weights.mean())[:, None, None, None]


@torch.no_grad()
def shown_picture(vae: WanVAE, pixels: Float[Tensor, "b 3 p h w"]) -> Float[Tensor, "b c t i j"]:
    """Encode frame 0 followed by middle grey: what Stage I is shown of a clip."""
    shown = torch.zeros_like(pixels)
    shown[:, :, :1] = pixels[:, :, :1]
    return vae.encode(shown)
