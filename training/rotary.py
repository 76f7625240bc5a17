"""Attention by hand: rows of projections whose rotary phases make a head look where it is told."""

import math

from swift_core.model.attention import Attention
from swift_core.model.config import DiTConfig

THETA = 10000.0


class Rows:
    """The pairs of rows of one head in its projections, by axis (``t h w``) and frequency."""

    def __init__(self, config: DiTConfig, head: int) -> None:
        time, side, _ = config.rope_dims
        self.first = head * config.head_dim
        self.starts = {"t": 0, "h": time, "w": time + side}
        self.sizes = {"t": time, "h": side, "w": side}
        self.slowest = time // 2 - 1
        self.scale = config.head_dim**0.25

    def pair(self, axis: str, frequency: int) -> int:
        """Give the first of two rows; frequency 0 is the fastest."""
        return self.first + self.starts[axis] + 2 * frequency

    def frequency(self, axis: str, frequency: int) -> float:
        """Give a frequency in radians per place."""
        return THETA ** (-2 * frequency / self.sizes[axis])

    def size(self, score: float) -> float:
        """Give how large query and key must be to add that much to a score."""
        return self.scale * score**0.5

    def point(
        self, attention: Attention, axis: str, scores: tuple[float, ...], *, at: float = 0.0
    ) -> None:
        """Let queries prefer keys at a distance along an axis.

        Args:
            scores: what the fastest frequencies, in order, add there.
            at: the distance, in places; positive is later, lower, further right.
        """
        assert attention.q.bias is not None
        assert attention.k.bias is not None
        for frequency, score in enumerate(scores):
            row, size = self.pair(axis, frequency), self.size(score)
            turn = self.frequency(axis, frequency) * at
            attention.q.bias[row] = size * math.cos(turn)
            attention.q.bias[row + 1] = size * math.sin(turn)
            attention.k.bias[row] = size
