"""The VAE's first state, computed: the best linear codec that its skeleton can express.

A VAE whose patch does all the shrinking of sides, and whose levels change time alone, holds a
linear codec in its convolutions' middle taps: principal components of single frames, of pairs of
frames, of pairs of pairs. They are computed from training clips; the way back is fitted by least
squares. Residual branches end in zeros, so this is what the fresh VAE computes, and what training
begins from.

Three things stand in the way, and each is dealt with exactly or nearly so:

- Shortcuts without parameters average and repeat. Convolutions over time subtract that first.
- The first frame passes no convolution over time. Components are turned so that those of a still
  clip are those of its first frame.
- Norm and SiLU stand before both last convolutions. Features lie on a large offset there and
  have no mean over channels, where the two together are nearly a line; the rest is left to the
  fit of the last convolution, whose input is what really comes through them.

Features hold components spread over the channels by an orthogonal matrix, and scaled, so that no
channel is much louder than another.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.blocks import AttentionBlock, Downsample, ResidualBlock, Upsample
from swift_core.vae.config import VAEConfig
from swift_core.vae.layout import prepare

from .components import Codec, Fit, codec_latent, fit_codec, fold_patches

LIFT = 4.0
"""Offset of the features before the last norms, in their own root mean square."""

GAIN = 3.0
"""Scale of the last norms: around it SiLU is nearly a line."""

NOISE = 0.045
"""Posterior deviation of a quad's component at first: 45 dB below white."""

_AROUND = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column)
"""Where a place's neighbours are: rows down, columns right."""


def make_vae(config: VAEConfig, clips: list[Float[Tensor, "b 3 p h w"]], *, seed: int) -> WanVAE:
    """Build a VAE whose first state is the linear codec of some clips.

    Args:
        config: with steps that change time alone, all widths equal on each side, and more of them
            than latent channels.
        clips: in [-1, 1], of 9 frames or more, all of one size.
        seed: of what the codec leaves open: the insides of residual branches.
    """
    torch.manual_seed(seed)
    vae = WanVAE(config)
    _open_nothing(vae)
    frames = [fold_patches(clip, config.patch) for clip in clips]
    codec = fit_codec(config, frames)
    with torch.no_grad():
        _fill_encoder(vae, codec)
        _fill_decoder(vae, codec)
        for head in (vae.encoder.head, vae.decoder.head):
            nn.init.constant_(head[0].gamma, GAIN)
        prepare(vae)
        latents = _fit_encoder_head(vae, codec, clips, frames)
        _fit_decoder_head(vae, latents, frames)
    return prepare(vae)


def _open_nothing(vae: WanVAE) -> None:
    """Make every residual branch end in zeros, and everything else small or plain."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            flat = torch.empty(module.weight.shape[0], module.weight[0].numel())
            module.weight.data.copy_(nn.init.orthogonal_(flat).view(module.weight.shape))
            nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.residual[6].weight)
        elif isinstance(module, AttentionBlock):
            nn.init.zeros_(module.proj.weight)
    for conv in (vae.encoder.conv1, vae.encoder.head[2], vae.decoder.conv1, vae.decoder.head[2]):
        nn.init.zeros_(conv.weight)
    for conv in (vae.conv1, vae.conv2):
        nn.init.dirac_(conv.weight)


def _spreading(width: int, count: int) -> Float[Tensor, "width count"]:
    """Give orthonormal columns without mean, each spread over all channels: cosines."""
    place = (torch.arange(width) + 0.5) * math.pi / width
    waves = torch.cos(torch.outer(place, torch.arange(1, width)))
    return (waves * math.sqrt(2 / width))[:, :count]


def _within(
    matrix: Float[Tensor, "m n"], width: int, scales: Float[Tensor, " _"]
) -> Float[Tensor, "width width"]:
    """Write a map of components as a map of features."""
    rows, columns = matrix.shape
    out = _spreading(width, rows) * scales[:rows]
    return out @ matrix @ (_spreading(width, columns) / scales[:columns]).T


def _fill_encoder(vae: WanVAE, codec: Codec) -> None:
    """Write the codec's way to the features behind the last norm, which the head is fitted to."""
    encoder, width = vae.encoder, vae.config.encoder_dim
    count = width - 1
    conv = encoder.conv1
    into = _spreading(width, count) * codec.scales[:count] @ codec.basis[:, :count].T
    conv.weight[:, :, -1, 1, 1] = into
    conv.bias.copy_(-into @ codec.mean)
    steps = [module for module in encoder.modules() if isinstance(module, Downsample)]
    for step, matrix in zip(steps, (codec.pairs, codec.quads), strict=True):
        nn.init.zeros_(step.time_conv.weight)
        for tap, half in enumerate(matrix.chunk(2, dim=1), start=1):
            # A first frame comes out as 1 + 1/2 of itself; so does a still clip.
            mixed = _within(1.5 / math.sqrt(2) * half, width, codec.scales)
            step.time_conv.weight[:, :, tap, 0, 0] = mixed - torch.eye(width) / 2


def _fill_decoder(vae: WanVAE, codec: Codec) -> None:
    """Write the codec's way from the latent to the components of single frames."""
    decoder, width = vae.decoder, vae.config.decoder_dim
    latent = len(codec.spread)
    # A first frame's latent is twice its components, and what repeats doubles it twice again.
    into = _spreading(width, latent) * codec.scales[:latent] * codec.spread / 8
    decoder.conv1.weight[:, :, -1, 1, 1] = into
    steps = [module for module in decoder.modules() if isinstance(module, Upsample)]
    scales = (8 / (2 * math.sqrt(2)), 2 * math.sqrt(2))
    for step, matrix, scale in zip(steps, (codec.unquad, codec.unpair), scales, strict=True):
        nn.init.zeros_(step.time_conv.weight)
        for row, half in enumerate(matrix.chunk(2)):
            mixed = _within(scale * half, width, codec.scales) - torch.eye(width)
            step.time_conv.weight[row * width : (row + 1) * width, :, -1, 0, 0] = mixed


@contextmanager
def _heard(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module gives, chunk by chunk."""
    heard: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, out: heard.append(out.clone()))
    try:
        yield heard
    finally:
        handle.remove()


@torch.no_grad()
def _lift(last: ResidualBlock, run: Callable[[], object]) -> None:
    """Set the offset before a head from how loud the features there are."""
    with _heard(last) as heard:
        run()
    loudness = torch.cat([out.square().flatten() for out in heard]).mean().sqrt()
    nn.init.constant_(last.residual[6].bias, LIFT * float(loudness))


def _fit_encoder_head(
    vae: WanVAE, codec: Codec, clips: list[Tensor], frames: list[Tensor]
) -> list[Float[Tensor, "b k t i j"]]:
    """Fit the last convolution to the codec's latents; give the latents that it makes."""
    _lift(vae.encoder.middle[2], lambda: vae.encode_moments(clips[0]))
    fit = Fit()
    for clip, patches in zip(clips, frames, strict=True):
        with _heard(vae.encoder.head[1]) as heard:
            vae.encode_moments(clip)
        fit.add(torch.cat(heard, dim=2).movedim(1, -1), codec_latent(codec, patches))
    matrix = fit.solve()
    conv, latent = vae.encoder.head[2], len(codec.spread)
    conv.weight[:latent, :, -1, 1, 1] = matrix[:-1].T
    conv.bias[:latent] = matrix[-1]
    conv.bias[latent:] = 2 * (NOISE / codec.spread).log()
    return [vae.encode_moments(clip)[0] for clip in clips]


def _fit_decoder_head(vae: WanVAE, latents: list[Tensor], frames: list[Tensor]) -> None:
    """Fit the last convolution to the pixels, from each place's features and its neighbours'.

    Neighbours count by how they differ from the mean feature, so that the zeros beyond the
    border, which no offset lifts, say nothing.
    """
    _lift(vae.decoder.upsamples[-1].upsamples[-1], lambda: vae.decode(latents[0]))
    with _heard(vae.decoder.head[1]) as heard:
        vae.decode(latents[0])
    usual = torch.cat(heard, dim=2).mean((0, 2, 3, 4))
    usual = usual / usual.norm()
    fit = Fit()
    for latent, patches in zip(latents, frames, strict=True):
        with _heard(vae.decoder.head[1]) as heard:
            vae.decode(latent)
        features = torch.cat(heard, dim=2).movedim(1, -1)
        around = features - (features @ usual)[..., None] * usual
        fit.add(torch.cat((features, *_shifted(around)), dim=-1), patches)
    matrix = fit.solve()
    conv, width = vae.decoder.head[2], len(usual)
    conv.bias.copy_(matrix[-1])
    middle, *neighbours = matrix[:-1].split(width)
    conv.weight[:, :, -1, 1, 1] = middle.T
    for (row, column), taps in zip(_AROUND, neighbours, strict=True):
        conv.weight[:, :, -1, 1 + row, 1 + column] = (taps - usual[:, None] * (usual @ taps)).T


def _shifted(features: Float[Tensor, "b t i j c"]) -> Iterator[Float[Tensor, "b t i j c"]]:
    """Give for each place its neighbours' features, zeros beyond the border."""
    padded = nn.functional.pad(features, (0, 0, 1, 1, 1, 1))
    height, width = features.shape[2:4]
    for row, column in _AROUND:
        yield padded[:, :, 1 + row : 1 + row + height, 1 + column : 1 + column + width]
