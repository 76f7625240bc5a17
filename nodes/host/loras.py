"""LoRAs on a MODEL of ComfyUI's: found by the core in every spelling, applied by ComfyUI."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils
import torch

from ...swift_core.errors import CheckpointError
from ...swift_core.weights.checkpoint import Checkpoint
from ...swift_core.weights.headers import shown
from ...swift_core.weights.lora import Delta, LoraMatch

_logger = logging.getLogger(__name__)
_NAMED = 3
"""How many keys a warning names."""


@dataclass(frozen=True, kw_only=True)
class ChosenLora:
    """A LoRA that goes onto a model.

    Attributes:
        slot: the input that it was chosen in.
        file: what it is.
        strength: how much of it is added.
        match: what it changes; None where only ComfyUI can tell.
    """

    slot: str
    file: Checkpoint
    strength: float
    match: LoraMatch | None


def add_lora(model: Any, lora: ChosenLora) -> Any:
    """Put a LoRA onto a MODEL; what was on it stays.

    Raises:
        CheckpointError: if it fits the model nowhere.
    """
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    weights = comfy.utils.load_torch_file(str(lora.file.path), safe_load=True)
    rounds = [weights] if lora.match is None else _under_names(lora.match, weights)
    patched, added = model.clone(), 0
    unmatched: tuple[str, ...] = ()
    for keys in rounds:
        keys = comfy.lora_convert.convert_lora(keys)
        patches = comfy.lora.load_lora(keys, key_map, log_missing=False)
        added += len(patched.add_patches(patches, lora.strength))
        unmatched += _left_out(keys, patches)
    if not added:
        raise CheckpointError(
            f"{lora.slot}: no key of {lora.file.path.name} fits this model; choose the LoRA that "
            "was made for it."
        )
    gap = _gap(lora, unmatched) if lora.match is None else lora.match.gap
    if gap is not None:
        _logger.warning("%s: %s", lora.slot, gap)
    return patched


def _under_names(
    match: LoraMatch, weights: Mapping[str, torch.Tensor]
) -> list[dict[str, torch.Tensor]]:
    """Give what a LoRA adds under names that ComfyUI knows.

    ComfyUI takes one addition to a parameter at a time; further ones come in further rounds.
    """
    rounds: list[dict[str, torch.Tensor]] = []
    for target, deltas in match.deltas.items():
        for index, delta in enumerate(deltas):
            if index == len(rounds):
                rounds.append({})
            rounds[index] |= _named(target, delta, weights)
    return rounds


def _named(
    target: str, delta: Delta, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Name one addition: factors with their alpha, or a difference."""
    layer, leaf = target.rsplit(".", 1)
    name = f"diffusion_model.{layer}"
    scale = delta.scale
    if delta.alpha is not None:
        scale = float(weights[delta.alpha]) / delta.rank
    if len(delta.keys) == 2:
        down, up = (weights[key] for key in delta.keys)
        return {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(scale * delta.rank),
        }
    value = weights[delta.keys[0]]
    ending = {"weight": "diff", "bias": "diff_b"}.get(leaf, f"{leaf}.diff")
    return {f"{name}.{ending}": value if scale == 1 else value.float() * scale}


def _left_out(keys: Mapping[str, torch.Tensor], patches: Mapping[Any, Any]) -> tuple[str, ...]:
    """Name the keys of which ComfyUI has made nothing."""
    used: set[str] = set()
    differences: set[int] = set()
    for patch in patches.values():
        if isinstance(patch, tuple):
            differences |= {id(value) for value in patch[1]}
        else:
            used |= patch.loaded_keys
    return tuple(
        name for name, value in keys.items() if name not in used and id(value) not in differences
    )


def _gap(lora: ChosenLora, unmatched: tuple[str, ...]) -> str | None:
    if not unmatched:
        return None
    some = ", ".join(shown(name) for name in unmatched[:_NAMED])
    more = ", ..." if len(unmatched) > _NAMED else ""
    return (
        f"{lora.file.path}: {len(unmatched)} of {len(lora.file.header.tensors)} keys match nothing "
        f"in this model and are left out: {some}{more}."
    )
