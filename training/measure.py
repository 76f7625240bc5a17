"""How good clips are, and how they move."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from swift_core.shapes import Float, Tensor

LUMA = (0.299, 0.587, 0.114)

KEY_FRAMES = 8
"""Frames after which motion is measured from a new picture: content may change as it moves."""

ROUNDS = 4


def psnr(made: Float[Tensor, "..."], true: Float[Tensor, "..."]) -> float:
    """Compare values in [0, 1], in decibels."""
    error = F.mse_loss(made.double().clamp(0, 1), true.double())
    return math.inf if error == 0 else float(-10 * error.log10())


def average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Take the mean of each named number over rows."""
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def luma(clip: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b"]:
    """Give the brightness of each pixel."""
    return clip @ torch.tensor(LUMA, dtype=clip.dtype, device=clip.device)


def content_shift(first: Float[Tensor, "h w"], second: Float[Tensor, "h w"]) -> tuple[float, float]:
    """Measure by phase correlation how far content runs, in pixels: right and down positive."""
    window = _window(first.shape[0])[:, None] * _window(first.shape[1])
    spectra = [torch.fft.rfft2((part - part.mean()) * window) for part in (first, second)]
    cross = spectra[1] * spectra[0].conj()
    peak = torch.fft.irfft2(cross / (cross.abs() + 1e-6), s=first.shape)
    height, width = first.shape
    row, column = divmod(int(peak.argmax()), width)
    down = row + _vertex(peak[:, column], row)
    right = column + _vertex(peak[row], column)
    return (
        right - width if right > width / 2 else right,
        down - height if down > height / 2 else down,
    )


def _window(length: int) -> Tensor:
    return torch.hann_window(length, periodic=False)


def _vertex(values: Float[Tensor, " n"], peak: int) -> float:
    """Find the top of the parabola through a peak and its neighbours."""
    left, top, right = (float(values[(peak + at) % len(values)]) for at in (-1, 0, 1))
    bend = left - 2 * top + right
    return 0.0 if bend == 0 else (left - right) / (2 * bend)


def measure_motion(clip: Float[Tensor, "p h w 3"]) -> dict[str, float]:
    """Fit what the picture does over a clip, and add it up.

    Each frame is fitted to the last key frame by least squares, beginning where the frame before
    was found; frame by frame alone, the error of interpolation would add up.

    Returns:
        ``right`` and ``down``: pixels by which content ran at the middle; ``grow``: logarithm of
        the factor by which it grew; ``turn``: radians clockwise.
    """
    frames = luma(clip.float().cpu())
    total, motion = (torch.zeros(4, dtype=torch.float64) for _ in range(2))
    key = 0
    for index in range(1, len(frames)):
        motion = _fit(frames[key], frames[index], motion)
        if index - key == KEY_FRAMES:
            total, motion, key = total + motion, torch.zeros_like(motion), index
    right, down, grow, turn = (total + motion).tolist()
    return {"right": right, "down": down, "grow": grow, "turn": turn}


def _fit(first: Tensor, second: Tensor, motion: Float[Tensor, " 4"]) -> Float[Tensor, " 4"]:
    """Find right, down, grow, turn that bring one picture to another, from a first guess."""
    height, width = first.shape
    axes = (torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2)
    y, x = torch.meshgrid(*axes, indexing="ij")
    for _ in range(ROUNDS):
        moved, inside = _move(first, motion, x, y)
        slope_y, slope_x = torch.gradient((moved + second) / 2)
        columns = (slope_x, slope_y, slope_x * x + slope_y * y, slope_y * x - slope_x * y)
        matrix = torch.stack([-column[inside] for column in columns], -1).double()
        change = (second - moved)[inside].unsqueeze(-1).double()
        motion = motion + torch.linalg.lstsq(matrix, change).solution[:, 0]
    return motion


def _move(picture: Tensor, motion: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Move a picture's content by a similarity; and tell where that is known."""
    right, down, grow, turn = motion.tolist()
    height, width = picture.shape
    cos, sin = math.cos(turn) * math.exp(-grow), math.sin(turn) * math.exp(-grow)
    source_x = cos * (x - right) + sin * (y - down)
    source_y = cos * (y - down) - sin * (x - right)
    inside = (source_x.abs() < width / 2 - 3) & (source_y.abs() < height / 2 - 3)
    inside &= (x.abs() < width / 2 - 3) & (y.abs() < height / 2 - 3)
    grid = torch.stack((source_x / (width / 2), source_y / (height / 2)), dim=-1)
    moved = F.grid_sample(
        picture[None, None],
        grid[None].float(),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return moved[0, 0], inside
