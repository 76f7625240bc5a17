"""A low-rank update beside a linear layer, for weights that cannot be added to.

A packed weight holds too few bits for the small differences of a LoRA: what is added would be
rounded away. So its factors stay beside it, in the compute format, and run with each call.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional as F

from ..shapes import Float, Tensor


@runtime_checkable
class PackedLinear(Protocol):
    """A linear layer whose weight is packed."""

    in_features: int
    out_features: int
    bias: Tensor | None

    def unpacked(self, dtype: torch.dtype) -> nn.Linear:
        """Make an ordinary layer of it."""
        ...


class LowRankLinear(nn.Module):
    """A linear layer and low-rank updates of it: ``base(x) + up(down(x))``.

    Updates are laid side by side along their rank: however many there are, they cost two products.

    Args:
        base: the layer, from tokens of ``inputs`` to tokens of ``outputs`` features.
        downs: of each update the factor ``(rank, inputs)``.
        ups: of each update the factor ``(outputs, rank)``, scaled.
    """

    def __init__(
        self,
        base: nn.Module,
        downs: Sequence[Float[Tensor, "_ inputs"]],
        ups: Sequence[Float[Tensor, "outputs _"]],
    ) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.cat(tuple(downs), dim=0), requires_grad=False)
        self.up = nn.Parameter(torch.cat(tuple(ups), dim=1), requires_grad=False)

    def forward(self, tokens: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Apply the layer and its updates, in the number format of the tokens."""
        out: Tensor = self.base(tokens)
        narrow = F.linear(tokens, self.down.to(tokens.dtype)).flatten(0, -2)
        up = self.up.to(tokens.dtype)
        return torch.addmm(out.flatten(0, -2), narrow, up.t()).view_as(out)
