"""The picture's detail carried along a small clip's motion into its enlarged frames.

Enlarging brings back nothing that the small clip does not show, but the picture has it, and most
of a frame was somewhere in the picture: there it is looked up. Of what is looked up, only what is
finer than the clip can be trusted with is taken; light and colour stay those of the clip, and
where the clip shows something else than the picture, so does the frame. What enlarging alone has
blurred, and the clip still shows, comes back by iterative back-projection (Irani and Peleg, 1991).
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from ..errors import GeometryError
from ..shapes import Float, Tensor
from .planes import (
    blur,
    double,
    is_inside,
    look_up,
    places_of,
    resize,
    resize_ways,
    size_of,
    slopes,
)
from .tracker import Tracker

FINE = 3.0
"""Sigma of what counts as structure when clip and picture are compared, in pixels of the clip."""

WINDOW = 4.0
"""Sigma of the neighborhood that is compared, in pixels of the clip."""

COARSE = 2.0
"""What is coarser than this sigma stays the clip's, in pixels of the clip."""

NOISE = 2 / 255
"""Structure fainter than this is no reason for mistrust."""

MOST_OFF = 0.3
"""Where clip and picture differ by as much over a neighborhood, nothing is carried."""

LEAST_LIKE, MOST_LIKE = 0.4, 0.9
USUAL_SHARE, RAMP = 0.9, 0.3
"""Full trust begins at a correlation of ``USUAL_SHARE`` of the frame's median, within the two
limits, and ends ``RAMP`` below: a clip that shows the picture well has no excuse for a place where
it does not; one that is poor everywhere has."""

BACK_PROJECTIONS = 2
"""How often what the enlarged frame lacks of the small one is enlarged and added: the first time
brings three quarters of what can be had, the second half of the rest."""

SOFT, SOFT_FROM = 1.0, 1.5
"""Sigma, in pixels, by which the picture is blurred where it is shown so many times smaller; up to
there, in part."""


def check_carry(carry: float) -> None:
    """Refuse a share of detail that is none.

    Raises:
        GeometryError: naming it.
    """
    if not 0 <= carry <= 1:
        raise GeometryError(
            f"carry is {carry:g}; it is a share of the picture's detail: from 0 (none) to 1 (all)."
        )


class DetailCarrier:
    """Carry a picture's detail through a clip, frame by frame.

    Args:
        picture: at the size of the large frames.
        height: of the small frames; likewise ``width``.
        share: of the detail that is carried, in (0, 1].
    """

    def __init__(
        self, picture: Float[Tensor, "h w 3"], *, height: int, width: int, share: float = 1.0
    ) -> None:
        planes = _planes(picture)
        self._dense = double(planes)
        self._soft = blur(planes, SOFT)
        self._share = share
        self._tracker = Tracker(resize(planes, height=height, width=width).clamp(0, 1))

    def carry(
        self, small: Float[Tensor, "i j 3"], large: Float[Tensor, "h w 3"]
    ) -> Float[Tensor, "h w 3"]:
        """Put detail into the clip's next frame.

        Args:
            small: the frame; the clip's frame 0 is the picture's own and does not come here.
            large: the same, enlarged.
        """
        with _one_thread():
            return self._carry(small, large)

    def _carry(
        self, small: Float[Tensor, "i j 3"], large: Float[Tensor, "h w 3"]
    ) -> Float[Tensor, "h w 3"]:
        frame, plain = _planes(small), _planes(large)
        enlarged = _back_project(frame, plain)
        ways = self._tracker.follow(frame)
        size = size_of(plain)
        places = places_of(plain) + resize_ways(ways, **size, mode="bicubic")
        seen = self._look_up(places)
        seen_small = resize(seen, **size_of(frame))
        trust = F.interpolate(_trust(frame, seen_small), (*size.values(),), mode="bilinear")
        trust = trust * is_inside(places, **size)
        coarse = resize(blur(seen_small - frame, COARSE), **size)
        made = enlarged + trust * (seen - enlarged - coarse)
        return plain.lerp(made, self._share).clamp_(0, 1)[0].permute(1, 2, 0)

    def _look_up(self, places: Float[Tensor, "1 2 h w"]) -> Float[Tensor, "1 3 h w"]:
        """Look the picture up; where it is shown smaller, without what would flicker there."""
        sharp = look_up(self._dense, 2 * places)
        (x_across, x_down), (y_across, y_down) = (slopes(places[:, n : n + 1]) for n in (0, 1))
        size = (x_across * y_down - x_down * y_across).abs().sqrt()
        soft = ((size - 1) / (SOFT_FROM - 1)).clamp(0, 1)
        return sharp.lerp(look_up(self._soft, places), soft)


@contextmanager
def _one_thread() -> Generator[None, None, None]:
    """Have a CPU compute on one core.

    Following a frame is hundreds of small operations. More threads bring nothing in them, but wait
    for each other after each, which beside other programs takes four times as long as the work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _planes(frame: Float[Tensor, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    return frame.permute(2, 0, 1)[None]


def _back_project(
    frame: Float[Tensor, "1 3 i j"], enlarged: Float[Tensor, "1 3 h w"]
) -> Float[Tensor, "1 3 h w"]:
    """Bring an enlarged frame nearer to one that, made small, is the small one again."""
    small, large = size_of(frame), size_of(enlarged)
    for _time in range(BACK_PROJECTIONS):
        enlarged = enlarged + resize(frame - resize(enlarged, **small), **large)
    return enlarged


def _trust(
    frame: Float[Tensor, "1 3 i j"], seen: Float[Tensor, "1 3 i j"]
) -> Float[Tensor, "1 1 i j"]:
    """Tell how far what was looked up is what the frame shows, in [0, 1]."""
    own, other = frame - blur(frame, FINE), seen - blur(seen, FINE)

    def around(product: Tensor) -> Tensor:
        return blur(product.sum(1, keepdim=True), WINDOW) + 3 * NOISE**2

    alike = around(own * other) / (around(own * own) * around(other * other)).sqrt()
    full = (USUAL_SHARE * alike.median()).clamp(LEAST_LIKE, MOST_LIKE)
    trust = ((alike - full + RAMP) / RAMP).clamp(0, 1)
    trust = trust * trust * (3 - 2 * trust)
    off = blur(frame - seen, WINDOW).abs().amax(1, keepdim=True) / MOST_OFF
    return trust * (1 - off.square()).clamp(min=0)
