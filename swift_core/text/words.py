"""A tiny text encoder: one learned vector per word.

It stands where UMT5 stands for the published models, so that a complete set of models can be a
few megabytes. Words are hashed into buckets: no vocabulary file, and any prompt is accepted.
"""

import re
import zlib
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import CheckpointError
from ..shapes import Float, Int, Tensor
from .encoder import TextEncoder


@dataclass(frozen=True, kw_only=True)
class WordConfig:
    """Size of a word encoder.

    Attributes:
        buckets: distinct vectors; words are hashed into them.
        text_dim: width of a vector.
    """

    buckets: int
    text_dim: int

    def __post_init__(self) -> None:
        if self.buckets < 1 or self.text_dim < 1:
            raise CheckpointError(
                f"a word encoder of {self.buckets} buckets, {self.text_dim} wide, cannot exist."
            )


class WordEncoder(TextEncoder):
    """Embed a prompt word by word."""

    def __init__(self, config: WordConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.buckets, config.text_dim)

    def bucket(self, prompt: str) -> Int[Tensor, " l"]:
        """Hash the words of a prompt, in lower case and without punctuation, into buckets."""
        words = re.findall(r"\w+", prompt.lower())
        hashes = [zlib.crc32(word.encode()) % self.config.buckets for word in words]
        return torch.tensor(hashes, dtype=torch.long, device=self.words.weight.device)

    def encode(self, prompt: str, *, max_tokens: int) -> Float[Tensor, "1 l d"]:
        """Embed a prompt.

        Args:
            prompt: any text; an empty one gives no tokens.
            max_tokens: words beyond this many are dropped.
        """
        return self.words(self.bucket(prompt)[:max_tokens]).unsqueeze(0)
