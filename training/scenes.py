"""Scenes in front of a moving camera: a flat picture, and sprites that move and occlude.

Everything is looked up at twice the resolution and averaged, so that motion is exact to a fraction
of a pixel and free of aliasing: what a picture shows between pixels is a smooth function.

World coordinates are output pixels of the first frame, from the view's centre. One canvas per clip
covers just what its path shows.

Axes: ``b c h w`` pictures on the device; ``b p h w 2`` places; sample points are ``h w`` twice the
output's.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from swift_core.shapes import Float, Tensor

from .chance import choose, happens, uniform, whole
from .moves import CameraPath

OVERSAMPLING = 2
CANVAS_DENSITY = 1.75
"""Canvas pixels per output pixel of the path's whole extent: enough for a view that narrows."""

SPRITE_SIDE = 96


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """A flat thing in the world that moves by itself.

    Attributes:
        pixels: colours, times the opacity, and the opacity.
        place: of its centre in each frame, world pixels.
        angle: by which it is turned in each frame.
        radius: half its side, world pixels.
    """

    pixels: Float[Tensor, "4 h w"]
    place: Float[Tensor, "p 2"]
    angle: Float[Tensor, " p"]
    radius: float


def sample_points(height: int, width: int, *, device: torch.device) -> Float[Tensor, "n 2"]:
    """List the sample points of a frame, in output pixels from its centre, row by row."""
    y = (torch.arange(height * OVERSAMPLING, device=device) + 0.5) / OVERSAMPLING - height / 2
    x = (torch.arange(width * OVERSAMPLING, device=device) + 0.5) / OVERSAMPLING - width / 2
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((columns, rows), dim=-1).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The rectangle of the world that a path shows, with a margin.

    Attributes:
        center: x and y.
        half: half its width and height.
    """

    center: Float[Tensor, " 2"]
    half: Float[Tensor, " 2"]


def extent_of(path: CameraPath, *, height: int, width: int) -> Extent:
    """Find what a path shows from beginning to end."""
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    seen = path.to_world(corners * torch.tensor([width / 2 + 1, height / 2 + 1])).reshape(-1, 2)
    low, high = seen.amin(0), seen.amax(0)
    return Extent(center=(low + high) / 2, half=(high - low) / 2)


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a picture.

    Attributes:
        top: first row.
        left: first column.
        height: rows.
        width: columns.
        transposed: whether the picture is laid on its side first.
        mirrored: whether the part is mirrored.
    """

    top: int
    left: int
    height: int
    width: int
    transposed: bool = False
    mirrored: bool = False


def middle_region(picture: Float[Tensor, "h w 3"], extent: Extent) -> Region:
    """Take the largest part with the extent's proportions, in the middle."""
    height, width = picture.shape[:2]
    high, wide = _largest(height, width, extent)
    return Region(top=(height - high) // 2, left=(width - wide) // 2, height=high, width=wide)


def draw_region(
    draw: torch.Generator, picture: Float[Tensor, "h w 3"], extent: Extent, *, closeness: float
) -> Region:
    """Take a part with the extent's proportions, anywhere.

    Args:
        closeness: 0 takes the largest part; 1 also parts as small as the extent itself, whose
            pixels are then shown one to one; smaller ones would only be blurred. Above 1, more
            of the smallest: at 2 half of all.
    """
    height, width = picture.shape[:2]
    transposed = happens(draw, 0.25)
    if transposed:
        height, width = width, height
    high, wide = _largest(height, width, extent)
    smallest = min(1.0, 2 * float(extent.half[1]) / high)
    share = max(smallest, smallest ** (closeness * uniform(draw))) * uniform(draw, 0.9, 1.0)
    high, wide = max(8, int(high * share)), max(8, int(wide * share))
    return Region(
        top=whole(draw, 0, height - high + 1),
        left=whole(draw, 0, width - wide + 1),
        height=high,
        width=wide,
        transposed=transposed,
        mirrored=happens(draw, 0.5),
    )


def _largest(height: int, width: int, extent: Extent) -> tuple[int, int]:
    ratio = float(extent.half[0] / extent.half[1])
    high = max(8, int(min(height, width / ratio)))
    return min(high, height), max(8, min(width, int(high * ratio)))


def cut_canvas(
    picture: Float[Tensor, "h w 3"], region: Region, size: tuple[int, int]
) -> Float[Tensor, "3 i j"]:
    """Cut a region out of a picture and bring it to a size."""
    if region.transposed:
        picture = picture.transpose(0, 1)
    rows = slice(region.top, region.top + region.height)
    columns = slice(region.left, region.left + region.width)
    part = picture[rows, columns].permute(2, 0, 1)[None]
    if region.mirrored:
        part = part.flip(-1)
    canvas = F.interpolate(part, size, mode="bicubic", antialias=True, align_corners=False)[0]
    return canvas.clamp(0, 1)


def draw_sprite(
    draw: torch.Generator,
    picture: Float[Tensor, "h w 3"],
    path: CameraPath,
    *,
    height: int,
    width: int,
) -> Sprite:
    """Cut a shape out of a picture and send it across the view."""
    square = Extent(center=torch.zeros(2), half=torch.ones(2))
    region = draw_region(draw, picture, square, closeness=0)
    colours = cut_canvas(picture, region, (SPRITE_SIDE, SPRITE_SIDE))
    opacity = _shape(draw).to(colours.device) * choose(draw, (1.0, 1.0, 1.0, 0.7))
    count = len(path.scale)
    time = torch.arange(count, dtype=torch.float32)
    side = torch.tensor([width, height], dtype=torch.float32)
    start = (torch.rand(2, generator=draw) - 0.5) * side
    speed = torch.randn(2, generator=draw) * 0.012 * min(height, width)
    return Sprite(
        pixels=torch.cat((colours * opacity, opacity)),
        place=start + speed * time[:, None],
        angle=uniform(draw, 0, math.tau) + uniform(draw, -0.04, 0.04) * time,
        radius=uniform(draw, 0.08, 0.3) * min(height, width),
    )


def _shape(draw: torch.Generator) -> Float[Tensor, "1 h w"]:
    """Draw an opacity: a disc, a polygon or an island, with an edge about two pixels wide."""
    axis = (torch.arange(SPRITE_SIDE) + 0.5) / SPRITE_SIDE * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    kind = whole(draw, 0, 3)
    if kind == 0:
        inside = 0.9 - (x.square() + (y / uniform(draw, 0.4, 1.0)).square()).sqrt()
    elif kind == 1:
        corners = whole(draw, 3, 7)
        sides = [math.tau * corner / corners + uniform(draw, 0, 0.5) for corner in range(corners)]
        inside = torch.stack([0.6 - x * math.cos(a) - y * math.sin(a) for a in sides]).amin(0)
    else:
        grid = torch.randn((1, 1, 6, 6), generator=draw)
        island = F.interpolate(grid, (SPRITE_SIDE, SPRITE_SIDE), mode="bicubic")[0, 0]
        inside = 0.5 * (island + 1.2 - 2 * (x.square() + y.square()))
    frame = torch.minimum(0.97 - x.abs(), 0.97 - y.abs())
    return (torch.minimum(inside, frame) * SPRITE_SIDE / 4 + 0.5).clamp(0, 1)[None]


def render(
    canvas: Float[Tensor, "3 i j"],
    extent: Extent,
    sprites: list[Sprite],
    path: CameraPath,
    *,
    height: int,
    width: int,
) -> Float[Tensor, "p 3 height width"]:
    """Film a scene: look every sample point up, sprites over the canvas, and average."""
    device = canvas.device
    size = (len(path.scale), OVERSAMPLING * height, OVERSAMPLING * width)
    world = path.to(device).to_world(sample_points(height, width, device=device))
    places = (world - extent.center.to(device)) / extent.half.to(device)
    film = _look_up(canvas, places, size, padding="reflection")
    for sprite in sprites:
        x, y = (world - sprite.place.to(device)[:, None]).unbind(-1)
        angle = sprite.angle.to(device)[:, None]
        cos, sin = angle.cos(), angle.sin()
        own = torch.stack((cos * x + sin * y, cos * y - sin * x), dim=-1) / sprite.radius
        seen = _look_up(sprite.pixels, own, size, padding="zeros")
        film = seen[:3] + (1 - seen[3:]) * film
    return F.avg_pool2d(film.movedim(0, 1), OVERSAMPLING)


def _look_up(
    picture: Float[Tensor, "c i j"],
    places: Float[Tensor, "p n 2"],
    size: tuple[int, int, int],
    *,
    padding: str,
) -> Float[Tensor, "c p h w"]:
    """Look a picture up at places in [-1, 1]; all frames as one tall picture."""
    frames, height, width = size
    grid = places.reshape(1, frames * height, width, 2)
    found = F.grid_sample(picture[None], grid, padding_mode=padding, align_corners=False)
    return found.reshape(len(picture), frames, height, width)
