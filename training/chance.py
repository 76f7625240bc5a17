"""Chance that depends on numbers, never on what was drawn before.

Every draw comes from a generator made of a seed and the place where it is used. So a run that is
resumed at step 1000 draws what an uninterrupted one draws there, and nothing of it is saved.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

Item = TypeVar("Item")


def generator(*numbers: int) -> torch.Generator:
    """Make the generator of a place, named by whole numbers of at least 0; always on the CPU."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator("cpu").manual_seed(int(state))


def uniform(draw: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """Draw a number between two."""
    return low + (high - low) * float(torch.rand((), generator=draw))


def whole(draw: torch.Generator, low: int, high: int) -> int:
    """Draw a whole number from ``low`` up to, but not including, ``high``."""
    return int(torch.randint(low, high, (), generator=draw))


def choose(draw: torch.Generator, items: Sequence[Item]) -> Item:
    """Draw one of some items."""
    return items[whole(draw, 0, len(items))]


def happens(draw: torch.Generator, probability: float) -> bool:
    """Draw whether something happens."""
    return uniform(draw) < probability
