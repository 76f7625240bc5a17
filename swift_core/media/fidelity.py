"""How near one picture is to another, and how a video holds together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from ..shapes import Float, Tensor

ROWS = 4
"""Of so many rows of a frame one is looked at: a video is judged while its next frames are made."""


def psnr(picture: Float[Tensor, "*axes"], truth: Float[Tensor, "*axes"]) -> float:
    """Give the peak signal-to-noise ratio in dB, for values in [0, 1]; infinite if equal."""
    error = (picture.double() - truth.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


@dataclass(frozen=True, kw_only=True)
class SegmentFidelity:
    """How a segment's frames fit the picture, and the frame before them.

    Attributes:
        join: how much changes from the frame before it to its first one, as a multiple of what
            usually changes where a latent frame begins; None where nothing does.
        sharpness: mean slope, as a share of the picture's; None where that is flat.
        colour: mean red, green and blue less the picture's, in levels of 255.
    """

    join: float | None
    sharpness: float | None
    colour: tuple[float, float, float]

    def as_data(self) -> dict[str, Any]:
        """Give it as JSON does."""
        return {
            "join": _finite(self.join),
            "sharpness": _finite(self.sharpness),
            "colour": [_finite(channel) for channel in self.colour],
        }


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What a finished video shows of how it was made.

    What moves by itself changes too: numbers that stand out are where to look, not what is wrong.

    Attributes:
        first_frame_psnr_db: of the first frame to the picture; infinite if they are equal.
        segments: one after the other; the first one's join is with the picture.
    """

    first_frame_psnr_db: float
    segments: tuple[SegmentFidelity, ...]

    def as_data(self) -> dict[str, Any]:
        """Give it as JSON does."""
        return {
            "first_frame_psnr_db": _finite(self.first_frame_psnr_db),
            "segments": [segment.as_data() for segment in self.segments],
        }


class FidelityMeter:
    """Watch a video go by.

    Args:
        picture: at the size of the frames.
        starts: the first pixel frame of each segment, ascending; frame 0 is the picture's.
        time: pixel frames that a latent frame after the first makes.
    """

    def __init__(
        self, picture: Float[Tensor, "h w 3"], starts: Sequence[int], *, time: int
    ) -> None:
        self._picture = picture
        self._starts = tuple(starts)
        self._time = time
        self._before: Tensor | None = None
        self._first_psnr = math.nan
        self._changes: list[float] = []
        self._slopes: list[float] = []
        self._colours: list[tuple[float, ...]] = []

    def watch(self, frames: Float[Tensor, "p h w 3"]) -> None:
        """See the next frames."""
        for frame in frames:
            if self._before is None:
                self._first_psnr = psnr(frame, self._picture)
            rows = frame[::ROWS]
            before = rows if self._before is None else self._before
            self._changes.append(float((rows - before).abs().mean()))
            self._slopes.append(_slope(rows))
            self._colours.append(_colour(rows))
            self._before = rows.clone()

    def read(self) -> Fidelity:
        """Judge what has gone by: the whole video."""
        ends = (*self._starts[1:], len(self._changes))
        usual = self._usual_change()
        rows = self._picture[::ROWS]
        slope, colour = _slope(rows), _colour(rows)

        def judge(start: int, end: int) -> SegmentFidelity:
            means = [fmean(channel) for channel in zip(*self._colours[start:end], strict=True)]
            red, green, blue = (255 * (a - b) for a, b in zip(means, colour, strict=True))
            return SegmentFidelity(
                join=self._changes[start] / usual if usual else None,
                sharpness=fmean(self._slopes[start:end]) / slope if slope else None,
                colour=(red, green, blue),
            )

        spans = zip(self._starts, ends, strict=True)
        segments = tuple(judge(start, end) for start, end in spans)
        return Fidelity(first_frame_psnr_db=self._first_psnr, segments=segments)

    def _usual_change(self) -> float:
        """Give what changes from one latent frame to the next inside of segments, or anywhere."""
        steps = range(1, len(self._changes), self._time)
        inside = [self._changes[at] for at in steps if at not in self._starts]
        return median(inside or [self._changes[at] for at in steps] or [0.0])


def _finite(number: float | None) -> float | None:
    """Give a number as JSON does, which knows no infinity, nor what is none."""
    return number if number is not None and math.isfinite(number) else None


def _slope(rows: Float[Tensor, "r w 3"]) -> float:
    """Give how much a pixel differs from its neighbor in the row."""
    return float(rows.diff(dim=1).abs().mean())


def _colour(rows: Float[Tensor, "r w 3"]) -> tuple[float, ...]:
    return tuple(float(channel) for channel in rows.mean(dim=(0, 1)))
