"""How much arithmetic encoding and decoding a clip is, from a VAE's numbers alone."""

from dataclasses import dataclass

from ..geometry import LatentShape, PixelShape
from .config import Level, VAEConfig


@dataclass(frozen=True, kw_only=True)
class VAEWork:
    """Multiplications and additions of one clip's way through the VAE and back."""

    encode_flops: int
    decode_flops: int


def vae_work(config: VAEConfig, output: PixelShape) -> VAEWork:
    """Count the convolutions' and the attention's multiplications and additions for one clip.

    Zero frames before the first chunk and zero padding count as if they were values, as in torch's
    FlopCounterMode. Norms, activations and shortcuts without weights cost next to nothing.

    Raises:
        GeometryError: if the clip does not fill whole latent values.

    Oracle: torch's FlopCounterMode, tests/unit/test_vae_work.py.
    """
    latent = output.latent(config.compression, channels=config.latent_channels)
    later = latent.latent_frames - 1
    time = config.compression.time
    return VAEWork(
        encode_flops=_encode(config, latent, frames=1)
        + later * _encode(config, latent, frames=time),
        decode_flops=_decode(config, latent, first=True)
        + later * _decode(config, latent, first=False),
    )


def _encode(config: VAEConfig, latent: LatentShape, *, frames: int) -> int:
    """Count one chunk of so many pixel frames; a chunk of one is the first."""
    first = frames == 1
    levels, moments = config.encoder_levels, 2 * config.latent_channels
    pixels = latent.height * latent.width * (config.compression.space // config.patch) ** 2
    total = frames * pixels * 27 * config.pixel_channels * config.encoder_dim
    for level in levels:
        total += frames * pixels * _residual_blocks(level)
        if level.space == 2:
            pixels //= 4
            total += frames * pixels * 9 * level.dim * level.out_dim
        if level.time == 2 and not first:
            frames //= 2
            total += frames * pixels * 3 * level.dim**2
    inner = levels[-1].out_dim
    ends = 27 * inner * moments + moments**2
    return 2 * (total + frames * pixels * (_middle(inner, pixels) + ends))


def _decode(config: VAEConfig, latent: LatentShape, *, first: bool) -> int:
    """Count one latent frame."""
    levels, channels = config.decoder_levels, config.latent_channels
    frames, pixels, inner = 1, latent.height * latent.width, levels[0].in_dim
    total = pixels * (channels**2 + 27 * channels * inner + _middle(inner, pixels))
    for level in levels:
        total += frames * pixels * _residual_blocks(level)
        if level.time == 2 and not first:
            total += frames * pixels * 3 * level.dim * 2 * level.dim
            frames *= 2
        if level.space == 2:
            pixels *= 4
            total += frames * pixels * 9 * level.dim * level.out_dim
    return 2 * (total + frames * pixels * 27 * levels[-1].out_dim * config.pixel_channels)


def _residual_blocks(level: Level) -> int:
    """Count a level's residual blocks, per pixel."""
    convolutions = 27 * level.dim * (level.in_dim + (2 * level.blocks - 1) * level.dim)
    shortcut = 0 if level.in_dim == level.dim else level.in_dim * level.dim
    return convolutions + shortcut


def _middle(dim: int, pixels: int) -> int:
    """Count two residual blocks and attention over ``pixels``, per pixel."""
    return 4 * 27 * dim**2 + 4 * dim**2 + 2 * pixels * dim
