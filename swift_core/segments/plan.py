"""Which latent frames each segment samples and which it sees: pure whole numbers.

Latent frame 0 is the picture, the anchor: every segment sees it and none samples it. The targets
1 ... l-1 are covered once, in order. A segment also sees neighbors: finished frames to its left
and, if asked for, frames to its right as the reference has them before refinement.
"""

from dataclasses import dataclass
from enum import Enum

from ..errors import SegmentError


class BlockRole(Enum):
    """What a latent frame is to a segment."""

    ANCHOR = "anchor"
    NEIGHBOR = "neighbor"
    TARGET = "target"


class RopePositions(Enum):
    """How a segment's frames are placed in time."""

    GLOBAL = "global"
    """By their index in the clip."""
    LOCAL = "local"
    """By their place in the segment: 0, 1, 2, ..."""


class Interaction(Enum):
    """Whether conditions look back at the targets."""

    BIDIRECTIONAL = "bidirectional"
    """All frames attend to all: the paper's way, conditions are computed in every step."""
    READ_ONLY = "read-only"
    """Conditions attend only to conditions: the paper's ablation, computed once per segment."""


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """How a clip is cut into segments.

    Attributes:
        segment_length: latent frames sampled together (the paper's M), at least 1.
        neighbors: finished latent frames seen to the left (the paper's N).
        right_neighbors: latent frames seen to the right, from the unrefined reference. The
            paper's page says "on each side", its figure draws none.
        rope: places in time; the paper does not say.
        interaction: whether conditions look back.
    """

    segment_length: int = 3
    neighbors: int = 1
    right_neighbors: int = 0
    rope: RopePositions = RopePositions.GLOBAL
    interaction: Interaction = Interaction.BIDIRECTIONAL

    def __post_init__(self) -> None:
        if self.segment_length < 1:
            raise SegmentError(
                f"segment_length is {self.segment_length}; a segment samples at least 1 frame."
            )
        for name in ("neighbors", "right_neighbors"):
            if getattr(self, name) < 0:
                raise SegmentError(f"{name} is {getattr(self, name)}; it must be 0 or more.")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One sampling unit, by indices of latent frames.

    Attributes:
        index: place among the segments, from 0.
        left: neighbors before the targets, rising; never 0.
        targets: frames to sample, rising and without gaps.
        right: neighbors after the targets, rising.
        positions: place in time of each frame of ``latent_frames``.
    """

    index: int
    left: tuple[int, ...]
    targets: tuple[int, ...]
    right: tuple[int, ...]
    positions: tuple[int, ...]

    @property
    def latent_frames(self) -> tuple[int, ...]:
        """All frames of the segment: anchor, left neighbors, targets, right neighbors."""
        return (0, *self.left, *self.targets, *self.right)

    @property
    def target_slice(self) -> slice:
        """Where the targets stand in ``latent_frames``."""
        begin = 1 + len(self.left)
        return slice(begin, begin + len(self.targets))

    @property
    def roles(self) -> tuple[BlockRole, ...]:
        """What each frame of ``latent_frames`` is."""
        return (
            BlockRole.ANCHOR,
            *(BlockRole.NEIGHBOR for _ in self.left),
            *(BlockRole.TARGET for _ in self.targets),
            *(BlockRole.NEIGHBOR for _ in self.right),
        )


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """All segments of a clip."""

    latent_frames: int
    settings: SegmentSettings
    segments: tuple[Segment, ...]

    @property
    def largest(self) -> int:
        """Latent frames in the largest segment: what memory must be ready for."""
        return max((len(segment.latent_frames) for segment in self.segments), default=0)


def plan_segments(latent_frames: int, settings: SegmentSettings) -> SegmentPlan:
    """Cut a clip into segments.

    Where a segment is short of targets (the last one) or of right neighbors (near the end), it
    gets more left neighbors, as far as there are any: so, with ``neighbors <= segment_length``,
    every segment after the first sees the same number of frames, one shape to compile for and
    one to have memory for.

    Args:
        latent_frames: of the clip, the anchor included; at least 1. With 1 there is nothing to
            sample and the plan is empty.

    Raises:
        SegmentError: if ``latent_frames`` is below 1.
    """
    if latent_frames < 1:
        raise SegmentError(f"a clip of {latent_frames} latent frames cannot be planned.")
    size = settings.neighbors + settings.segment_length + settings.right_neighbors
    segments: list[Segment] = []
    for begin in range(1, latent_frames, settings.segment_length):
        end = min(begin + settings.segment_length, latent_frames)
        right = tuple(range(end, min(end + settings.right_neighbors, latent_frames)))
        left_count = size - (end - begin) - len(right)
        left = tuple(range(max(1, begin - left_count), begin))
        frames = (0, *left, *range(begin, end), *right)
        local = settings.rope is RopePositions.LOCAL
        segments.append(
            Segment(
                index=len(segments),
                left=left,
                targets=tuple(range(begin, end)),
                right=right,
                positions=tuple(range(len(frames))) if local else frames,
            )
        )
    return SegmentPlan(latent_frames=latent_frames, settings=settings, segments=tuple(segments))
