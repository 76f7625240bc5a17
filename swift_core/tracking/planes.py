"""Pictures as smooth functions of place.

Axes: ``n c h w``. Places are x and y in pixels, 0 in the middle of the first pixel.
"""

import math

import torch
from torch.nn import functional as F

from ..shapes import Float, Tensor

SINC_REACH = 4
"""Pixels on each side that a pixel between two is made of."""


def blur(planes: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """Blur by a Gaussian; beyond its edges a picture goes on as it ends.

    Args:
        sigma: in pixels.
    """
    reach = math.ceil(3 * sigma)
    place = torch.arange(-reach, reach + 1, dtype=planes.dtype, device=planes.device)
    kernel = torch.exp(-place.square() / (2 * sigma**2))
    for _side in range(2):
        planes = _weigh_rows(planes, kernel, before=reach).transpose(2, 3)
    return planes


def _weigh_rows(
    planes: Float[Tensor, "n c h w"], kernel: Float[Tensor, " taps"], *, before: int
) -> Float[Tensor, "n c h w"]:
    """Give each pixel the weighted mean of its neighbors in the row; edges go on as they end.

    Args:
        before: how many of the taps lie before the pixel.
    """
    kernel = (kernel / kernel.sum()).expand(planes.shape[1], 1, 1, -1)
    sides = (before, kernel.shape[-1] - 1 - before, 0, 0)
    padded = F.pad(planes, sides, mode="replicate")
    return F.conv2d(padded, kernel, groups=planes.shape[1])


def resize(
    planes: Float[Tensor, "n c h w"], *, height: int, width: int
) -> Float[Tensor, "n c i j"]:
    """Resize as the pipeline resizes clips: bicubic, antialiased; it may overshoot."""
    return F.interpolate(planes, (height, width), mode="bicubic", antialias=True)


def double(planes: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
    """Give a picture twice the pixels each way: its own, and between them a windowed sinc's.

    Bicubic weights, which places are looked up with, blur what is fine beside a pixel; in this one
    everything is half as fine. Source: the Hann window as in Harris, "On the use of windows for
    harmonic analysis with the discrete Fourier transform" (1978).
    """
    place = torch.arange(-SINC_REACH, SINC_REACH, dtype=planes.dtype, device=planes.device) + 0.5
    window = torch.cos(math.pi * place / (2 * SINC_REACH + 1)).square()
    kernel = torch.sinc(place) * window
    for _side in range(2):
        between = _weigh_rows(planes, kernel, before=SINC_REACH - 1)
        planes = torch.stack((planes, between), dim=-1).flatten(-2).transpose(2, 3)
    return planes


def size_of(planes: Float[Tensor, "n c h w"]) -> dict[str, int]:
    """Give height and width, by these names."""
    return {"height": planes.shape[2], "width": planes.shape[3]}


def resize_ways(
    ways: Float[Tensor, "1 2 h w"], height: int, width: int, *, mode: str
) -> Float[Tensor, "1 2 i j"]:
    """Bring ways, x and y in pixels, to another size of what they lead through."""
    have_height, have_width = ways.shape[2:]
    if (have_height, have_width) == (height, width):
        return ways
    x, y = F.interpolate(ways, (height, width), mode=mode).unbind(1)
    return torch.stack((x * (width / have_width), y * (height / have_height)), dim=1)


def places_of(planes: Float[Tensor, "n c h w"]) -> Float[Tensor, "1 2 h w"]:
    """Give every pixel's own place."""
    height, width = planes.shape[2:]
    rows = torch.arange(height, dtype=planes.dtype, device=planes.device)
    columns = torch.arange(width, dtype=planes.dtype, device=planes.device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y))[None]


def look_up(
    planes: Float[Tensor, "1 c h w"], places: Float[Tensor, "1 2 i j"]
) -> Float[Tensor, "1 c i j"]:
    """Look a picture up at places, bicubic; beyond its edges it goes on as it ends."""
    height, width = planes.shape[2:]
    x, y = places.unbind(1)
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    return F.grid_sample(planes, grid, mode="bicubic", padding_mode="border", align_corners=False)


def is_inside(
    places: Float[Tensor, "1 2 i j"], *, height: int, width: int
) -> Float[Tensor, "1 1 i j"]:
    """Tell, by 1 or 0, which places a picture shows."""
    x, y = places[:, :1], places[:, 1:]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside.to(places.dtype)


def slopes(planes: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
    """Give the slopes across and down, each ``n c h w``, per pixel."""
    padded = F.pad(planes, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return across / 2, down / 2
