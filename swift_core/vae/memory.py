"""How much memory a VAE takes, found by running it without numbers, and the bands that fit.

A run on the meta device makes every tensor that a real run makes, without its content; counting
those alive gives the peak. What a convolution library takes for itself comes on top.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import BudgetError
from ..geometry import PixelShape
from ..shapes import Tensor
from .autoencoder import FP32_ISLANDS, WanVAE
from .bands import WHOLE, Banding
from .causal import TailCache
from .config import VAEConfig

MOST_BANDS = 16
FEW_BANDS = 8
"""Up to here bands go without parking; beyond, what they read twice costs more than the copies."""

_CHUNKS = 3
"""The first chunk is short, the second makes the state whole, from the third on nothing changes."""


@dataclass(frozen=True, kw_only=True)
class VaePeak:
    """Memory of a VAE at work.

    Attributes:
        nbytes: the most that is alive at a time: weights, causal state, activations.
        state_nbytes: the causal state between chunks.
        weights_nbytes: the weights.
    """

    nbytes: int
    state_nbytes: int
    weights_nbytes: int

    @property
    def working_nbytes(self) -> int:
        """Memory beside the weights."""
        return self.nbytes - self.weights_nbytes


@dataclass(frozen=True, kw_only=True)
class VaePlan:
    """How a VAE will run, and what it will take."""

    banding: Banding
    peak: VaePeak


def plan_decode(
    config: VAEConfig, shape: PixelShape, *, compute: torch.dtype, budget_nbytes: int
) -> VaePlan:
    """Choose bands for a decode: as few as fit, and where there is a choice, those that add least.

    Args:
        shape: of the clip in pixels; its length does not matter.
        compute: number format of weights and activations.
        budget_nbytes: for everything but the weights, which are there already.

    Raises:
        BudgetError: if no bands fit, saying what the smallest would take.
    """
    return _fit("decoding", decode_peak, config, shape, compute, budget_nbytes)


def plan_encode(
    config: VAEConfig, shape: PixelShape, *, compute: torch.dtype, budget_nbytes: int
) -> VaePlan:
    """Choose bands for an encode; see ``plan_decode``."""
    return _fit("encoding", encode_peak, config, shape, compute, budget_nbytes)


_Peak = Callable[[VAEConfig, int, int, torch.dtype, Banding], VaePeak]


def _fit(
    what: str,
    peak_of: _Peak,
    config: VAEConfig,
    shape: PixelShape,
    compute: torch.dtype,
    budget_nbytes: int,
) -> VaePlan:
    least: VaePeak | None = None
    for banding in _bandings(len(config.dim_mult)):
        peak = peak_of(config, shape.height, shape.width, compute, banding)
        if peak.working_nbytes <= budget_nbytes:
            return VaePlan(banding=banding, peak=peak)
        if least is None or peak.nbytes < least.nbytes:
            least = peak
    assert least is not None, "whole frames are always tried"
    raise BudgetError(
        f"{what} {shape.width}x{shape.height} takes at least {least.working_nbytes / 1e9:.1f} GB, "
        f"{budget_nbytes / 1e9:.1f} GB are free: choose a smaller video, or free memory."
    )


def _bandings(levels: int) -> Iterator[Banding]:
    """List bands from cheap to costly: few before many, shallow before deep, then with parking."""
    yield WHOLE
    for parks in (False, True):
        bands = 2
        while bands <= (MOST_BANDS if parks else FEW_BANDS):
            for cut in range(2, levels + 1):
                yield Banding(levels=cut, bands=bands, parks=parks)
            bands *= 2


def finer(banding: Banding, config: VAEConfig) -> Banding | None:
    """Give bands that take less memory; None if there are none."""
    levels = len(config.dim_mult)
    if banding.is_whole:
        return Banding(levels=min(2, levels), bands=2)
    if not banding.parks:
        return replace(banding, parks=True)
    if banding.levels < levels:
        return replace(banding, levels=banding.levels + 1)
    return replace(banding, bands=2 * banding.bands) if banding.bands < MOST_BANDS else None


@lru_cache(maxsize=256)
def decode_peak(
    config: VAEConfig, height: int, width: int, compute: torch.dtype, banding: Banding
) -> VaePeak:
    """Tell what decoding a clip of this size takes, whatever its length."""
    space = config.compression.space
    size = (1, config.latent_channels, 1, height // space, width // space)

    def decode(vae: WanVAE, _chunk: int, cache: TailCache) -> Tensor:
        latent = torch.empty(size, device="meta", dtype=compute)
        return vae.decode_chunk(latent, cache=cache, banding=banding)

    return _peak(config, compute, decode)


@lru_cache(maxsize=256)
def encode_peak(
    config: VAEConfig, height: int, width: int, compute: torch.dtype, banding: Banding
) -> VaePeak:
    """Tell what encoding a clip of this size takes, whatever its length."""

    def encode(vae: WanVAE, chunk: int, cache: TailCache) -> Tensor:
        frames = config.compression.time if chunk else 1
        pixels = torch.empty((1, 3, frames, height, width), device="meta", dtype=compute)
        return vae.encode_chunk(pixels, cache=cache, banding=banding)

    return _peak(config, compute, encode)


def _peak(
    config: VAEConfig, compute: torch.dtype, work: Callable[[WanVAE, int, TailCache], Tensor]
) -> VaePeak:
    with torch.device("meta"):
        vae = WanVAE(config).requires_grad_(False)
    weights = sum(
        tensor.numel() * (torch.float32 if name.endswith(FP32_ISLANDS) else compute).itemsize
        for name, tensor in vae.named_parameters()
    )
    vae.to(compute)
    cache = TailCache()
    with torch.no_grad(), LiveBytes() as alive, _FusedAttention():
        for chunk in range(_CHUNKS):
            work(vae, chunk, cache)
    return VaePeak(nbytes=weights + alive.peak, state_nbytes=cache.nbytes, weights_nbytes=weights)


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors made under it that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._sum = 0

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
        key = storage._cdata  # pyright: ignore[reportPrivateUsage] - it has no other name
        known = self._alive.get(key)
        if known is not None and not known[0].expired():
            return
        self._sum += storage.nbytes() - (known[1] if known else 0)
        self._alive[key] = (StorageWeakRef(storage), storage.nbytes())

    def _drop_dead(self) -> None:
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self._sum = sum(nbytes for _, nbytes in self._alive.values())


class _FusedAttention(TorchFunctionMode):
    """Attention as real devices compute it: without a matrix of scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # torch's own signature
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
