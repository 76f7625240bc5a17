"""Prompts that name a camera move, among words that mean nothing.

The word encoder hashes words into buckets, and people will write words that no training prompt
held. So each training prompt is padded with random buckets: the DiT learns that only the camera
words count, and that any other word may stand beside them.
"""

import math
from functools import lru_cache

import torch
from torch.nn import functional as F

from swift_core.shapes import Float, Int, Tensor
from swift_core.text.words import WordConfig, WordEncoder

from .chance import choose, happens, whole
from .moves import SPEED_WORDS, Move

CAMERA_WORDS = (
    "zoom zooms zooming in out pan pans panning left right up down rotate rotates rotating "
    "clockwise counterclockwise still static slow slowly fast quickly the camera and"
)
"""Words whose buckets are never used as random ones."""

FILLERS = 16
"""Most random buckets behind a prompt."""

_FORMS = {
    "zoom": ("zoom", "zooms", "zooming"),
    "pan": ("pan", "pans", "panning"),
    "rotate": ("rotate", "rotates", "rotating"),
    "still": ("still", "static"),
}
_SPEEDS = {"slow": ("slow", "slowly"), "fast": ("fast", "quickly")}


def speed_word(speed: float) -> str:
    """Give the word for a speed: that of the nearest named one, as a factor."""
    return min(SPEED_WORDS, key=lambda word: abs(math.log(speed / SPEED_WORDS[word])))


def write_prompt(draw: torch.Generator, move: Move) -> str:
    """Write a move in one of the ways people write it."""
    parts: list[str] = []
    for part in move.parts:
        verb, *direction = part.split()
        parts.append(" ".join((choose(draw, _FORMS[verb]), *direction)))
    words = " and ".join(parts)
    speed = speed_word(move.speed)
    if speed:
        words = f"{choose(draw, _SPEEDS[speed])} {words}"
    return f"the camera {words}" if happens(draw, 0.3) else words


def bucket_prompt(
    draw: torch.Generator, words: WordEncoder, move: Move, *, max_tokens: int
) -> Int[Tensor, " l"]:
    """Give the buckets of a prompt for a move, with random ones behind it."""
    device = words.words.weight.device
    said = words.bucket(write_prompt(draw, move)).cpu()
    free = _free_buckets(words.config.buckets)
    filler = [choose(draw, free) for _ in range(whole(draw, 0, FILLERS + 1))]
    return torch.cat((said, torch.tensor(filler, dtype=torch.long)))[:max_tokens].to(device)


@lru_cache
def _free_buckets(buckets: int) -> tuple[int, ...]:
    """List the buckets that no camera word falls into."""
    words = WordEncoder(WordConfig(buckets=buckets, text_dim=1))
    taken = set(words.bucket(CAMERA_WORDS).tolist())
    return tuple(bucket for bucket in range(buckets) if bucket not in taken)


def embed(
    words: WordEncoder, prompts: list[Int[Tensor, " l"]], *, max_tokens: int
) -> Float[Tensor, "b l d"]:
    """Embed prompts of different lengths, padded with zeros as the DiT pads them."""
    rows = [
        F.pad(words.words(buckets), (0, 0, 0, max_tokens - len(buckets))) for buckets in prompts
    ]
    return torch.stack(rows)
