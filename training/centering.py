"""Steps that see through what is the same everywhere.

What enters a convolution behind SiLU is mostly a constant: its features' means, beside which what
differs from place to place is small. Every change of a weight then moves the convolution's output
as a whole, far more than it changes what the output says, and a codec that is already good is
shaken apart. So weights are stepped as if their inputs had no mean: the gradient loses what the
offset's gradient says already, and the offset takes back what the weights' step moved.

Nothing is kept from step to step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from swift_core.shapes import Float, Tensor


class Centering:
    """Watch the convolutions of a model, and centre their steps.

    Args:
        module: whose convolutions to watch; what they read while gradients are on counts.
    """

    def __init__(self, module: nn.Module) -> None:
        convs = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]
        self._convs = [conv for conv in convs if conv.bias is not None]
        self._sums: dict[nn.Module, tuple[Tensor, int]] = {}
        for conv in self._convs:
            conv.register_forward_pre_hook(self._watch)

    def _watch(self, conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not torch.is_grad_enabled():
            return
        values = inputs[0].detach().float().movedim(1, -1).flatten(0, -2)
        total, count = self._sums.get(conv, (0.0, 0))
        self._sums[conv] = (total + values.sum(0), count + len(values))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Centre the gradients that are there, let the optimizer step, and settle the offsets."""
        before: list[tuple[nn.Conv3d | nn.Conv2d, Tensor, Tensor]] = []
        for conv in self._convs:
            seen = self._sums.pop(conv, None)
            if seen is None or conv.weight.grad is None:
                continue
            mean = seen[0] / seen[1]
            assert conv.bias is not None, "only such are watched"
            assert conv.bias.grad is not None, "a weight's gradient comes with its offset's"
            conv.weight.grad -= _outer(conv.bias.grad, mean, conv.weight)
            before.append((conv, conv.weight.detach().clone(), mean))
        yield
        for conv, weight, mean in before:
            assert conv.bias is not None, "only such are watched"
            moved = (conv.weight.detach() - weight).flatten(2).sum(-1) @ mean
            conv.bias.data -= moved


def _outer(
    rows: Float[Tensor, " d"], columns: Float[Tensor, " c"], weight: Float[Tensor, "d c *k"]
) -> Float[Tensor, "d c *ones"]:
    """Give the outer product in the shape of a convolution's weight, alike at every tap."""
    return torch.outer(rows, columns).reshape(*weight.shape[:2], *(1,) * (weight.dim() - 2))
