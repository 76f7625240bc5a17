"""Clips made on the fly: pictures, filmed by a moving camera, with sprites in front.

A clip depends on the maker's seed and on its own number, and on nothing else.

Axes: ``b p h w 3`` clips in [0, 1].
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from swift_core.geometry import PixelShape
from swift_core.shapes import Float, Tensor

from .chance import choose, generator, happens, uniform, whole
from .colours import mix_colours
from .moves import SPEED_WORDS, CameraPath, Move, draw_move, follow, shake
from .pictures import load_photographs
from .scenes import (
    CANVAS_DENSITY,
    Extent,
    Region,
    cut_canvas,
    draw_region,
    draw_sprite,
    extent_of,
    middle_region,
    render,
)
from .textures import draw_textures

TEXTURES = 120
TEXTURE_SIDE = 384
VIEW_HEIGHT = 5 / 8
"""Height of a whole view, as a share of its width."""


@dataclass(frozen=True, kw_only=True)
class ClipStyle:
    """What kind of clips to make.

    Attributes:
        photographs: share of clips that show a photograph; the others show a texture.
        mixing: share of clips whose colours are mixed.
        sprites: most sprites in a clip.
        closeness: how small a part of a picture is shown; see ``draw_region``.
        steady: whether the camera does exactly what its name says, at one of the named speeds.
        view: width in pixels of the view that a clip is a part of, anywhere in it: things then run
            as fast as in clips of that width; None: a clip is the whole view.
    """

    photographs: float
    mixing: float
    sprites: int
    closeness: float
    steady: bool
    view: int | None = None


VARIED = ClipStyle(photographs=0.6, mixing=0.75, sprites=2, closeness=1.0, steady=False)
"""For Stage II: everything can happen."""

NATURAL = ClipStyle(photographs=0.85, mixing=0.25, sprites=1, closeness=2.0, steady=False, view=512)
"""For the VAE: mostly small parts of photographs as they are, moving as parts of a large view."""

STEADY = ClipStyle(photographs=0.75, mixing=0.6, sprites=0, closeness=0.3, steady=True)
"""For Stage I: what happens can be foretold from the first frame and the move's name."""

PLAIN = ClipStyle(photographs=1.0, mixing=0.0, sprites=0, closeness=0.0, steady=True)
"""For judging: photographs as they are."""


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Clips of one size.

    Attributes:
        pixels: in [0, 1].
        moves: what the camera does in each.
    """

    pixels: Float[Tensor, "b p h w 3"]
    moves: tuple[Move, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Name the moves."""
        return tuple(move.words for move in self.moves)


class ClipMaker:
    """Make clips of one side of the split.

    Args:
        held_out: whether of the pictures kept for judging; they come without textures.
        textures: how many to draw.
        cache: see ``load_photographs``.
    """

    def __init__(
        self,
        *,
        seed: int,
        device: torch.device,
        held_out: bool = False,
        textures: int = TEXTURES,
        cache: Path | None = None,
    ) -> None:
        self.seed = seed
        self.device = device
        photographs = load_photographs(held_out=held_out, cache=cache)
        self.names = tuple(photographs)
        self.photographs = [picture.to(device) for picture in photographs.values()]
        count = 0 if held_out else textures
        drawn = draw_textures(count, side=TEXTURE_SIDE, seed=seed)
        self.textures = [texture.to(device) for texture in drawn]

    def make(self, index: int, *, count: int, shape: PixelShape, style: ClipStyle) -> ClipBatch:
        """Make a batch of clips.

        Args:
            index: of the batch: the same gives the same clips.
        """
        clips: list[Tensor] = []
        moves: list[Move] = []
        for number in range(count):
            draw = generator(self.seed, index, number)
            move = draw_move(draw, speed=_draw_speed(draw, style))
            path = follow(move, pixel_frames=shape.pixel_frames, width=style.view or shape.width)
            if style.view:
                path = _draw_part(draw, path, shape, style.view)
            if not style.steady:
                path = shake(path, draw, strength=uniform(draw, 0, 4))
            clips.append(self._film(draw, path, shape, style))
            moves.append(move)
        return ClipBatch(pixels=torch.stack(clips), moves=tuple(moves))

    def film(self, picture: int, move: Move, *, shape: PixelShape) -> Float[Tensor, "p h w 3"]:
        """Film the middle of one photograph with one move, without chance."""
        return film_middle(self.photographs[picture], move, shape=shape)

    def _draw_picture(self, draw: torch.Generator, style: ClipStyle) -> Tensor:
        if not self.textures or happens(draw, style.photographs):
            return choose(draw, self.photographs)
        return choose(draw, self.textures)

    def _film(
        self, draw: torch.Generator, path: CameraPath, shape: PixelShape, style: ClipStyle
    ) -> Float[Tensor, "p h w 3"]:
        """Cut and colour a canvas, add sprites, and render."""
        size = {"height": shape.height, "width": shape.width}
        picture = self._draw_picture(draw, style)
        extent = extent_of(path, **size)
        region: Region = draw_region(draw, picture, extent, closeness=style.closeness)
        canvas = cut_canvas(picture, region, _canvas_size(shape, extent if style.view else None))
        if happens(draw, style.mixing):
            canvas = mix_colours(draw, canvas)
        sprites = [
            draw_sprite(draw, self._draw_picture(draw, style), path, **size)
            for _ in range(whole(draw, 0, style.sprites + 1))
        ]
        film = render(canvas, extent, sprites, path, **size)
        return film.clamp(0, 1).permute(0, 2, 3, 1)


def film_middle(
    picture: Float[Tensor, "h w 3"], move: Move, *, shape: PixelShape
) -> Float[Tensor, "p i j 3"]:
    """Film the middle of a picture with one move."""
    path = follow(move, pixel_frames=shape.pixel_frames, width=shape.width)
    extent = extent_of(path, height=shape.height, width=shape.width)
    canvas = cut_canvas(picture, middle_region(picture, extent), _canvas_size(shape))
    film = render(canvas, extent, [], path, height=shape.height, width=shape.width)
    return film.clamp(0, 1).permute(0, 2, 3, 1)


def _canvas_size(shape: PixelShape, extent: Extent | None = None) -> tuple[int, int]:
    """Give a canvas's rows and columns: for a clip's own size, or for all that its path shows."""
    width, height = (shape.width, shape.height) if extent is None else 2 * extent.half
    return round(CANVAS_DENSITY * float(height)), round(CANVAS_DENSITY * float(width))


def _draw_part(draw: torch.Generator, path: CameraPath, shape: PixelShape, view: int) -> CameraPath:
    """Draw a part of a view as wide as named, and of the usual proportions; follow it."""
    room = torch.tensor([view - shape.width, view * VIEW_HEIGHT - shape.height]).clamp(min=0)
    offset = (torch.rand(2, generator=draw) - 0.5) * room
    center = path.to_world(offset[None])[:, 0]
    return CameraPath(center=center, scale=path.scale, angle=path.angle)


def _draw_speed(draw: torch.Generator, style: ClipStyle) -> float:
    if style.steady:
        return choose(draw, tuple(SPEED_WORDS.values()))
    return uniform(draw, 0.2, 2.5)
