"""Batches that are made as needed, kept for a while, and replaced in turn.

The pool holds a window of batches that moves on as training does. A batch is made when it is first
drawn, and what it holds depends on its number alone; so a resumed run makes the same ones again.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from .chance import generator, whole
from .sizes import Diet

Batch = TypeVar("Batch")


class Pool(Generic[Batch]):
    """Keep a moving window of batches.

    Args:
        make: a batch from its number.
        diet: how many to keep, and how long.
        device: where batches are made.
    """

    def __init__(
        self, make: Callable[[int], Batch], diet: Diet, *, seed: int, device: torch.device
    ) -> None:
        self._make = make
        self._diet = diet
        self._seed = seed
        self._device = device
        self._held: dict[int, Batch] = {}

    def draw(self, step: int) -> tuple[int, Batch]:
        """Give the batch for a training step, and its number."""
        oldest = step // self._diet.refresh
        index = oldest + whole(generator(self._seed, 2, step), 0, self._diet.pool)
        for number in [number for number in self._held if number < oldest]:
            del self._held[number]
        if index not in self._held:
            # What is learned from is not rounded, whatever the step's arithmetic is.
            with torch.autocast(self._device.type, enabled=False), torch.no_grad():
                self._held[index] = self._make(index)
        return index, self._held[index]
