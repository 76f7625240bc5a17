"""The convolutions of Stage II's decoder at each of its levels, and what stands between them."""

import math
from functools import partial

import torch
from torch.nn import functional as F

from swift_core.vae.blocks import DoubleSides, RMSNorm, add_duplicates
from swift_core.vae.causal import CausalConv3d
from swift_core.vae.config import Level

from .machine import Machine
from .rows import Record, Row
from .scale import Scale
from .timing import Run, normal, prepared, timed


def decoder_levels(scale: Scale) -> list[tuple[Level, int, int, int]]:
    """Give the levels of Stage II's decoder with frames, height and width of a later chunk."""
    config = scale.detail_vae
    space = config.compression.space
    frames, height, width = 1, scale.output.height // space, scale.output.width // space
    levels: list[tuple[Level, int, int, int]] = []
    for level in config.decoder_levels:
        levels.append((level, frames, height, width))
        frames *= level.time
        height, width = height * level.space, width * level.space
    return levels


_WIDER = 16
"""Columns more where all algorithms are tried. PyTorch keeps the plan that it has for a shape,
however it came by it: only a shape that no other row has is searched."""


def measure_convolutions(record: Record, scale: Scale) -> None:
    """Measure the convolutions of Stage II's decoder at each level, in several forms."""
    for index, (level, *size) in enumerate(decoder_levels(scale)):
        frames, height, width = size
        group = f"decoder level {index}: {level.dim} channels, {frames} frames of {width}x{height}"
        measure = partial(_measure_level, record, scale, group, level, (frames, height, width))
        record.attempt("set-up", measure, group=group)


def _measure_level(
    record: Record, scale: Scale, group: str, level: Level, size: tuple[int, int, int]
) -> None:
    frames, height, width = size
    machine, dim = record.machine, level.dim
    features = normal(machine, 1, dim, frames + 2, height, width)
    conv = make_convolution(dim, machine)
    first = features, conv.weight.data
    last = [each.contiguous(memory_format=torch.channels_last_3d) for each in first]
    ways: dict[str, Run] = {
        "conv3d, channels last (ours)": partial(_convolve, conv, last[0], last[1]),
        "conv3d, channels first": partial(_convolve, conv, *first),
        "three conv2d, channels last": partial(in_planes, last[0], last[1], frames=frames),
    }
    for name, run in ways.items():
        timed(record, scale, Row(name=name, group=group, flops=conv_flops(dim, size)), run)
    if machine.is_cuda:
        measure_fastest(record, scale, group, dim, size)
    _measure_rest(record, scale, group, level, last[0][:, :, :frames])


def make_convolution(dim: int, machine: Machine) -> CausalConv3d:
    """Make one of a level's convolutions."""
    conv = CausalConv3d(dim, dim, (3, 3, 3)).to(machine.device, machine.compute)
    return conv.requires_grad_(False)


def conv_flops(dim: int, size: tuple[int, int, int]) -> int:
    """Count the work of one of a level's convolutions."""
    return 2 * 27 * dim**2 * math.prod(size)


def measure_fastest(
    record: Record, scale: Scale, group: str, dim: int, size: tuple[int, int, int]
) -> None:
    """Measure our form with the fastest of all algorithms, which the warm-ups find."""
    frames, height, width = size
    wider = (frames, height, width + _WIDER)
    machine = record.machine

    def prepare() -> Run:
        features = normal(machine, 1, dim, frames + 2, *wider[1:])
        conv = make_convolution(dim, machine)
        last = [
            each.contiguous(memory_format=torch.channels_last_3d)
            for each in (features, conv.weight.data)
        ]
        return partial(_tried_out, partial(_convolve, conv, last[0], last[1]))

    row = Row(
        name="conv3d, channels last, the fastest algorithm",
        group=group,
        flops=conv_flops(dim, wider),
        note=f"{_WIDER} columns wider",
    )
    prepared(record, scale, row, prepare)


def _convolve(conv: CausalConv3d, features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolve as the VAE does, with a weight in some layout."""
    conv.weight.data = weight
    return conv(features)


def in_planes(features: torch.Tensor, weight: torch.Tensor, *, frames: int) -> torch.Tensor:
    """Convolve over time and space as a sum of convolutions of pictures."""
    out: torch.Tensor | None = None
    for tap in range(weight.shape[2]):
        pictures = features[0, :, tap : tap + frames].transpose(0, 1)
        kernel = weight[:, :, tap].contiguous(memory_format=torch.channels_last)
        made = F.conv2d(pictures, kernel, padding=1)
        out = made if out is None else out.add_(made)
    assert out is not None, "a kernel has taps"
    return out.transpose(0, 1)[None]


def _tried_out(run: Run) -> object:
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return run()


def _measure_rest(
    record: Record, scale: Scale, group: str, level: Level, features: torch.Tensor
) -> None:
    """Measure what stands between a level's convolutions."""
    machine = record.machine
    norm = RMSNorm(level.dim).to(machine.device).requires_grad_(False)
    timed(record, scale, Row(name="norm", group=group), lambda: norm(features))
    timed(
        record, scale, Row(name="activation", group=group), lambda: F.silu(features, inplace=True)
    )
    if level.space == 2:
        picture = features[:, :, 0]
        timed(
            record,
            scale,
            Row(name="doubled sides of one frame", group=group),
            lambda: DoubleSides()(picture),
        )
    if level.factor > 1 and scale.detail_vae.residual:
        _, _, frames, height, width = features.shape
        size = (1, level.dim, frames * level.time, height * level.space, width * level.space)
        out = torch.zeros(size, device=machine.device, dtype=machine.compute)
        out = out.contiguous(memory_format=torch.channels_last_3d)
        coarse = normal(machine, 1, level.in_dim, frames, height, width)
        coarse = coarse.contiguous(memory_format=torch.channels_last_3d)
        timed(
            record,
            scale,
            Row(name="shortcut of duplicates", group=group),
            lambda: add_duplicates(out, coarse, level),
        )
