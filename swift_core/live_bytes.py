"""How many bytes a computation holds at a time, counted by the lives of its tensors.

On the meta device a computation makes every tensor that a real one makes, without its content, so
that its memory can be told in milliseconds and before anything is loaded.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .shapes import Tensor


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors made under it that are alive, and the most there were.

    Args:
        known: tensors that were there before, such as weights: views of them are not counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._sum = 0
        for tensor in known:
            storage = tensor.untyped_storage()
            self._alive[_key(storage)] = (StorageWeakRef(storage), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        made: Any = func(*args, **(kwargs or {}))
        several = cast("Sequence[Any]", made) if isinstance(made, tuple | list) else (made,)
        for tensor in several:
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        if self._sum > self.peak:
            self._drop_dead()
            self.peak = max(self.peak, self._sum)
        return cast(Any, made)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = _key(storage)
        known = self._alive.get(key)
        if known is not None and not known[0].expired():
            return
        self._sum += storage.nbytes() - (known[1] if known else 0)
        self._alive[key] = (StorageWeakRef(storage), storage.nbytes())

    def _drop_dead(self) -> None:
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self._sum = sum(nbytes for _, nbytes in self._alive.values())


def _key(storage: torch.UntypedStorage) -> int:
    return storage._cdata  # pyright: ignore[reportPrivateUsage] - it has no other name


class TensorsOnly(TorchFunctionMode):
    """Attention and norms by the tensors they make, without their arithmetic.

    Attention is as real devices compute it, without a matrix of scores. A norm is as PyTorch takes
    it apart where it has no kernel for it (a card's kernel, in newer versions, takes less): doing
    that on the meta device takes twenty times as long.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # torch's own signature
        """Make the tensors of an operation, and give its result."""
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        if func is F.rms_norm and args[0].is_meta:
            return _rms_norm(args[0])
        return func(*args, **(kwargs or {}))


def _rms_norm(features: Tensor) -> Tensor:
    wide = features.to(torch.float32)
    torch.empty_like(wide)  # squares, which do not outlive their mean
    wide = torch.empty_like(wide)
    return wide.to(features.dtype)
