"""How time and memory are measured, the same for both sides."""

import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Run = Callable[[], object]


def time_pair(ours: Run, theirs: Run, *, rounds: int) -> tuple[float, float]:
    """Give the median seconds of both, run in turns so that a slow moment hits both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for run in (ours, theirs):
        run()
    for index in range(rounds):
        order = (0, 1) if index % 2 == 0 else (1, 0)
        for which in order:
            begin = time.perf_counter()
            (ours, theirs)[which]()
            seconds[which].append(time.perf_counter() - begin)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


class _Storages(TorchDispatchMode):
    """Follow the lifetime of every tensor storage that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage(), known)
        return out

    def _follow(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        key = storage._cdata
        if key in self._alive or key in known:
            return
        nbytes = storage.nbytes()
        self._alive.add(key)
        self.held += nbytes
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, key, nbytes)

    def _forget(self, key: int, nbytes: int) -> None:
        self._alive.discard(key)
        self.held -= nbytes


def peak_nbytes(run: Run) -> int:
    """Give the most bytes of tensors alive at once that the run itself made.

    Counted by the lifetime of storages, so it is the same on every machine; scratch memory inside
    a single operation is not seen.
    """
    storages = _Storages()
    with storages:
        run()
    return storages.peak


def print_pair(name: str, ours: Run, theirs: Run, *, rounds: int) -> None:
    """Measure both and print a line: times, their ratio, and peak memory."""
    mine, other = time_pair(ours, theirs, rounds=rounds)
    peak, other_peak = peak_nbytes(ours), peak_nbytes(theirs)
    print(
        f"{name:<44} {mine * 1e3:9.1f} ms {other * 1e3:9.1f} ms {mine / other:6.2f}x "
        f"{peak / 2**20:9.1f} MiB {other_peak / 2**20:9.1f} MiB {peak / other_peak:6.2f}x"
    )


def print_heading(title: str) -> None:
    """Print the heading of a table of pairs."""
    print(f"\n{title}")
    print(
        f"{'':<44} {'ours':>12} {'diffusers':>12} {'ratio':>7} "
        f"{'ours':>13} {'diffusers':>13} {'ratio':>7}"
    )
