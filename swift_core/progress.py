"""How the core tells what it is doing, and how it is stopped: one call for both.

An observer is called after every sampling step and every VAE chunk. It may raise anything: the
core lets it pass and releases what it holds. So a cancel button is an observer that raises.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from .shapes import Tensor


class Phase(Enum):
    """The stations of a run, in order."""

    MOTION = "motion"
    REFERENCE = "reference"
    REFINE = "refine"
    DECODE = "decode"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One unit of work done.

    Attributes:
        step: sampling steps or VAE chunks done in this phase (in this segment, if there are
            segments), from 1.
        steps: how many there will be.
        segment: the segment being sampled, from 0.
        segments: how many there are.
        preview: the clean estimate of the latent frames being sampled, ``"b c t h w"``.
    """

    phase: Phase
    step: int
    steps: int
    segment: int = 0
    segments: int = 1
    preview: Tensor | None = None


Observer = Callable[[Progress], None]


def ignore(_progress: Progress) -> None:
    """Observe nothing."""
