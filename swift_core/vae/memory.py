"""How much memory a VAE takes, found by running it without numbers, and the bands that fit.

A run on the meta device makes every tensor that a real run makes, without its content; counting
those alive gives the peak. What a convolution library takes for itself comes on top.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch

from ..errors import BudgetError
from ..geometry import PixelShape
from ..live_bytes import LiveBytes, TensorsOnly
from ..shapes import Tensor
from .autoencoder import FP32_ISLANDS, WanVAE
from .bands import WHOLE, Banding
from .causal import TailCache
from .config import VAEConfig

MOST_BANDS = 16
_STEP = 64  # sides that every VAE and DiT can have
_TRIES, _LESS = 8, 0.85
_SCARCE = 4
_UNPARKED = 4
_CHUNKS = 3
"""The first chunk is short, the second makes the state whole, from the third on nothing changes."""


@dataclass(frozen=True, kw_only=True)
class VaePeak:
    """Memory of a VAE at work.

    Attributes:
        nbytes: the most that is alive at a time: weights, causal state, activations.
        state_nbytes: the causal state that stays on the device between chunks.
        parked_nbytes: the causal state that waits in host memory but for what is worked with.
        weights_nbytes: the weights.
    """

    nbytes: int
    state_nbytes: int
    weights_nbytes: int
    parked_nbytes: int = 0

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
    config: VAEConfig,
    shape: PixelShape,
    *,
    compute: torch.dtype,
    budget_nbytes: int,
    host_nbytes: int | None = None,
) -> VaePlan:
    """Choose bands for a decode: as few as fit, and where there is a choice, those that add least.

    Args:
        shape: of the clip in pixels; its length does not matter.
        compute: number format of weights and activations.
        budget_nbytes: for everything but the weights, which are there already.
        host_nbytes: for state that is parked; None: as it wants.

    Raises:
        BudgetError: if no bands fit, saying what the smallest would take.
    """
    room = _Room(budget_nbytes, host_nbytes)
    return _fit("decoding", decode_peak, config, shape, compute, room)


def plan_encode(
    config: VAEConfig,
    shape: PixelShape,
    *,
    compute: torch.dtype,
    budget_nbytes: int,
    host_nbytes: int | None = None,
) -> VaePlan:
    """Choose bands for an encode; see ``plan_decode``."""
    room = _Room(budget_nbytes, host_nbytes)
    return _fit("encoding", encode_peak, config, shape, compute, room)


@dataclass(frozen=True)
class _Room:
    """What there is of both kinds of memory."""

    device_nbytes: int
    host_nbytes: int | None

    def holds(self, peak: VaePeak) -> bool:
        return peak.working_nbytes <= self.device_nbytes and self.parks(peak)

    def parks(self, peak: VaePeak) -> bool:
        """Tell whether there is host memory for what is parked."""
        return self.host_nbytes is None or peak.parked_nbytes <= self.host_nbytes

    def share(self, peak: VaePeak) -> float:
        """Tell how much of it there is room for, at most all."""
        shares = [max(0, self.device_nbytes) / peak.working_nbytes]
        if self.host_nbytes is not None and peak.parked_nbytes:
            shares.append(max(0, self.host_nbytes) / peak.parked_nbytes)
        return min(1.0, *shares)


_Peak = Callable[[VAEConfig, int, int, torch.dtype, Banding], VaePeak]


def _fit(
    what: str,
    peak_of: _Peak,
    config: VAEConfig,
    shape: PixelShape,
    compute: torch.dtype,
    room: _Room,
) -> VaePlan:
    def peak(banding: Banding, height: int = shape.height, width: int = shape.width) -> VaePeak:
        return peak_of(config, height, width, compute, banding)

    levels = len(config.dim_mult)
    whole = peak(WHOLE)
    if room.holds(whole):
        return VaePlan(banding=WHOLE, peak=whole)
    choice = list(_bandings(levels))
    # Where little is free, nothing may fit: better found out by two tries than by ten.
    if _SCARCE * room.device_nbytes < whole.working_nbytes:
        finest = [peak(banding) for banding in _finest(levels)]
        if all(one.working_nbytes > room.device_nbytes and room.parks(one) for one in finest):
            choice = [_unparked(levels), *_finest(levels)]
    for banding in choice:
        if room.holds(peak(banding)):
            return VaePlan(banding=banding, peak=peak(banding))
    peaks = [peak(banding) for banding in choice]
    best = max(choice, key=lambda banding: room.share(peak(banding)))
    raise _refusal(what, shape, peaks, partial(peak, best), room)


def _refusal(
    what: str,
    shape: PixelShape,
    peaks: Sequence[VaePeak],
    at_size: Callable[[int, int], VaePeak],
    room: _Room,
) -> BudgetError:
    """Say how much it takes, and find out for how large a picture there is room.

    Args:
        peaks: of all bands that were tried.
        at_size: the peak for another height and width, in the bands that are nearest to fitting.
    """
    least = min((peak for peak in peaks if room.parks(peak)), key=lambda peak: peak.working_nbytes)
    parking = min(peaks, key=lambda peak: peak.working_nbytes)
    parked = ""
    if parking.working_nbytes < least.working_nbytes:
        assert room.host_nbytes is not None, "or it would be the least"
        parked = (
            f"; {parking.working_nbytes / 1e9:.1f} GB would do with "
            f"{parking.parked_nbytes / 1e9:.1f} GB of host memory, of which "
            f"{max(0, room.host_nbytes) / 1e9:.1f} GB are free"
        )
    return BudgetError(
        f"{what} {shape.width}x{shape.height} takes at least {least.working_nbytes / 1e9:.1f} GB, "
        f"{max(0, room.device_nbytes) / 1e9:.1f} GB are free beside the weights{parked}",
        share=_fitting_share(shape, at_size, room),
        least_nbytes=least.nbytes,
    )


def _fitting_share(shape: PixelShape, at_size: Callable[[int, int], VaePeak], room: _Room) -> float:
    """Tell for which share of the picture's area there is room; 0.0 if for none."""
    share = room.share(at_size(shape.height, shape.width))
    for _ in range(_TRIES):
        scale = share**0.5
        height, width = (int(scale * side / _STEP) * _STEP for side in (shape.height, shape.width))
        if not (height and width):
            break
        if room.holds(at_size(height, width)):
            return share
        share *= _LESS  # halos do not become smaller with the picture
    return 0.0


def _bandings(levels: int) -> Iterator[Banding]:
    """List bands from cheap to costly: few before many, without parking before with.

    Each is tried by a run without numbers, which takes up to a second: those that take no less
    memory than a cheaper one of the list are left out.
    """
    for bands in (2, _UNPARKED):
        yield Banding(levels=min(2, levels), bands=bands)
    for bands in (1, 2, 4, 8, MOST_BANDS):
        for cut in sorted({min(2, levels), min(3, levels)}):
            yield Banding(levels=cut, bands=bands, parks=True)


def _unparked(levels: int) -> Banding:
    """Give the bands that take least without host memory, and are in the list."""
    return Banding(levels=min(2, levels), bands=_UNPARKED)


def _finest(levels: int) -> Iterator[Banding]:
    """Give the bands of which one takes least."""
    for cut in (2, 3):
        yield Banding(levels=min(cut, levels), bands=MOST_BANDS, parks=True)


def finest(config: VAEConfig) -> Banding:
    """Give the bands that take least, near enough, without trying."""
    return list(_finest(len(config.dim_mult)))[-1]


def finer(banding: Banding, config: VAEConfig) -> Banding | None:
    """Give bands that take less memory; None if there are none."""
    levels = len(config.dim_mult)
    if banding.is_whole:
        return Banding(levels=min(2, levels), bands=2)
    if not banding.parks:
        return replace(banding, parks=True)
    if banding.levels < levels and banding.bands > 1:
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
    with torch.no_grad(), LiveBytes() as alive, TensorsOnly():
        for chunk in range(_CHUNKS):
            work(vae, chunk, cache)
    return VaePeak(
        nbytes=weights + alive.peak,
        state_nbytes=cache.nbytes,
        weights_nbytes=weights,
        parked_nbytes=cache.parked_nbytes,
    )
