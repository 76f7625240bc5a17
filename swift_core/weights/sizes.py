"""Architectures from shapes: what the tensors of a file, under Wan's names, add up to."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from ..errors import CheckpointError
from ..geometry import Patch
from ..model.config import WAN22_TI2V_5B, DiTConfig
from ..text.umt5 import UMT5Config
from ..text.words import WordConfig
from ..vae.config import WAN21_VAE, WAN22_VAE, VAEConfig
from .headers import shown
from .layouts import MAX_LEVELS, count_parts
from .notes import Notes

Shapes = Mapping[str, tuple[int, ...]]

WAN21_1_3B = replace(
    WAN22_TI2V_5B, in_channels=16, out_channels=16, dim=1536, ffn_dim=8960, heads=12
)
"""Wan2.1-T2V-1.3B: recognised, not used."""

_HEAD_DIM = 128
"""Of every published Wan DiT."""

_TEXT_TOKENS = 512
_EPS = 1e-6
_MAX_TOKENS = 1 << 20
_MAX_SIZE = 1 << 17
"""Wider than any layer: a bound on what a header can make us compute."""


class MissingError(Exception):
    """A tensor without which the architecture is not to be had; never leaves this package.

    Attributes:
        name: of the tensor.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _sizes(shapes: Shapes, name: str, *, axes: int, most: int = _MAX_SIZE) -> tuple[int, ...]:
    """Give a tensor's sizes, after a look at whether they can be those of such a tensor."""
    if name not in shapes:
        raise MissingError(name)
    shape = shapes[name]
    if len(shape) != axes or any(not 1 <= size <= most for size in shape):
        raise CheckpointError(
            f"{name} has shape {list(shape)}, but {axes} sizes from 1 to {most} were "
            "expected; the file is damaged or not a Wan model."
        )
    return shape


def _divided(value: int, divisor: int, what: str) -> int:
    if value % divisor:
        raise CheckpointError(
            f"{what} is {value}, which is not a multiple of {divisor}; the file is damaged or not "
            "a Wan model."
        )
    return value // divisor


def dit_config(shapes: Shapes, notes: Notes) -> DiTConfig:
    """Read a DiT's architecture off its shapes.

    Raises:
        MissingError: if a tensor that shows a size is not there.
        CheckpointError: if the sizes contradict each other.
    """
    dim, in_channels, time, height, width = _sizes(shapes, "patch_embedding.weight", axes=5)
    features, _ = _sizes(shapes, "head.head.weight", axes=2)
    _, text_dim = _sizes(shapes, "text_embedding.0.weight", axes=2)
    _, frequency_dim = _sizes(shapes, "time_embedding.0.weight", axes=2)
    (ffn_dim,) = _sizes(shapes, "blocks.0.ffn.0.bias", axes=1)
    heads = notes.heads
    if heads is None:
        if dim % _HEAD_DIM:
            raise CheckpointError(
                f"a DiT of width {dim} does not show its number of heads (published ones have "
                f"{_HEAD_DIM} values a head); it must be noted in the file's metadata."
            )
        heads = dim // _HEAD_DIM
    return DiTConfig(
        in_channels=in_channels,
        out_channels=_divided(features, time * height * width, "the width of head.head"),
        dim=dim,
        ffn_dim=ffn_dim,
        heads=heads,
        layers=count_parts(shapes, r"blocks\."),
        text_dim=text_dim,
        text_tokens=_TEXT_TOKENS if notes.text_tokens is None else notes.text_tokens,
        frequency_dim=frequency_dim,
        patch=Patch(time=time, height=height, width=width),
        eps=_EPS if notes.eps is None else notes.eps,
    )


def vae_config(shapes: Shapes, notes: Notes) -> VAEConfig:
    """Read a VAE's architecture off its shapes.

    Raises:
        MissingError: if a tensor that shows a size is not there.
        CheckpointError: if the sizes contradict each other, or nothing tells the latent's mean
            and standard deviation.
    """
    encoder_dim, pixel_channels, *_ = _sizes(shapes, "encoder.conv1.weight", axes=5)
    channels, *_ = _sizes(shapes, "conv2.weight", axes=5)
    last, *_ = _sizes(shapes, "decoder.head.0.gamma", axes=4)
    residual = any(name.startswith("encoder.downsamples.0.downsamples.") for name in shapes)
    levels = _nested_levels(shapes) if residual else _flat_levels(shapes)
    widths = [_width(shapes, level[0]) for level in levels]
    dim_mult = tuple(_divided(width, encoder_dim, "the width of a level") for width in widths)
    squares = _divided(pixel_channels, 3, "the number of pixel channels")
    patch = math.isqrt(squares)
    if patch**2 != squares:
        raise CheckpointError(
            f"encoder.conv1 takes {pixel_channels} channels, which are no square of pixels with 3 "
            "colours; the file is damaged or not a Wan VAE."
        )
    decoder_dim = _divided(last, dim_mult[0], "the width of decoder.head")
    if decoder_dim * max(dim_mult) > _MAX_SIZE:
        raise CheckpointError(
            f"the VAE's decoder would be {decoder_dim * max(dim_mult)} wide, and the most that "
            f"makes sense is {_MAX_SIZE}; the file is damaged or not a Wan VAE."
        )
    steps = [_step(level) for level in levels[:-1]]
    halves_space = tuple(_halves_space(shapes, step) for step in steps)
    config = VAEConfig(
        latent_channels=channels,
        encoder_dim=encoder_dim,
        decoder_dim=decoder_dim,
        dim_mult=dim_mult,
        residual_blocks=len(levels[-1]),
        temporal_downsample=tuple(_halves_time(shapes, step) for step in steps),
        patch=patch,
        residual=residual,
        latent_mean=(0.0,) * channels,
        latent_std=(1.0,) * channels,
        spatial_downsample=None if all(halves_space) else halves_space,
    )
    return _with_statistics(config, notes)


def _layers(shapes: Shapes, stem: str) -> list[str]:
    """List the layers below a module, in order."""
    count = count_parts(shapes, rf"{re.escape(stem)}\.")
    return [f"{stem}.{index}" for index in range(count)]


def _nested_levels(shapes: Shapes) -> list[list[str]]:
    """List the residual blocks of each level of the Wan2.2 form."""
    levels = [
        [layer for layer in _layers(shapes, f"{level}.downsamples") if _is_residual(shapes, layer)]
        for level in _layers(shapes, "encoder.downsamples")
    ]
    return _checked(levels)


def _flat_levels(shapes: Shapes) -> list[list[str]]:
    """Divide the one list of layers of the Wan2.1 form into levels: a change of size ends one."""
    levels: list[list[str]] = [[]]
    for layer in _layers(shapes, "encoder.downsamples"):
        if _is_residual(shapes, layer):
            levels[-1].append(layer)
        else:
            levels.append([])
    return _checked(levels)


def _checked(levels: list[list[str]]) -> list[list[str]]:
    if not levels or not all(levels):
        raise MissingError(f"encoder.downsamples.{max(0, len(levels) - 1)}")
    counts = [len(level) for level in levels]
    if len(set(counts)) > 1 or len(counts) > MAX_LEVELS:
        raise CheckpointError(
            f"the VAE's encoder has {shown(str(counts))} residual blocks in its levels, but every "
            f"level of a Wan VAE has as many, and there are no more than {MAX_LEVELS}; the file "
            "is damaged or not a Wan VAE."
        )
    return levels


def _is_residual(shapes: Shapes, layer: str) -> bool:
    return f"{layer}.residual.2.weight" in shapes


def _width(shapes: Shapes, layer: str) -> int:
    return _sizes(shapes, f"{layer}.residual.2.weight", axes=5)[0]


def _step(level: list[str]) -> str:
    """Name what stands behind a level's last residual block: its change of size."""
    stem, last = level[-1].rsplit(".", 1)
    return f"{stem}.{int(last) + 1}"


def _halves_time(shapes: Shapes, step: str) -> bool:
    """Look for a convolution over time."""
    return f"{step}.time_conv.weight" in shapes


def _halves_space(shapes: Shapes, step: str) -> bool:
    """Look for a convolution of height and width; every step but one of time alone has it."""
    has_resample = any(f"{step}.resample.1.{part}" in shapes for part in ("weight", "bias"))
    return has_resample or not _halves_time(shapes, step)


def _with_statistics(config: VAEConfig, notes: Notes) -> VAEConfig:
    """Add the latent's mean and standard deviation: as noted, or as published."""
    if notes.latent_mean is not None and notes.latent_std is not None:
        return replace(config, latent_mean=notes.latent_mean, latent_std=notes.latent_std)
    for published in (WAN22_VAE, WAN21_VAE):
        mean, std = published.latent_mean, published.latent_std
        if len(mean) == config.latent_channels:
            known = replace(config, latent_mean=mean, latent_std=std)
            if known == published:
                return known
    raise CheckpointError(
        f"a VAE with {config.latent_channels} latent channels and a width of {config.encoder_dim} "
        "is none of the published ones, so the mean and standard deviation of its latent must be "
        "noted in the file's metadata (latent_mean and latent_std)."
    )


def word_config(shapes: Shapes) -> WordConfig:
    """Read a word encoder's size off its shape.

    Raises:
        CheckpointError: if it is no table.
    """
    buckets, text_dim = _sizes(shapes, "words.weight", axes=2)
    return WordConfig(buckets=buckets, text_dim=text_dim)


def umt5_config(shapes: Shapes) -> UMT5Config:
    """Read a UMT5 encoder's sizes off its shapes.

    Raises:
        MissingError: if a tensor that shows a size is not there.
        CheckpointError: if the sizes contradict each other.
    """
    vocabulary, text_dim = _sizes(shapes, "token_embedding.weight", axes=2, most=_MAX_TOKENS)
    attention_dim, _ = _sizes(shapes, "blocks.0.attn.q.weight", axes=2)
    ffn_dim, _ = _sizes(shapes, "blocks.0.ffn.fc1.weight", axes=2)
    buckets, heads = _sizes(shapes, "blocks.0.pos_embedding.embedding.weight", axes=2)
    return UMT5Config(
        vocabulary=vocabulary,
        text_dim=text_dim,
        ffn_dim=ffn_dim,
        heads=heads,
        head_dim=_divided(attention_dim, heads, "the width of attn.q"),
        layers=count_parts(shapes, r"blocks\."),
        buckets=buckets,
    )
