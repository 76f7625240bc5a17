"""Muon for matrices, Adam for everything else, with a state that is plain named tensors.

Muon turns the momentum of a matrix into the nearest orthogonal one: every direction then learns
at the same rate. A deep linear path, which is what a fresh VAE is, learns no other way in the
minutes that there are. Convolutions count as matrices of one row per output channel.

Source: Keller Jordan, "Muon: an optimizer for hidden layers" (2024); Adam, arXiv 1412.6980.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from swift_core.shapes import Float, Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that brings singular values near 1 (Muon's)."""

ADAM_BETAS = (0.9, 0.98)
ADAM_EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast to learn.

    Attributes:
        matrix: Muon's rate: the change of a matrix per step, as a share of an orthogonal one; 0
            leaves matrices to Adam.
        vector: Adam's rate.
        momentum: Muon's.
        clip: largest norm of Adam's gradients together.
        warm: steps over which the rates rise: a model built by hand is soon broken.
    """

    matrix: float
    vector: float
    momentum: float = 0.95
    clip: float = 1.0
    warm: int = 1


def orthogonalize(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Bring matrices near the nearest orthogonal ones: singular values between about 0.7 and 1.2.

    On a GPU in bf16, as it was made for.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.bfloat16() if x.is_cuda else x
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Tell what Muon is for: weights between features, not tables, norms, offsets or ways out."""
    tables = ("words.weight", "modulation", "head.head", "patch_embedding")
    if parameter.dim() < 2 or any(part in name for part in tables):
        return False
    return min(parameter.shape[0], parameter[0].numel()) > 1


class MuonAdam:
    """Step named parameters; ``state`` holds all that a resumed run needs."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], rates: Rates) -> None:
        self.rates = rates
        named = dict(parameters)
        muon = rates.matrix > 0
        self.matrices = {name: p for name, p in named.items() if muon and is_matrix(name, p)}
        self.vectors = {name: p for name, p in named.items() if name not in self.matrices}
        self.state: dict[str, Tensor] = {}
        for name, parameter in self.matrices.items():
            self.state[f"momentum.{name}"] = torch.zeros_like(parameter)
        for name, parameter in self.vectors.items():
            self.state[f"mean.{name}"] = torch.zeros_like(parameter)
            self.state[f"square.{name}"] = torch.zeros_like(parameter)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state."""
        for name, value in self.state.items():
            value.copy_(state[name])

    @torch.no_grad()
    def step(self, step: int, *, share: float) -> None:
        """Move every parameter against its gradient, and forget the gradients.

        Args:
            step: how many were made before.
            share: of the rates, from the schedule.
        """
        share *= min(1.0, (step + 1) / self.rates.warm)
        self._step_vectors(step, self.rates.vector * share)
        self._step_matrices(self.rates.matrix * share)
        for parameter in (*self.matrices.values(), *self.vectors.values()):
            parameter.grad = None

    def _step_vectors(self, step: int, rate: float) -> None:
        used = {name: p for name, p in self.vectors.items() if p.grad is not None}
        nn.utils.clip_grad_norm_(list(used.values()), self.rates.clip)
        first, second = ADAM_BETAS
        for name, parameter in used.items():
            mean, square = self.state[f"mean.{name}"], self.state[f"square.{name}"]
            mean.lerp_(parameter.grad, 1 - first)
            square.lerp_(parameter.grad.square(), 1 - second)
            size = (square / (1 - second ** (step + 1))).sqrt_().add_(ADAM_EPS)
            parameter.addcdiv_(mean, size, value=-rate / (1 - first ** (step + 1)))

    def _step_matrices(self, rate: float) -> None:
        # Matrices of one shape go through the iteration together: a GPU would idle otherwise.
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for name, parameter in self.matrices.items():
            if parameter.grad is None:
                continue
            momentum = self.state[f"momentum.{name}"]
            momentum.lerp_(parameter.grad, 1 - self.rates.momentum)
            ahead = parameter.grad.lerp(momentum, self.rates.momentum).flatten(1)
            alike[(ahead.shape[0], ahead.shape[1])].append((parameter, ahead))
        for (rows, columns), group in alike.items():
            updates = orthogonalize(torch.stack([ahead for _, ahead in group]))
            reach = max(1.0, rows / columns) ** 0.5
            for (parameter, _), update in zip(group, updates, strict=True):
                parameter.sub_(update.view(parameter.shape), alpha=rate * reach)
