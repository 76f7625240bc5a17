"""Latents to train DiTs on: made by the finished VAE as needed, kept for a while, replaced in turn.

The pool holds a window of batches that moves on as training does. A batch is made when it is first
drawn, and what it holds depends on its number alone; so a resumed run makes the same ones again.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from swift_core.geometry import PixelShape
from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE

from .chance import generator, whole
from .data import VARIED, ClipMaker
from .sizes import Diet
from .vae import to_model

Batch = TypeVar("Batch")

WEIGHT_BATCHES = 4


class Pool(Generic[Batch]):
    """Keep a moving window of batches.

    Args:
        make: a batch from its number.
        diet: how many to keep, and how long.
        device: where batches are made.
    """

    def __init__(
        self, make: Callable[[int], Batch], diet: Diet, *, seed: int, device: torch.device
    ) -> None:
        self._make = make
        self._diet = diet
        self._seed = seed
        self._device = device
        self._held: dict[int, Batch] = {}

    def draw(self, step: int) -> tuple[int, Batch]:
        """Give the batch for a training step, and its number."""
        oldest = step // self._diet.refresh
        index = oldest + whole(generator(self._seed, 2, step), 0, self._diet.pool)
        for number in [number for number in self._held if number < oldest]:
            del self._held[number]
        if index not in self._held:
            # What is learned from is not rounded, whatever the step's arithmetic is.
            with torch.autocast(self._device.type, enabled=False), torch.no_grad():
                self._held[index] = self._make(index)
        return index, self._held[index]


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
