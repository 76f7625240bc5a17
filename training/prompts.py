"""Prompts that name a camera move.

The word encoder hashes words into buckets, and people will write words that no training prompt
held. Their vectors are zero, as the padding's is (see ``dits.make_words``), and stay so, because no
training prompt holds them. Camera words that stand for no move of theirs ("in" without "zoom") are
put among the others at times, so that they are not taken for one.
"""

import math

import torch
from torch.nn import functional as F

from swift_core.shapes import Float, Int, Tensor
from swift_core.text.words import WordEncoder

from .chance import choose, happens
from .moves import SPEED_WORDS, Move

WORD_GROUPS = (
    ("in",),
    ("out",),
    ("left",),
    ("right",),
    ("up",),
    ("down",),
    ("clockwise",),
    ("counterclockwise", "anticlockwise"),
    ("slow", "slowly"),
    ("fast", "quickly"),
    ("zoom", "zooms", "zooming"),
    ("pan", "pans", "panning"),
    ("rotate", "rotates", "rotating"),
)
"""Words that say what the camera does; those in one group mean the same."""

CAMERA_WORDS = " ".join(word for group in WORD_GROUPS for word in group)

STRAY = 0.15
"""Share of prompts with a word that stands for no move."""

_STRAYS = {"zoom": ("in", "out"), "pan": ("left", "right", "up", "down")}
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
    """Give the buckets of a prompt for a move, at times with a stray word behind it."""
    prompt = write_prompt(draw, move)
    if happens(draw, STRAY):
        verb = choose(draw, tuple(_STRAYS))
        if verb not in move.words:
            prompt = f"{prompt} {choose(draw, _STRAYS[verb])}"
    return words.bucket(prompt)[:max_tokens]


def embed(
    words: WordEncoder, prompts: list[Int[Tensor, " l"]], *, max_tokens: int
) -> Float[Tensor, "b l d"]:
    """Embed prompts of different lengths, padded with zeros as the DiT pads them."""
    rows = [
        F.pad(words.words(buckets), (0, 0, 0, max_tokens - len(buckets))) for buckets in prompts
    ]
    return torch.stack(rows)
