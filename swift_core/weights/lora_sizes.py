"""How many bytes LoRAs add to a DiT's weights, told from headers alone.

Factors beside a layer come on top of its weight, and a packed weight that takes a whole difference
is held in the compute format from then on. Whatever else is added to is as large as before.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..model.config import DiTConfig
from ..model.dit import FP32_ISLANDS
from ..precision import is_island
from .detect import expected_shapes
from .lora import Delta, LoraMatch
from .lora_merge import gather_deltas, lie_beside


@dataclass(frozen=True, kw_only=True)
class AddedBytes:
    """What LoRAs add to the weights of a DiT.

    Attributes:
        block: to the block that gets most.
        fixed: to all outside the blocks.
    """

    block: int = 0
    fixed: int = 0


def added_nbytes(
    matches: Sequence[LoraMatch], config: DiTConfig, *, compute: torch.dtype, packs: bool
) -> AddedBytes:
    """Tell what LoRAs add to a DiT's weights.

    Args:
        matches: of all LoRAs on the DiT.
        compute: number format of weights that are not packed, and of factors.
        packs: whether matrices stay packed in 8 bits.
    """
    if not matches:
        return AddedBytes()
    shapes = expected_shapes(config)
    packed = torch.float8_e4m3fn if packs else compute
    parts: dict[str, int] = defaultdict(int)
    for target, deltas in gather_deltas(matches).items():
        if len(shapes[target]) == 2 and not is_island(target, FP32_ISLANDS):
            block = target.split(".")[1] if target.startswith("blocks.") else ""
            parts[block] += _layer_nbytes(deltas, shapes[target], compute, packed)
    fixed = parts.pop("", 0)
    return AddedBytes(block=max(parts.values(), default=0), fixed=fixed)


def _layer_nbytes(
    deltas: Sequence[Delta], shape: tuple[int, ...], compute: torch.dtype, held: torch.dtype
) -> int:
    """Tell what is added to one layer, whose weight is held in a format."""
    if lie_beside(deltas, held):
        return compute.itemsize * sum(delta.rank for delta in deltas) * sum(shape)
    return (compute.itemsize - held.itemsize) * math.prod(shape)
