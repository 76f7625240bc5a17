"""LoRAs put onto a DiT: their factors laid beside its linear layers, or added to its parameters.

One rule decides, by the formats of the numbers alone. A linear layer whose weight has 16 bits or
less keeps it as it is, and factors lie beside it in the compute format: rounded into the weight,
part of what a LoRA adds would be lost, and the sum would fill host memory where the weight is only
mapped from its file. Everything else is added: factors to weights of 32 bits and to convolutions,
and whole differences to whatever they are of. A layer with a whole difference of its weight has a
new weight anyway, so that factors for the same layer are added with it.

Nothing is written into a loaded tensor, which may be the file itself: a changed parameter is a new
tensor, made one at a time. All that is added to it is summed in fp32 and rounded once.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError
from ..model.dit import WanDiT
from ..model.low_rank import LowRankLinear
from ..model.scaled import ScaledLinear
from ..precision import Precision
from ..shapes import Tensor
from .headers import shown
from .lora import Delta, Lora, LoraFile, LoraMatch, match_lora

_logger = logging.getLogger(__name__)

_SHORT_NBYTES = 2
"""Of a number in a weight that is not added to, at most."""


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What LoRAs did to a DiT.

    Attributes:
        matches: of each LoRA in turn; those of strength 0 are not among them.
        merged: how many parameters were added to, and are new tensors.
        beside: how many layers have factors beside them.
    """

    matches: tuple[LoraMatch, ...]
    merged: int
    beside: int


def apply_loras(module: WanDiT, loras: Sequence[Lora], *, precision: Precision) -> LoraReport:
    """Put LoRAs onto a DiT, all at once: what they add is summed, from the weights as they are.

    Args:
        module: on the CPU or a device; LoRAs that are on it already stay.
        precision: with which it was built.

    Raises:
        CheckpointError: if a LoRA does not fit, before anything is changed; or if its file is not
            what it was.
    """
    matches = tuple(match_lora(lora, module.config) for lora in loras if lora.strength != 0)
    for match in matches:
        if match.gap is not None:
            _logger.warning(match.gap)
    deltas = gather_deltas(matches)
    with torch.no_grad(), _Reader() as reader:
        beside = sum(
            _put(module, target, found, reader, precision) for target, found in deltas.items()
        )
    return LoraReport(matches=matches, merged=len(deltas) - beside, beside=beside)


def gather_deltas(matches: Iterable[LoraMatch]) -> Mapping[str, Sequence[Delta]]:
    """Give all that LoRAs add to each parameter; those of strength 0 add nothing."""
    deltas: dict[str, list[Delta]] = defaultdict(list)
    for match in matches:
        for target, found in match.deltas.items() if match.lora.strength != 0 else ():
            deltas[target] += found
    return deltas


def lie_beside(deltas: Iterable[Delta], weight_format: torch.dtype) -> bool:
    """Tell whether what LoRAs add to a linear layer's weight is laid beside it."""
    return weight_format.itemsize <= _SHORT_NBYTES and all(delta.is_low_rank for delta in deltas)


def _put(
    module: WanDiT, target: str, deltas: Sequence[Delta], reader: "_Reader", precision: Precision
) -> bool:
    """Change one parameter; tell whether factors were laid beside its layer instead."""
    stem, leaf = target.rsplit(".", 1)
    layer = module.get_submodule(stem)
    owner = layer.base if isinstance(layer, LowRankLinear) else layer
    old: Tensor = getattr(owner, leaf)
    if leaf == "weight" and isinstance(owner, nn.Linear | ScaledLinear):
        if lie_beside(deltas, old.dtype):
            _replace(module, stem, _with_factors(layer, deltas, reader, precision.compute))
            return True
        if isinstance(owner, ScaledLinear):
            owner = owner.unpacked(precision.weights)
            old = owner.weight
            _replace(module, f"{stem}.base" if isinstance(layer, LowRankLinear) else stem, owner)
    setattr(owner, leaf, nn.Parameter(_sum(old, deltas, reader), requires_grad=False))
    return False


def _replace(module: nn.Module, stem: str, layer: nn.Module) -> None:
    parent, _, name = stem.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)


def _sum(old: Tensor, deltas: Iterable[Delta], reader: "_Reader") -> Tensor:
    """Add to a parameter, in fp32; the result is a new tensor of the parameter's format."""
    value = old.float()
    for delta in deltas:
        read = reader.read(delta, old.device)
        if delta.is_low_rank:
            down, up = read
            flat = torch.addmm(value.reshape(up.shape[0], -1), up, down)
            value = flat.reshape(old.shape)
        else:
            value = value + read[0].reshape(old.shape)
    return value.to(old.dtype)


def _with_factors(
    layer: nn.Module, deltas: Iterable[Delta], reader: "_Reader", dtype: torch.dtype
) -> LowRankLinear:
    """Lay factors beside a layer, or beside those that it has."""
    factors = [reader.read(delta, next(layer.parameters()).device) for delta in deltas]
    downs = [down.to(dtype) for down, _ in factors]
    ups = [up.to(dtype) for _, up in factors]
    if isinstance(layer, LowRankLinear):
        return LowRankLinear(layer.base, [layer.down, *downs], [layer.up, *ups])
    assert isinstance(layer, nn.Linear | ScaledLinear), "factors lie beside linear layers"
    return LowRankLinear(layer, downs, ups)


class _Reader:
    """The tensors of LoRAs' files, read as they are needed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._files: dict[Path, Any] = {}

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def read(self, delta: Delta, device: torch.device) -> tuple[Tensor, ...]:
        """Read what is added, in fp32: factors as matrices, the last of them scaled."""
        file = delta.lora.file
        scale = delta.scale
        if delta.alpha is not None:
            scale = float(self._tensor(file, delta.alpha)) / delta.rank
        scale *= delta.lora.strength
        if not math.isfinite(scale):
            raise CheckpointError(
                f"{file.path}: the alpha of {shown(delta.keys[0])} is no finite number; the LoRA "
                "is damaged: download it again."
            )
        read = [self._tensor(file, key).to(device, torch.float32) for key in delta.keys]
        if len(read) == 2:
            read = [factor.flatten(1) for factor in read]
        return (*read[:-1], read[-1] * scale)

    def _tensor(self, file: LoraFile, key: str) -> Tensor:
        try:
            if file.path not in self._files:
                opened: Any = safe_open(file.path, framework="pt", device="cpu")
                self._files[file.path] = self._stack.enter_context(opened)
            tensor: Tensor = self._files[file.path].get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _changed(file, str(error)) from error
        if tuple(tensor.shape) != file.shape(key):
            raise _changed(file, f"{shown(key)} has another shape")
        return tensor


def _changed(file: LoraFile, what: str) -> CheckpointError:
    return CheckpointError(
        f"{file.path} is not what it was a moment ago ({what}): it was moved or replaced; start "
        "again."
    )
