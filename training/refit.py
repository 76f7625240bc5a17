"""Ways out of branches by least squares: what a fresh DiT can still say about its answer.

Inside a DiT stand features that its ways out do not use well: what heads fetched, what
feed-forwards bent. How they are best added up to make the answer right is a linear question, and
needs no steps: run the DiT on training clips, note the features beside the answer's error, solve.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from swift_core.model.dit import WanDiT
from swift_core.shapes import Float, Tensor


class Refit:
    """Collect features and errors, then correct the ways out.

    Args:
        dit: whose answer lies in its first features (see ``dits``).
        names: of the linear layers that end branches, such as ``blocks.1.self_attn.o``.
        answer: how many features the answer has.
    """

    def __init__(self, dit: WanDiT, names: Sequence[str], *, answer: int) -> None:
        self.answer = answer
        self.layers: list[nn.Linear] = []
        for name in names:
            layer = dit.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            self.layers.append(layer)
        size = sum(layer.in_features for layer in self.layers) + 1
        self.square = torch.zeros((size, size), dtype=torch.float64)
        self.product = torch.zeros((size, answer), dtype=torch.float64)
        self.before = self.seen = 0.0
        self._noted: list[Tensor] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note what enters the layers."""

        def note(_layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            self._noted.append(given[0].detach())

        hooks = [layer.register_forward_pre_hook(note) for layer in self.layers]
        self._noted.clear()
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, error: Float[Tensor, "b t s f"], frames: slice) -> None:
        """Add the last call of the DiT.

        Args:
            error: of the clean estimate, in the head's order, over the frames to learn from.
            frames: which those are.
        """
        batch, _, tokens, _ = error.shape
        wide = [
            noted.reshape(batch, -1, tokens, noted.shape[-1])[:, frames].flatten(0, 2)
            for noted in self._noted[-len(self.layers) :]
        ]
        columns = torch.cat((*wide, wide[0].new_ones((len(wide[0]), 1))), dim=1).cpu()
        errors = error.flatten(0, 2).float().cpu()
        # Products in fp32 over one clip, sums in fp64 over all.
        self.square += (columns.T @ columns).double()
        self.product += (columns.T @ errors).double()
        self.before += float(errors.square().sum())
        self.seen += len(errors)

    @torch.no_grad()
    def solve(self, *, ridge: float) -> float:
        """Correct the layers, and give the share of the squared error that is left.

        Args:
            ridge: added to the square of every feature, as a share of it.
        """
        sizes = self.square.diagonal().sqrt().clamp(min=1e-6)
        even = self.square / sizes / sizes[:, None]
        even += ridge * torch.eye(len(sizes), dtype=torch.float64)
        found = torch.linalg.solve(even, self.product / sizes[:, None]) / sizes[:, None]
        gained = 2 * (found * self.product).sum() - (found * (self.square @ found)).sum()
        start = 0
        for layer in self.layers:
            rows = found[start : start + layer.in_features].T.to(layer.weight)
            layer.weight[: self.answer] += rows
            start += layer.in_features
        last = self.layers[-1]
        assert last.bias is not None
        last.bias[: self.answer] += found[-1].to(last.bias)
        return 1 - float(gained) / self.before
