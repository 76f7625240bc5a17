"""DiT blocks compiled by PyTorch, where the machine can do it.

All blocks of a DiT share one piece of compiled code for each shape of window; the first step with a
new shape waits for it, half a minute or more. What it saves is the traffic of norms, modulation and
rotations between the matrix products. Results differ in rounding only.

The code is for one shape of weights as well. So where the factors of a LoRA have another rank in
each block, they are brought to the largest with zeros.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn

from .blocks import DiTBlock
from .dit import WanDiT
from .low_rank import LowRankLinear

_log = logging.getLogger(__name__)

_COMPILERS = ("torch._dynamo", "torch._inductor", "triton")


class _Compiled:
    """A block's way through compiled code; through plain code once the compiler has failed."""

    def __init__(self, block: DiTBlock, state: "_State") -> None:
        self._plain: Callable[..., Any] = block.forward
        self._state = state
        try:
            self._fast = self._compile()
        except RuntimeError as error:  # a Python that the compiler does not know
            state.give_up(error)
            self._fast = self._plain

    def _compile(self) -> Callable[..., Any]:
        return torch.compile(self._plain, backend=self._state.backend, dynamic=False)

    def __call__(self, *given: Any, **named: Any) -> Any:
        if self._state.has_failed:
            return self._plain(*given, **named)
        try:
            return self._fast(*given, **named)
        except Exception as error:
            if not _is_compilers(error):
                raise
            self._state.give_up(error)
        return self._plain(*given, **named)


class _State:
    """What a DiT's blocks share: whether compiling works here."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.has_failed = False

    def give_up(self, error: Exception) -> None:
        """Compile no more, and say why once."""
        if self.has_failed:
            return
        self.has_failed = True
        lines = str(error).splitlines() or [""]
        _log.warning(
            "blocks are not compiled (%s: %s); going on without",
            type(error).__name__,
            lines[0][:200],
        )


def compile_blocks(dit: WanDiT, *, backend: str = "inductor") -> None:
    """Have a DiT's blocks compiled when they are first called; without a compiler, nothing changes.

    Args:
        backend: of ``torch.compile``.
    """
    _even_out(dit)
    state = _State(backend)
    for block in dit.blocks:
        assert isinstance(block, DiTBlock), "a DiT is made of such blocks"
        block.forward = _Compiled(block, state)


def _even_out(dit: WanDiT) -> None:
    """Give the factors beside a layer the same rank in all blocks."""
    alike: dict[str, list[LowRankLinear]] = defaultdict(list)
    for block in dit.blocks:
        parts = cast("Iterable[tuple[str, nn.Module]]", block.named_modules())
        for name, layer in parts:
            if isinstance(layer, LowRankLinear):
                alike[name].append(layer)
    for layers in alike.values():
        largest = max(layer.rank for layer in layers)
        for layer in layers:
            layer.widen(largest)


def release_blocks(dit: WanDiT) -> None:
    """Undo ``compile_blocks``: a block that holds a way through itself would never be freed."""
    for block in dit.blocks:
        vars(block).pop("forward", None)


def _is_compilers(error: BaseException) -> bool:
    """Tell a compiler's failure from one of the work itself."""
    return type(error).__module__.startswith(_COMPILERS)
