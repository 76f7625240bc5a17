"""Where each place of a clip's frame was in its first frame: optical flow.

Every frame is compared with the first one, not with the one before, so errors do not add up; the
way found for the frame before is where the search begins. First one affine move is fitted to the
whole frame, which is mostly the camera's; then what each place does beside it, held to the move
the more, the less the frame agrees with the first one at all. Both go from small copies of the
frames to large ones and solve for the step that explains what is left (Gauss-Newton).

Source: Lucas & Kanade, "An iterative image registration technique" (1981); Bergen et al.,
"Hierarchical model-based motion estimation" (1992).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..shapes import Float, Tensor
from .planes import blur, is_inside, look_up, places_of, resize, resize_ways, slopes

SMALLEST_SIDE = 16
"""Copies are halved while no side falls below this."""

WINDOW = 2.0
"""Sigma of the neighborhood that moves with a place, in pixels."""

CAMERA_STEPS, EXPLORING_STEPS, SETTLING_STEPS = 4, 2, 2
"""How often the whole frame's move is solved for in each copy; and the places', free and held."""

FREE, HELD = 2.0, 0.3
"""How far a place is thought to leave the whole frame's move, in pixels, while the noise of a
frame is not known yet, and then."""

NOISE = 1 / 255
"""What frames differ by that show the same."""

EVIDENCE = 2.0
"""How much a window's pixels count as independent ones."""

MOST_STEP = 2.0
"""The farthest a place goes in one step, in pixels."""

CAMERA_LEEWAY, MOST_CAMERA_STEP = 0.1, 0.2
"""How far the whole frame is thought to go in one step, and the farthest, as shares of half its
sides."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The first frame and the present one at one size, and what every comparison needs of them.

    Attributes:
        first: frame 0.
        frame: the present one.
        across: slope of the present one; likewise ``down``.
        places: each pixel's own.
        basis: what an affine move is made of: 1, x and y, in [-1, 1].
    """

    first: Float[Tensor, "1 c h w"]
    frame: Float[Tensor, "1 c h w"]
    across: Float[Tensor, "1 c h w"]
    down: Float[Tensor, "1 c h w"]
    places: Float[Tensor, "1 2 h w"]
    basis: Float[Tensor, "3 h w"]

    @property
    def size(self) -> tuple[int, int]:
        """Give height and width."""
        return self.frame.shape[2], self.frame.shape[3]

    def move(self, camera: Float[Tensor, "2 3"]) -> Float[Tensor, "1 2 h w"]:
        """Lay an affine move out over the frame; it is given in half sides."""
        height, width = self.size
        x, y = torch.einsum("dk,khw->dhw", camera, self.basis)
        return torch.stack((x * (width / 2), y * (height / 2)))[None]


@dataclass(frozen=True, kw_only=True)
class _Match:
    """How a frame differs from the first one, looked up where it is thought to come from.

    Attributes:
        across: slope of both; likewise ``down``.
        error: what the frame has more, without what changes slowly: light is not motion.
        inside: 1 where the first frame shows the place.
        local: the error's square around each place.
        usual: the median of ``local``: what stands out, because it moves in its own way or was
            hidden, does not make the rest uncertain.
    """

    across: Float[Tensor, "1 c h w"]
    down: Float[Tensor, "1 c h w"]
    error: Float[Tensor, "1 c h w"]
    inside: Float[Tensor, "1 1 h w"]
    local: Float[Tensor, "1 1 h w"]
    usual: Float[Tensor, ""]


class Tracker:
    """Follow a clip, frame by frame.

    Args:
        first: frame 0.
    """

    def __init__(self, first: Float[Tensor, "1 c h w"]) -> None:
        self._first = _pyramid(first)
        self._camera = first.new_zeros((2, 3))
        self._beside = first.new_zeros((1, 2, *first.shape[2:]))

    def follow(self, frame: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 2 h w"]:
        """Find for each pixel of the next frame how far away it was in the first one: x and y."""
        copies = zip(reversed(self._first), reversed(_pyramid(frame)), strict=True)
        pairs = [_pair(first, copy) for first, copy in copies]
        for pair in pairs:
            self._camera = _follow_camera(pair, self._camera)
        for pair in pairs:
            before = resize_ways(self._beside, *pair.size, mode="bilinear")
            after = _follow_places(pair, pair.move(self._camera), before)
            # Only what this size adds is enlarged, so that larger ones keep what is fine.
            added = resize_ways(after - before, *pairs[-1].size, mode="bilinear")
            self._beside = self._beside + added
        return pairs[-1].move(self._camera) + self._beside


def _pyramid(frame: Float[Tensor, "1 c h w"]) -> list[Tensor]:
    """Give a frame and ever smaller copies of it."""
    copies = [frame]
    while min(copies[-1].shape[2:]) >= 2 * SMALLEST_SIDE:
        height, width = copies[-1].shape[2:]
        copies.append(resize(copies[-1], height=height // 2, width=width // 2))
    return copies


def _pair(first: Float[Tensor, "1 c h w"], frame: Float[Tensor, "1 c h w"]) -> _Pair:
    """Put two copies of one size side by side."""
    across, down = slopes(frame)
    return _Pair(
        first=first,
        frame=frame,
        across=across,
        down=down,
        places=places_of(frame),
        basis=_basis(frame.shape[2], frame.shape[3], frame),
    )


def _basis(height: int, width: int, like: Tensor) -> Float[Tensor, "3 h w"]:
    """Give what an affine move is made of: 1, x and y, in [-1, 1]."""
    x = (torch.arange(width, dtype=like.dtype, device=like.device) * 2 + 1) / width - 1
    y = (torch.arange(height, dtype=like.dtype, device=like.device) * 2 + 1) / height - 1
    x, y = x.expand(height, width), y[:, None].expand(height, width)
    return torch.stack((torch.ones_like(x), x, y))


def _match(pair: _Pair, ways: Float[Tensor, "1 2 h w"]) -> _Match:
    """Compare a frame with the first one, looked up along the ways."""
    height, width = pair.size
    places = pair.places + ways
    seen = look_up(pair.first, places)
    seen_across, seen_down = slopes(seen)
    error = pair.frame - seen
    error = error - blur(error, 2 * WINDOW)
    inside = is_inside(places, height=height, width=width)
    local = blur(error.square().mean(1, keepdim=True), 1.0)
    return _Match(
        across=(pair.across + seen_across) / 2,
        down=(pair.down + seen_down) / 2,
        error=error,
        inside=inside,
        local=local,
        usual=local.median(),
    )


def _follow_camera(pair: _Pair, camera: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
    """Fit one affine move to a whole frame; what differs much from the first one counts little."""
    height, width = pair.size
    for _step in range(CAMERA_STEPS):
        found = _match(pair, pair.move(camera))
        usual = found.usual + 3 * NOISE**2
        weight = found.inside * usual / (usual + found.local).square()
        by = torch.cat(
            (
                found.across[0, :, None] * pair.basis * (width / 2),
                found.down[0, :, None] * pair.basis * (height / 2),
            ),
            dim=1,
        )
        weighted = by * weight[0, :, None]
        normal = torch.einsum("cihw,cjhw->ij", weighted, by)
        wanted = torch.einsum("cihw,chw->i", weighted, found.error[0])
        # Where a frame is flat, this keeps the step at nothing.
        ridge = 1e-6 * normal.diagonal().mean() + 1 / CAMERA_LEEWAY**2
        normal = normal + ridge * torch.eye(6, dtype=normal.dtype, device=normal.device)
        step = _solve(normal, wanted)
        camera = camera + step.reshape(2, 3).clamp(-MOST_CAMERA_STEP, MOST_CAMERA_STEP)
    return camera


def _solve(matrix: Float[Tensor, "n n"], values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Solve a linear system; unlike ``torch.linalg.solve``, this waits for no device."""
    solve: Any = getattr(torch.linalg, "solve_ex")  # noqa: B009 - torch has no type for it
    return solve(matrix, values)[0]


def _follow_places(
    pair: _Pair, move: Float[Tensor, "1 2 h w"], beside: Float[Tensor, "1 2 h w"]
) -> Float[Tensor, "1 2 h w"]:
    """Find what each place does beside the move.

    At first places are nearly free. What then still differs is noise, and held against it they
    settle: in a clean clip where they are, in a poor one close to the move.
    """
    for _step in range(EXPLORING_STEPS):
        found = _match(pair, move + beside)
        beside = _step_places(found, found.usual + 3 * NOISE**2, beside, leeway=FREE)
    noise: Tensor | None = None
    for _step in range(SETTLING_STEPS):
        found = _match(pair, move + beside)
        noise = 2 * found.usual + 6 * NOISE**2 if noise is None else noise
        beside = _step_places(found, noise, beside, leeway=HELD)
    return beside


def _step_places(
    found: _Match, noise: Tensor, beside: Float[Tensor, "1 2 h w"], *, leeway: float
) -> Float[Tensor, "1 2 h w"]:
    """Go the step that explains each window's error best, and smooth it by how sure it is."""
    across, down, error = found.across, found.down, found.error
    products = (across * across, across * down, down * down, across * error, down * error)
    sums = torch.stack([each.sum(1) for each in products], dim=1)
    sums = sums * found.inside / (noise + found.local)
    counted = 4 * math.pi * WINDOW**2 * EVIDENCE
    xx, xy, yy, xe, ye = (blur(sums, WINDOW) * counted).unbind(1)
    # How sure the less sure direction is: the smaller eigenvalue.
    sure = ((xx + yy) / 2 - (((xx - yy) / 2).square() + xy.square()).sqrt()).clamp(min=0)
    hold = 1 / leeway**2
    xe, ye = xe - hold * beside[:, 0], ye - hold * beside[:, 1]
    xx, yy = xx + hold, yy + hold
    step = torch.stack((yy * xe - xy * ye, xx * ye - xy * xe), dim=1)
    step = step / (xx * yy - xy.square())[:, None]
    beside = beside + step.clamp(-MOST_STEP, MOST_STEP)
    weight = (sure / (sure + hold))[:, None] * noise / (noise + found.local) + 1e-3
    return blur(beside * weight, WINDOW) / blur(weight, WINDOW)
