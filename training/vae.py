"""The VAE: a causal autoencoder in the Wan2.2 form, trained from nothing in minutes.

What makes that possible, each measured (see README): residual branches begin at zero, so that at
first only the linear skeleton learns; the skeleton begins orthogonal, the first convolution as the
identity; matrices are stepped by Muon; colours are mixed and colour differences weigh extra, or
hues collapse; clips have 13 frames or more, because the third and fourth chunk are the first to
use what the causal caches hold.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from torch import nn

from swift_core.geometry import PixelShape
from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE, prepare
from swift_core.vae.blocks import AttentionBlock, ResidualBlock
from swift_core.vae.causal import CausalConv3d, TailCache
from swift_core.vae.config import VAEConfig

from .chance import generator
from .data import VARIED, ClipMaker
from .export import save_half
from .loop import Losses
from .measure import average, luma, psnr
from .moves import SINGLE_MOVES
from .optimizer import Rates
from .pool import Pool
from .sheets import Sheet
from .sizes import Diet

CHROMA_WEIGHT = 0.5
KL_WEIGHT = 3e-4
"""Per latent value, beside a mean absolute error: strong enough to keep the latent smooth for the
DiTs, far below what would cost sharpness."""

FIRST_LOG_VAR = -4.0
"""Little noise at first: with as much as signal nothing would be learned through it."""

LOG_VAR_RANGE = (-12.0, 4.0)
STATISTICS_BATCHES = 12


SKELETON_STEPS = 400
"""Steps at first in which only the linear skeleton is computed, several times faster."""

LIFT = 2.0
"""Offset of the features before the last norms: around it SiLU is nearly a line."""


def make_vae(config: VAEConfig, *, seed: int) -> WanVAE:
    """Build a VAE whose first state is nearly a linear map: orthogonal, branches at zero."""
    torch.manual_seed(seed)
    vae = WanVAE(config)
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            _fill_orthogonal(module.weight)
            nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.residual[6].weight)
        elif isinstance(module, AttentionBlock):
            nn.init.zeros_(module.proj.weight)
    _let_through(vae.encoder.conv1)
    for last in (vae.encoder.middle[2], vae.decoder.upsamples[-1].upsamples[-1]):
        nn.init.constant_(last.residual[6].bias, LIFT)
    with torch.no_grad():
        vae.conv1.weight[config.latent_channels :] = 0
        vae.conv1.bias[config.latent_channels :] = FIRST_LOG_VAR
    return prepare(vae)


@torch.no_grad()
def _fill_orthogonal(weight: Tensor) -> None:
    flat = torch.empty(weight.shape[0], weight[0].numel())
    weight.copy_(nn.init.orthogonal_(flat).view(weight.shape))


@torch.no_grad()
def _let_through(conv: CausalConv3d) -> None:
    """Make a convolution's first outputs its inputs at the same place; the others small."""
    conv.weight.mul_(0.3)
    count = min(conv.in_channels, conv.out_channels)
    conv.weight[:count] = 0
    middle = conv.kernel_size[1] // 2
    conv.weight[range(count), range(count), -1, middle, middle] = 1


@contextmanager
def skeleton_only(vae: WanVAE) -> Iterator[None]:
    """Leave out the residual branches: exact while their last convolution's weights are zero."""
    branches = [module.residual for module in vae.modules() if isinstance(module, ResidualBlock)]
    for branch in branches:
        branch.forward = partial(_only_bias, branch[6])
    try:
        yield
    finally:
        for branch in branches:
            del branch.forward


def _only_bias(
    conv: CausalConv3d, features: Float[Tensor, "b c t h w"], _cache: TailCache
) -> Float[Tensor, "b d t h w"]:
    batch, _, *size = features.shape
    assert conv.bias is not None, "Wan's convolutions have a bias"
    return conv.bias[:, None, None, None].expand(batch, -1, *size).clone()


def to_model(clips: Float[Tensor, "b p h w 3"]) -> Float[Tensor, "b 3 p h w"]:
    """Bring clips in [0, 1] to the VAE's form."""
    return rearrange(clips, "b p h w c -> b c p h w") * 2 - 1


def to_clips(pixels: Float[Tensor, "b 3 p h w"]) -> Float[Tensor, "b p h w 3"]:
    """Bring a VAE's pixels to clips in [0, 1]."""
    return rearrange(pixels.float(), "b c p h w -> b p h w c").add(1).div(2).clamp(0, 1)


class VAETask:
    """Reconstruct clips through a latent with noise."""

    name = "vae"
    rates = Rates(matrix=0.015, vector=2e-3, momentum=0.7)

    def __init__(self, vae: WanVAE, clips: ClipMaker, diet: Diet) -> None:
        self.vae = vae
        self.clips = clips
        self.diet = diet
        self.pool = Pool(self.make, diet, seed=clips.seed, device=clips.device)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Give the VAE."""
        return {"vae": self.vae}

    def make(self, index: int) -> Float[Tensor, "b 3 p h w"]:
        """Make a batch of clips."""
        made = self.clips.make(
            index, count=self.diet.count(index), shape=self.diet.shape(index), style=VARIED
        )
        return to_model(made.pixels)

    def losses(self, step: int) -> Losses:
        """Compare a batch with its reconstruction, and hold the latent together."""
        _, pixels = self.pool.draw(step)
        with skeleton_only(self.vae) if step < SKELETON_STEPS else nullcontext():
            return self._compare(pixels, step)

    def _compare(self, pixels: Float[Tensor, "b 3 p h w"], step: int) -> Losses:
        mean, log_var = self.vae.encode_moments(pixels)
        log_var = log_var.float().clamp(*LOG_VAR_RANGE)
        noise = torch.randn(mean.shape, generator=generator(self.clips.seed, 1, step))
        latent = mean + (0.5 * log_var).exp() * noise.to(mean.device)
        # A clamp would have no gradient where colours overshoot.
        error = self.vae.decode(latent.to(mean.dtype), clamp=False).float() - pixels
        absolute = error.abs().mean()
        chroma = (error - error.roll(1, dims=1)).abs().mean()
        kl = 0.5 * (mean.float().square() + log_var.exp() - 1 - log_var).mean()
        return {
            "loss": absolute + CHROMA_WEIGHT * chroma + KL_WEIGHT * kl,
            "absolute": absolute,
            "chroma": chroma,
            "kl": kl,
            "sigma": (0.5 * log_var).exp().mean(),
            "spread": mean.float().std(),
        }


@torch.no_grad()
def measure_statistics(vae: WanVAE, clips: ClipMaker, shape: PixelShape) -> VAEConfig:
    """Measure mean and deviation of each latent channel over training clips."""
    values: list[Tensor] = []
    for index in range(STATISTICS_BATCHES):
        pixels = clips.make(10**9 + index, count=4, shape=shape, style=VARIED).pixels
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
