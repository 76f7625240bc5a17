"""The VAE: a causal autoencoder in the Wan2.2 form, computed first and trained on from there.

Its first state is the best linear codec (see ``closed_form``). Training opens the residual
branches, encoder and decoder together, with weights stepped as if their inputs had no mean (see
``centering``): at every moment the codec stays about as good as it was, and becomes better as the
rates fall. Then the latents are final, and the decoder alone goes on. Clips have 13 frames or more,
because the third and fourth chunk are the first to use what the causal caches hold.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from torch import nn

from swift_core.geometry import PixelShape
from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.config import VAEConfig

from .centering import Centering
from .chance import generator
from .data import NATURAL, ClipMaker
from .export import save_half
from .loop import Losses
from .measure import average, luma, psnr
from .moves import SINGLE_MOVES
from .optimizer import Rates
from .pool import Pool
from .sheets import Sheet
from .sizes import Diet

CHROMA_WEIGHT = 0.25
"""Of colour differences: without it hues go first."""

KL_WEIGHT = 3e-5
"""Per latent value, beside a deviation in pixels: holds the latent together, and costs nothing that
could be seen."""

LEAST_SQUARE = 1e-5
"""Added to a clip's mean square error: clips that are perfect already have no steep root."""

LOG_VAR_RANGE = (-12.0, 4.0)
STATISTICS_BATCHES = 12
FIRST_BATCHES = 60
"""Batches of clips from which the first state is computed."""


def to_model(clips: Float[Tensor, "b p h w 3"]) -> Float[Tensor, "b 3 p h w"]:
    """Bring clips in [0, 1] to the VAE's form."""
    return rearrange(clips, "b p h w c -> b c p h w") * 2 - 1


def to_clips(pixels: Float[Tensor, "b 3 p h w"]) -> Float[Tensor, "b p h w 3"]:
    """Bring a VAE's pixels to clips in [0, 1]."""
    return rearrange(pixels.float(), "b c p h w -> b p h w c").add(1).div(2).clamp(0, 1)


class VAETask:
    """Reconstruct clips through a latent with noise."""

    name = "vae"
    rates = Rates(matrix=3e-4, vector=3e-5, momentum=0.9)

    def __init__(self, vae: WanVAE, clips: ClipMaker, diet: Diet) -> None:
        self.vae = vae
        self.clips = clips
        self.diet = diet
        self.pool = Pool(self.make, diet, seed=clips.seed, device=clips.device)
        self.stepping = Centering(vae).step

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Give the VAE."""
        return {"vae": self.vae}

    def make(self, index: int) -> Float[Tensor, "b 3 p h w"]:
        """Make a batch of clips."""
        made = self.clips.make(
            index, count=self.diet.count(index), shape=self.diet.shape(index), style=NATURAL
        )
        return to_model(made.pixels)

    def losses(self, step: int) -> Losses:
        """Compare a batch with its reconstruction, and hold the latent together."""
        _, pixels = self.pool.draw(step)
        mean, log_var = self.vae.encode_moments(pixels)
        log_var = log_var.float().clamp(*LOG_VAR_RANGE)
        noise = torch.randn(mean.shape, generator=generator(self.clips.seed, 1, step))
        raw_latent = mean + (0.5 * log_var).exp() * noise.to(mean.device)
        kl = 0.5 * (mean.float().square() + log_var.exp() - 1 - log_var).mean()
        losses = self.compare(raw_latent.to(mean.dtype), pixels)
        return {
            **losses,
            "loss": losses["loss"] + KL_WEIGHT * kl,
            "kl": kl,
            "sigma": (0.5 * log_var).exp().mean(),
            "spread": mean.float().std(),
        }

    def compare(
        self, raw_latent: Float[Tensor, "b c t i j"], pixels: Float[Tensor, "b 3 p h w"]
    ) -> Losses:
        """Decode, and measure each clip's deviation from the truth."""
        # A clamp would have no gradient where colours overshoot.
        made = self.vae.decode(self.vae.normalize(raw_latent), clamp=False)
        error = made.float() - pixels
        deviation = _deviation(error).mean()
        chroma = _deviation(error - error.roll(1, dims=1)).mean()
        return {
            "loss": deviation + CHROMA_WEIGHT * chroma,
            "deviation": deviation,
            "chroma": chroma,
        }


class DecoderTask(VAETask):
    """Reconstruct clips from latents that are final."""

    name = "decoder"

    def __init__(self, vae: WanVAE, clips: ClipMaker, diet: Diet) -> None:
        super().__init__(vae, clips, diet)
        self.vae.encoder.requires_grad_(False)
        self.vae.conv1.requires_grad_(False)
        self.vae.decoder.requires_grad_(True)
        self.vae.conv2.requires_grad_(True)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Give what comes after the latent."""
        return {"conv2": self.vae.conv2, "decoder": self.vae.decoder}

    def losses(self, step: int) -> Losses:
        """Compare a batch with its reconstruction."""
        _, pixels = self.pool.draw(step)
        with torch.no_grad():
            mean, _ = self.vae.encode_moments(pixels)
        return self.compare(mean, pixels)


def _deviation(error: Float[Tensor, "b 3 p h w"]) -> Float[Tensor, " b"]:
    """Give the root mean square of each clip."""
    return (error.square().mean((1, 2, 3, 4)) + LEAST_SQUARE).sqrt()


def first_clips(clips: ClipMaker, diet: Diet) -> list[Float[Tensor, "b 3 p h w"]]:
    """Make the clips that the first state is computed from."""
    shape, count = diet.shape(0), diet.count(0)
    return [
        to_model(clips.make(10**7 + index, count=count, shape=shape, style=NATURAL).pixels)
        for index in range(FIRST_BATCHES)
    ]


@torch.no_grad()
def measure_statistics(vae: WanVAE, clips: ClipMaker, shape: PixelShape) -> VAEConfig:
    """Measure mean and deviation of each latent channel over training clips."""
    values: list[Tensor] = []
    for index in range(STATISTICS_BATCHES):
        pixels = clips.make(10**9 + index, count=4, shape=shape, style=NATURAL).pixels
        raw_latent = vae.denormalize(vae.encode(to_model(pixels)))
        values.append(raw_latent.float().movedim(1, 0).flatten(1).cpu())
    together = torch.cat(values, dim=1).double()
    return replace(
        vae.config,
        latent_mean=tuple(round(value, 5) for value in together.mean(1).tolist()),
        latent_std=tuple(round(max(value, 1e-3), 5) for value in together.std(1).tolist()),
    )


def export_vae(vae: WanVAE, config: VAEConfig, path: Path) -> None:
    """Write the VAE as fp16 safetensors, with its latent's statistics."""
    with torch.device("meta"):
        finished = WanVAE(config)
    finished.load_state_dict(vae.state_dict(), assign=True)
    save_half(finished, path)


@torch.no_grad()
def evaluate_vae(
    vae: WanVAE, clips: ClipMaker, shape: PixelShape, sheet: Sheet
) -> dict[str, float]:
    """Reconstruct held-out clips, and take the mean over pictures.

    Args:
        sheet: gets the last true frame of each, and what became of it.

    Returns:
        PSNR over all, of brightness alone, and of the first and the last frames.
    """
    device = next(vae.parameters()).device
    rows: list[dict[str, float]] = []
    for number in range(len(clips.photographs)):
        clip = clips.film(number, SINGLE_MOVES[number % 8], shape=shape)[None].to(device)
        made = to_clips(vae.decode(vae.encode(to_model(clip))))
        sheet.add(clip[0], made[0])
        rows.append(
            {
                "psnr": psnr(made, clip),
                "luma": psnr(luma(made), luma(clip)),
                "first": psnr(made[:, :1], clip[:, :1]),
                "last": psnr(made[:, -4:], clip[:, -4:]),
            }
        )
    return average(rows)
