"""How a file packs its numbers: 8-bit weights beside what to multiply them by.

Two generations are in the wild. The older has ``scaled_fp8``, an empty tensor, and for each layer
``scale_weight`` and sometimes ``scale_input``. The newer has ``weight_scale`` and ``input_scale``,
and says the format in the file's metadata or in a ``comfy_quant`` of each layer. Some files have
one scale for each output and no mark at all. What counts here is what is there: formats and shapes.
Scales of inputs are left alone: activations are scaled by what they are.

Source: ComfyUI 0.33.0, comfy/utils.py (convert_old_quants) and comfy/ops.py.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError
from .headers import Header, TensorEntry, shown

_EXTRA = re.compile(
    r"(?P<layer>.*\.)?(?P<part>scaled_fp8|scale_weight|scale_input|weight_scale|weight_scale_2"
    r"|input_scale|comfy_quant|weight_s_rel|weight_s_channel|weight_codebook|pre_quant_scale)"
)
"""Names of tensors that say how others are packed."""

WEIGHT_SCALES = ("scale_weight", "weight_scale")
"""What a weight is to be multiplied by, in both generations."""

_MARK = "scaled_fp8"
"""Stands for the whole file, behind its prefix if it has one."""

_SCALE_FORMATS = ("F32", "F16", "BF16")
_METADATA = "_quantization_metadata"
_KNOWN_ALGORITHMS = ("float8_e4m3fn", "float8_e5m2")

_BLOCK_FORMATS = {"F8_E8M0": "mxfp8", "F8_E4M3": "nvfp4", "U8": "mxfp8 or nvfp4"}
"""Formats of scales that belong to blocks of a weight, and what that packing is called."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a model's weights are packed.

    Attributes:
        scales: by name of the weight, as in the file: the name of its scale.
        words: what people call it; empty if nothing is scaled.
        foreign: packings that are not read here, as people call them.
        strays: tensors that would pack a weight which is not there.
    """

    scales: Mapping[str, str] = field(default_factory=dict[str, str])
    words: str = ""
    foreign: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()


def is_packing(name: str) -> bool:
    """Tell whether a tensor only says how others are packed."""
    return _EXTRA.fullmatch(name) is not None


def layer_of(name: str) -> tuple[str, str]:
    """Split the name of such a tensor into its layer and what it says of it."""
    match = _EXTRA.fullmatch(name)
    assert match is not None, "only asked of names that say how others are packed"
    return (match["layer"] or "").removesuffix("."), match["part"]


def read_packing(header: Header) -> Packing:
    """Read from a header how its weights are packed.

    Raises:
        CheckpointError: if the metadata about it is damaged.
    """
    tensors = header.tensors
    foreign = {name for name in _algorithms(header) if name not in _KNOWN_ALGORITHMS}
    scales: dict[str, str] = {}
    strays: list[str] = []
    by_row = False
    for name in filter(is_packing, tensors):
        layer, part = layer_of(name)
        weight = f"{layer}.weight"
        if part == "weight_scale_2":
            foreign.add("nvfp4")
        if part != _MARK and weight not in tensors:
            strays.append(name)
        elif part in WEIGHT_SCALES:
            other = _foreign_scale(tensors[name], tensors[weight])
            foreign |= other
            if not other:
                scales[weight] = name
                by_row |= tensors[name].parameters > 1
    return Packing(
        scales=scales,
        words=("scaled per output" if by_row else "scaled per tensor") if scales else "",
        foreign=tuple(sorted(foreign)),
        strays=tuple(strays),
    )


def _foreign_scale(scale: TensorEntry, weight: TensorEntry) -> set[str]:
    """Name the packing that a scale belongs to, if it is not one of ours."""
    rows = (weight.shape[0], weight.shape[0]) if weight.shape else None
    fits = scale.parameters == 1 or (scale.parameters, scale.shape[0]) == rows
    if scale.dtype in _SCALE_FORMATS and fits:
        return set()
    return {_BLOCK_FORMATS.get(scale.dtype, "blocks with a scale each")}


def _algorithms(header: Header) -> Iterable[str]:
    """Give the packings that the metadata names."""
    text = header.metadata.get(_METADATA)
    if text is None:
        return ()
    try:
        layers: Any = json.loads(text)["layers"]
        return {shown(str(layer["format"])) for layer in layers.values()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{header.path} has damaged metadata under {_METADATA}: no format for each layer "
            "can be read from it; download it again."
        ) from error
