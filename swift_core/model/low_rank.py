"""A low-rank update beside a linear layer, for weights that had better not be added to.

In 16 bits and less a weight holds too little of the small differences of a LoRA: what is added is
rounded to the weight's own steps. And a sum would be a new tensor, where a loaded weight may be its
file, mapped. So the factors stay beside the layer, in the compute format, and run with each call.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..shapes import Float, Tensor
from .scaled import ScaledLinear


class LowRankLinear(nn.Module):
    """A linear layer and low-rank updates of it: ``base(x) + up(down(x))``.

    Updates are laid side by side along their rank: however many there are, they cost two products.
    The weight itself may be of any format that the layer computes from.

    Args:
        base: the layer, from tokens of ``inputs`` to tokens of ``outputs`` features.
        downs: of each update the factor ``(rank, inputs)``.
        ups: of each update the factor ``(outputs, rank)``, scaled.
    """

    def __init__(
        self,
        base: nn.Linear | ScaledLinear,
        downs: Sequence[Float[Tensor, "_ inputs"]],
        ups: Sequence[Float[Tensor, "outputs _"]],
    ) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.cat(tuple(downs), dim=0), requires_grad=False)
        self.up = nn.Parameter(torch.cat(tuple(ups), dim=1), requires_grad=False)

    @property
    def rank(self) -> int:
        """Tell how many numbers lie between the factors."""
        return self.down.shape[0]

    def widen(self, rank: int) -> None:
        """Raise the rank to at least so many, with zeros."""
        more = rank - self.rank
        if more > 0:
            self.down = nn.Parameter(F.pad(self.down.data, (0, 0, 0, more)), requires_grad=False)
            self.up = nn.Parameter(F.pad(self.up.data, (0, more)), requires_grad=False)

    def forward(self, tokens: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Apply the layer and its updates, in the number format of the tokens."""
        narrow = F.linear(tokens, self.down.to(tokens.dtype))
        up = self.up.to(tokens.dtype)
        if isinstance(self.base, ScaledLinear) and self.base.products:
            return _add_product(self.base(tokens), narrow, up)
        # The small part first, and the large product onto it: so the sum is rounded once.
        out = F.linear(narrow, up, self.base.bias)
        if isinstance(self.base, ScaledLinear):
            return _add_product(out, tokens, self.base.unpacked_weight(tokens.dtype))
        return _add_product(out, tokens, self.base.weight)


def _add_product(
    out: Float[Tensor, "... outputs"],
    tokens: Float[Tensor, "... inputs"],
    weight: Float[Tensor, "outputs inputs"],
) -> Float[Tensor, "... outputs"]:
    """Add a product to what is there, in place: no second tensor of that size is made."""
    out.view(-1, out.shape[-1]).addmm_(tokens.flatten(0, -2), weight.t())
    return out
