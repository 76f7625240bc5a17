"""How the core tells what it is doing, and how it is stopped: one call for both.

An observer is called after every sampling step and every VAE chunk. It may raise anything: the
core lets it pass and releases what it holds. So a cancel button is an observer that raises.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from .shapes import Tensor


class Phase(Enum):
    """The stations of a run, in order."""

    MOTION_CONDITION = "motion: picture"
    MOTION = "motion"
    MOTION_DECODE = "motion: decode"
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


Item = TypeVar("Item")

Observer = Callable[[Progress], None]


def ignore(_progress: Progress) -> None:
    """Observe nothing."""


def observed(
    items: Iterable[Item], *, phase: Phase, steps: int, observe: Observer
) -> Iterator[Item]:
    """Pass items on, and tell the observer of each one that has come."""
    for step, item in enumerate(items, start=1):
        observe(Progress(phase=phase, step=step, steps=steps))
        yield item
