"""What every text encoder does, whatever it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from ..shapes import Float, Tensor


class TextEncoder(nn.Module, ABC):
    """Turn a prompt into the embeddings that a DiT reads."""

    @abstractmethod
    def encode(self, prompt: str, *, max_tokens: int) -> Float[Tensor, "1 l d"]:
        """Embed a prompt.

        Args:
            prompt: any text; it may be empty.
            max_tokens: what goes beyond this many tokens is dropped.
        """

    def layers(self) -> Sequence[nn.Module]:
        """List the layers that most of the weights are in, called one after the other.

        There are none where it is small.
        """
        return ()
