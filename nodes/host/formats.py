"""In which forms ComfyUI reads models itself, and how other files get into such a form.

ComfyUI reads packed weights where the file marks them: with ``scaled_fp8`` in the older form, which
every version knows, or with the name of a format in the newer one. Weights whose scales nothing
marks it takes for plain numbers, and makes noise of them.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import comfy.utils
import torch
from safetensors import SafetensorError, safe_open

from ...swift_core.errors import CheckpointError
from ...swift_core.weights.checkpoint import LOADABLE, Checkpoint, Kind
from ...swift_core.weights.layouts import Layout
from ...swift_core.weights.packing import WEIGHT_SCALES, is_packing, layer_of, read_packing
from ...swift_core.weights.umt5_names import TOKENIZER_TENSOR

_OLD_MARK = "scaled_fp8"
_NEW_MARK = "comfy_quant"
_METADATA = "_quantization_metadata"
_MOST_NBYTES = 4096
"""Longer than any mark of a layer."""

_PREFIXES = {Kind.DIT: ("", "model.diffusion_model.", "model.")}
"""In front of every name of a file that ComfyUI reads; in front of other kinds nothing may be."""


def is_readable(checkpoint: Checkpoint) -> bool:
    """Tell whether this ComfyUI reads a file, if need be under names and marks of ours."""
    return reads_as_is(checkpoint) or _can_be_marked(checkpoint)


def reads_as_is(checkpoint: Checkpoint) -> bool:
    """Tell whether a file is one that ComfyUI's own loader takes, names, marks and all."""
    tensors = checkpoint.header.tensors
    layout = Layout.WAN
    if checkpoint.kind is Kind.TEXT_UMT5:
        layout = Layout.TRANSFORMERS_UMT5
        if TOKENIZER_TENSOR not in tensors:
            return False
    is_named = checkpoint.layout is layout
    is_placed = checkpoint.prefix in _PREFIXES.get(checkpoint.kind, ("",))
    return checkpoint.header.files == 1 and is_named and is_placed and _is_marked(checkpoint)


def read_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Map a model's tensors into memory under Wan's names, with scales as every ComfyUI reads them.

    Raises:
        CheckpointError: if a file is not what it was.
    """
    stored: dict[str, torch.Tensor] = {}
    for path in dict.fromkeys(entry.path for entry in checkpoint.header.tensors.values()):
        stored |= comfy.utils.load_torch_file(str(path), safe_load=True)
    names = {**checkpoint.tensors, **checkpoint.packed}
    if checkpoint.layout is Layout.WAN:  # with parts that our models lack and ComfyUI's have
        own = {name: name.removeprefix(checkpoint.prefix) for name in checkpoint.header.tensors}
        names = {ours: name for name, ours in own.items() if name != TOKENIZER_TENSOR}
    if any(name not in stored for name in names.values()):
        raise CheckpointError(
            f"{checkpoint.path} is not what it was a moment ago: it was moved or replaced; queue "
            "the graph again."
        )
    return _mark_scales({ours: stored[name] for ours, name in names.items()})


def _mark_scales(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Write a state's scales in the older form."""
    marked: dict[str, torch.Tensor] = {}
    formats: set[torch.dtype] = set()
    for name, tensor in state.items():
        if not is_packing(name):
            marked[name] = tensor
            continue
        layer, part = layer_of(name)
        if part in WEIGHT_SCALES:
            marked[f"{layer}.scale_weight"] = tensor.reshape(())
            formats.add(state[f"{layer}.weight"].dtype)
    if formats:
        # Two numbers say that products are to be computed in full precision.
        marked[_OLD_MARK] = torch.zeros(2).to(formats.pop())
    return marked


def _can_be_marked(checkpoint: Checkpoint) -> bool:
    packing = read_packing(checkpoint.header)
    tensors = checkpoint.header.tensors
    one_each = all(tensors[scale].parameters == 1 for scale in packing.scales.values())
    one_format = len({tensors[weight].dtype for weight in packing.scales}) <= 1
    return _is_plain(checkpoint) and one_each and one_format and not packing.foreign


def _is_plain(checkpoint: Checkpoint) -> bool:
    tensors = checkpoint.header.tensors
    return all(tensors[name].dtype in LOADABLE for name in checkpoint.tensors.values())


def _is_marked(checkpoint: Checkpoint) -> bool:
    """Tell whether this ComfyUI knows a file's packing from the file itself."""
    marks = {layer_of(name)[1] for name in checkpoint.header.tensors if is_packing(name)}
    if not marks and _METADATA not in checkpoint.header.metadata:
        return _is_plain(checkpoint)
    if _OLD_MARK in marks:
        return _is_plain(checkpoint) and not read_packing(checkpoint.header).foreign
    named = _named_formats(checkpoint)
    return bool(named) and named <= _known_formats()


def _known_formats() -> set[str]:
    if importlib.util.find_spec("comfy.quant_ops") is None:  # as in 0.3.64
        return set()
    from comfy.quant_ops import QUANT_ALGOS

    return set(QUANT_ALGOS)


def _named_formats(checkpoint: Checkpoint) -> set[str]:
    """Give the formats that a file names: in its metadata, or beside its layers.

    A mark that cannot be read names a format that nobody knows.
    """
    text = checkpoint.header.metadata.get(_METADATA)
    if text is not None:
        return {str(layer["format"]) for layer in json.loads(text)["layers"].values()}
    entries = {
        name: entry
        for name, entry in checkpoint.header.tensors.items()
        if is_packing(name) and layer_of(name)[1] == _NEW_MARK
    }
    if any(entry.dtype != "U8" or entry.parameters > _MOST_NBYTES for entry in entries.values()):
        return {""}
    try:
        opened: Any = safe_open(checkpoint.path, framework="pt", device="cpu")
        with opened as file:
            marks = [json.loads(bytes(file.get_tensor(name).tolist())) for name in entries]
        return {str(mark["format"]) for mark in marks}
    except (SafetensorError, OSError, ValueError, RecursionError, KeyError, TypeError):
        return {""}
