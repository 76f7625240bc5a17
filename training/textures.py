"""Procedural pictures of many kinds, so that a VAE does not learn a dozen photographs by heart.

Each kind is a function of a generator and a side; all give square pictures in [0, 1].
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from swift_core.shapes import Float, Tensor

from .chance import choose, generator, happens, uniform, whole

Texture = Callable[[torch.Generator, int], Tensor]


def _palette(draw: torch.Generator, count: int) -> Float[Tensor, "count 3"]:
    """Draw colours: around one hue, or anything."""
    colours = torch.rand((count, 3), generator=draw)
    if happens(draw, 0.5):
        colours = colours[:1] + 0.5 * (colours - colours[:1])
    return colours


def _field(draw: torch.Generator, side: int, cells: int, *, channels: int = 1) -> Tensor:
    """Draw smooth noise with so many cells a side, roughly of deviation 1."""
    grid = torch.randn((1, channels, cells + 3, cells + 3), generator=draw)
    size = (side, side)
    return F.interpolate(grid, size, mode="bicubic", align_corners=True)[0]


def _fractal(draw: torch.Generator, side: int, *, channels: int = 1) -> Tensor:
    """Draw noise of all scales whose strength falls with fineness, of deviation 1."""
    roughness = uniform(draw, 0.35, 0.85)
    total = torch.zeros((channels, side, side))
    cells, strength = whole(draw, 1, 4), 1.0
    while cells < side // 2:
        total += strength * _field(draw, side, cells, channels=channels)
        cells, strength = cells * 2, strength * roughness
    return (total - total.mean()) / total.std()


def _colour(draw: torch.Generator, values: Float[Tensor, "1 h w"]) -> Float[Tensor, "h w 3"]:
    """Colour a picture of one channel along a palette."""
    colours = _palette(draw, 4)
    place = (values[0].clamp(0, 1) * 2.999).unsqueeze(-1)
    low = place.floor().long().squeeze(-1)
    return torch.lerp(colours[low], colours[low + 1], place - place.floor())


def _coordinates(side: int) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(side) + 0.5) / side - 0.5
    return torch.meshgrid(axis, axis, indexing="ij")


def _along(draw: torch.Generator, side: int) -> Float[Tensor, "h w"]:
    """Give the coordinate along a direction drawn at random, within about 0.7 of 0."""
    y, x = _coordinates(side)
    angle = uniform(draw, 0, math.tau)
    return x * math.cos(angle) + y * math.sin(angle)


def clouds(draw: torch.Generator, side: int) -> Tensor:
    """Draw fractal noise along a palette, or in each colour for itself."""
    if happens(draw, 0.5):
        return _colour(draw, 0.5 + 0.25 * _fractal(draw, side))
    mixed = _fractal(draw, side, channels=3).movedim(0, -1)
    return (0.5 + mixed * torch.rand(3, generator=draw) * 0.35).clamp(0, 1)


def stripes(draw: torch.Generator, side: int) -> Tensor:
    """Draw straight or bent stripes, soft or hard, perhaps crossed."""
    bend = uniform(draw, 0, 0.05) * _field(draw, side, 3)
    wave = torch.sin((_along(draw, side) + bend) * uniform(draw, 20, side / 2))
    if happens(draw, 0.4):
        wave = wave * torch.sin((_along(draw, side) + bend) * uniform(draw, 20, side / 2))
    return _colour(draw, 0.5 + 0.5 * torch.tanh(wave * choose(draw, (0.7, 2.0, 8.0))))


def blobs(draw: torch.Generator, side: int) -> Tensor:
    """Draw islands of one texture in another, with edges that are nearly hard."""
    shape = _fractal(draw, side) * choose(draw, (4.0, 15.0, 40.0))
    front, back = clouds(draw, side), gradient(draw, side)
    return torch.lerp(back, front, torch.sigmoid(shape).movedim(0, -1))


def gradient(draw: torch.Generator, side: int) -> Tensor:
    """Draw one colour that becomes another."""
    return _colour(draw, (0.5 + uniform(draw, 0.2, 0.8) * _along(draw, side)).unsqueeze(0))


def strokes(draw: torch.Generator, side: int) -> Tensor:
    """Draw rows of short strokes, as writing has them, on plain or cloudy paper."""
    line = whole(draw, 6, max(8, side // 8))
    pen = max(1, line // whole(draw, 5, 9))
    picture = gradient(draw, side) if happens(draw, 0.6) else clouds(draw, side)
    ink = _palette(draw, 1)[0]
    for top in range(pen, side - line, line + line // 2):
        left = whole(draw, 0, 4 * line)
        while left < side - line:
            for _ in range(whole(draw, 2, 5)):
                down, along = whole(draw, 0, line - pen), whole(draw, 0, line - pen)
                long = whole(draw, pen, line)
                wide, high = (long, pen) if happens(draw, 0.5) else (pen, long)
                picture[top + down : top + down + high, left + along : left + along + wide] = ink
            left += line + choose(draw, (0, 0, 0, line)) + pen
    return picture


def polygons(draw: torch.Generator, side: int) -> Tensor:
    """Draw overlapping half-planes' cuts: flat facets with straight edges."""
    picture = gradient(draw, side)
    for _ in range(whole(draw, 4, 14)):
        inside = torch.ones((side, side))
        shift_y, shift_x = uniform(draw, -0.4, 0.4), uniform(draw, -0.4, 0.4)
        y, x = _coordinates(side)
        radius = uniform(draw, 0.03, 0.3)
        for corner in range(whole(draw, 3, 7)):
            angle = corner * 1.3 + uniform(draw, 0, 0.9)
            distance = (x - shift_x) * math.cos(angle) + (y - shift_y) * math.sin(angle)
            inside = inside * ((radius - distance) * side + 0.5).clamp(0, 1)
        face = gradient(draw, side) if happens(draw, 0.7) else clouds(draw, side)
        picture = torch.lerp(picture, face, inside.unsqueeze(-1))
    return picture


def cells(draw: torch.Generator, side: int) -> Tensor:
    """Draw cells around random points, as stones or scales have them."""
    count = whole(draw, 12, 90)
    points = torch.rand((count, 2), generator=draw) - 0.5
    y, x = _coordinates(side)
    places = torch.stack((y, x), dim=-1).reshape(-1, 2)
    near = torch.cdist(places, points).topk(2, largest=False)
    colours = _palette(draw, count)[near.indices[:, 0]].reshape(side, side, 3)
    gap = (near.values[:, 1] - near.values[:, 0]).reshape(side, side, 1) * count**0.5
    return colours * (gap * uniform(draw, 3, 20)).clamp(0.2, 1)


KINDS: tuple[Texture, ...] = (
    clouds,
    clouds,
    stripes,
    blobs,
    blobs,
    gradient,
    strokes,
    polygons,
    polygons,
    cells,
)


def draw_textures(count: int, *, side: int, seed: int) -> list[Float[Tensor, "h w 3"]]:
    """Draw pictures of every kind in turn; the same numbers give the same pictures."""
    return [
        KINDS[index % len(KINDS)](generator(seed, index), side).clamp(0, 1)
        for index in range(count)
    ]
