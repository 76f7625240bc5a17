"""Camera moves: what they are called, and where they take the view.

A view looks at a flat world, measured in output pixels at the first frame: its centre, how many
world pixels one output pixel covers, and how far the picture is turned. Names say what the camera
does: with "pan left" the view goes left, so that the content runs to the right; with "zoom in" it
narrows; with "rotate clockwise" the content turns clockwise on the screen.
"""

import math
from dataclasses import dataclass

import torch

from swift_core.shapes import Float, Tensor

from .chance import choose, happens, uniform, whole

ZOOM_RATE = 0.008
"""How much the logarithm of the view's width changes in a frame: 1.5 times in 49 frames."""

PAN_RATE = 0.004
"""How far the view goes in a frame, as a share of its width: a fifth in 49 frames."""

TURN_RATE = math.radians(0.4)
"""How far the picture turns in a frame: 20 degrees in 49 frames."""

SPEED_WORDS = {"slow": 0.5, "": 1.0, "fast": 2.0}


@dataclass(frozen=True, kw_only=True)
class Move:
    """What the camera does; each direction is -1, 0 or 1.

    Attributes:
        zoom: 1 in, -1 out.
        pan_x: 1 right, -1 left.
        pan_y: 1 down, -1 up.
        turn: 1 clockwise, -1 counterclockwise.
        speed: as a multiple of the usual rates.
    """

    zoom: int = 0
    pan_x: int = 0
    pan_y: int = 0
    turn: int = 0
    speed: float = 1.0

    @property
    def parts(self) -> tuple[str, ...]:
        """Name the directions, as they stand in a prompt."""
        names = (
            {1: "zoom in", -1: "zoom out"}.get(self.zoom),
            {1: "pan right", -1: "pan left"}.get(self.pan_x),
            {1: "pan down", -1: "pan up"}.get(self.pan_y),
            {1: "rotate clockwise", -1: "rotate counterclockwise"}.get(self.turn),
        )
        return tuple(name for name in names if name) or ("still",)

    @property
    def words(self) -> str:
        """Name the whole move."""
        return " and ".join(self.parts)


SINGLE_MOVES = (
    Move(zoom=1),
    Move(zoom=-1),
    Move(pan_x=-1),
    Move(pan_x=1),
    Move(pan_y=-1),
    Move(pan_y=1),
    Move(turn=1),
    Move(turn=-1),
)
"""Every direction alone."""


def draw_move(draw: torch.Generator, *, speed: float = 1.0) -> Move:
    """Draw a move: mostly one direction, sometimes two or three, sometimes none."""
    if happens(draw, 0.08):
        return Move(speed=speed)
    axes = ["zoom", "pan_x", "pan_y", "turn"]
    count = choose(draw, (1, 1, 1, 2, 2, 3))
    chosen: dict[str, int] = {}
    for _ in range(count):
        chosen[axes.pop(whole(draw, 0, len(axes)))] = choose(draw, (-1, 1))
    return Move(
        zoom=chosen.get("zoom", 0),
        pan_x=chosen.get("pan_x", 0),
        pan_y=chosen.get("pan_y", 0),
        turn=chosen.get("turn", 0),
        speed=speed,
    )


@dataclass(frozen=True, kw_only=True)
class CameraPath:
    """Where the view is in each frame.

    Attributes:
        center: of the view, in world pixels, x and y.
        scale: world pixels per output pixel.
        angle: by which the content is turned clockwise, in radians.
    """

    center: Float[Tensor, "p 2"]
    scale: Float[Tensor, " p"]
    angle: Float[Tensor, " p"]

    def to(self, device: torch.device) -> "CameraPath":
        """Bring the path to a device."""
        return CameraPath(
            center=self.center.to(device),
            scale=self.scale.to(device),
            angle=self.angle.to(device),
        )

    def to_world(self, points: Float[Tensor, "n 2"]) -> Float[Tensor, "p n 2"]:
        """Find what each frame shows at points given in output pixels from its centre."""
        # Content turned clockwise (y points down) is content looked up turned the other way. No
        # matrix product: a GPU may round one to 11 bits, which is a quarter of a pixel.
        cos, sin = (self.angle.cos()[:, None], self.angle.sin()[:, None])
        x, y = points[:, 0], points[:, 1]
        turned = torch.stack((cos * x + sin * y, cos * y - sin * x), dim=-1)
        return self.center[:, None] + self.scale[:, None, None] * turned


def follow(move: Move, *, pixel_frames: int, width: int) -> CameraPath:
    """Lay out a move at constant speed from the world's origin.

    Args:
        width: of the view, in output pixels.
    """
    time = torch.arange(pixel_frames, dtype=torch.float32)
    scale = torch.exp(-ZOOM_RATE * move.speed * move.zoom * time)
    step = PAN_RATE * move.speed * width
    # A step is a share of what the view shows now, which zooming changes.
    gone = torch.cat((torch.zeros(1), scale[:-1].cumsum(0))) * step
    return CameraPath(
        center=torch.stack((gone * move.pan_x, gone * move.pan_y), dim=-1),
        scale=scale,
        angle=TURN_RATE * move.speed * move.turn * time,
    )


def shake(path: CameraPath, draw: torch.Generator, *, strength: float) -> CameraPath:
    """Add slow drift and hand shake to a path, none of it in frame 0.

    Args:
        strength: of the shake, in output pixels.
    """
    count = len(path.scale)
    walk = torch.randn((count, 2), generator=draw).cumsum(0) / max(1.0, count**0.5)
    jitter = torch.randn((count, 2), generator=draw) * uniform(draw, 0, 0.3)
    offset = strength * (walk + jitter)
    return CameraPath(center=path.center + offset - offset[:1], scale=path.scale, angle=path.angle)
