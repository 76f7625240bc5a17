"""The files in ComfyUI's model folders: named by widgets, told apart by their headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch

from ...swift_core.errors import CheckpointError
from ...swift_core.model.config import DiTConfig
from ...swift_core.vae.config import VAEConfig
from ...swift_core.weights.checkpoint import Checkpoint, Kind
from ...swift_core.weights.detect import detect
from ...swift_core.weights.families import lora_widths
from ...swift_core.weights.headers import read_header
from ...swift_core.weights.layouts import Layout

NONE = "none"

WEIGHT_FORMATS: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
"""As ComfyUI's own loader names them."""


def list_files(folder: str) -> list[str]:
    """List what a loader of ours can read in one of ComfyUI's model folders, after "none"."""
    names = folder_paths.get_filename_list(folder)
    return [NONE, *(name for name in names if name.endswith(".safetensors"))]


def inspect_file(slot: str, folder: str, name: str) -> Checkpoint:
    """Look into a file by its header only.

    Raises:
        CheckpointError: if it is none, or cannot be read.
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise CheckpointError(
            f"{slot}: {name} is not in ComfyUI's {folder} folder; put it there, press R, and "
            "choose again."
        )
    try:
        return detect(read_header(Path(path)))
    except CheckpointError as error:
        raise CheckpointError(f"{slot}: {error}") from error


def check_dit(slot: str, checkpoint: Checkpoint, allowed: tuple[int, ...], what: str) -> int:
    """Refuse a file that is not a whole DiT with one of these numbers of input channels.

    Raises:
        CheckpointError: saying what it is and what belongs there.
    """
    config = checkpoint.config
    if not isinstance(config, DiTConfig) or config.in_channels not in allowed:
        raise _wrong_slot(slot, checkpoint, what)
    _check_whole(slot, checkpoint)
    return config.in_channels


def check_vae(slot: str, checkpoint: Checkpoint, latent_channels: int, what: str) -> None:
    """Refuse a file that is not a whole VAE with so many latent channels.

    Raises:
        CheckpointError: saying what it is and what belongs there.
    """
    config = checkpoint.config
    if not isinstance(config, VAEConfig) or config.latent_channels != latent_channels:
        raise _wrong_slot(slot, checkpoint, what)
    _check_whole(slot, checkpoint)


def check_lora(slot: str, checkpoint: Checkpoint, dit: Checkpoint) -> None:
    """Refuse a file that is no LoRA for a DiT's width: ComfyUI would leave it out in silence.

    Raises:
        CheckpointError: saying what it is.
    """
    assert isinstance(dit.config, DiTConfig), "checked before its LoRA"
    fits = dit.config.dim in lora_widths(checkpoint.header.tensors)
    if checkpoint.kind is not Kind.LORA or not fits:
        raise _wrong_slot(slot, checkpoint, f"a LoRA for {dit.path.name}, width {dit.config.dim},")


def check_text_encoder(slot: str, checkpoint: Checkpoint) -> None:
    """Refuse a file that is not UMT5.

    Raises:
        CheckpointError: saying what it is.
    """
    if checkpoint.kind is not Kind.TEXT_UMT5:
        raise _wrong_slot(slot, checkpoint, "UMT5 (umt5_xxl_fp8_e4m3fn_scaled.safetensors)")


def load_model(checkpoint: Checkpoint, weight_format: str) -> Any:
    """Load a DiT through ComfyUI, with all the formats that it knows."""
    return comfy.sd.load_diffusion_model(
        str(checkpoint.path), model_options=dict(WEIGHT_FORMATS[weight_format])
    )


def add_lora(model: Any, slot: str, file: Checkpoint, strength: float) -> Any:
    """Put a LoRA onto a MODEL, through ComfyUI.

    Raises:
        CheckpointError: if it fits the model nowhere.
    """
    weights = comfy.utils.load_torch_file(str(file.path), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, weights, strength, 0)
    if len(patched.patches) == len(model.patches):
        raise CheckpointError(
            f"{slot}: no key of {file.path.name} fits this model; choose the LoRA that was made "
            "for it."
        )
    return patched


def load_vae(checkpoint: Checkpoint) -> Any:
    """Load a VAE through ComfyUI."""
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(checkpoint.path), safe_load=True))


def load_text_encoder(checkpoint: Checkpoint) -> Any:
    """Load UMT5 through ComfyUI."""
    return comfy.sd.load_clip(
        ckpt_paths=[str(checkpoint.path)],
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        clip_type=comfy.sd.CLIPType.WAN,
    )


def _wrong_slot(slot: str, checkpoint: Checkpoint, what: str) -> CheckpointError:
    return CheckpointError(
        f"{slot}: {_described(checkpoint)}, but {what} belongs here; choose another file."
    )


def _described(checkpoint: Checkpoint) -> str:
    label = "an unknown file" if checkpoint.kind is Kind.UNKNOWN else checkpoint.label
    details = checkpoint.details.replace(" (", ", ").replace(")", "")  # they stand in brackets
    return f"{checkpoint.path.name} is {label} ({details})"


def _check_whole(slot: str, checkpoint: Checkpoint) -> None:
    """Refuse a file that is not whole, or named as ComfyUI does not read; it judges packed ones."""
    if checkpoint.layout is not Layout.WAN:
        raise CheckpointError(
            f"{slot}: {checkpoint.path.name} is {checkpoint.label} as diffusers names its tensors, "
            "which ComfyUI does not read; choose the file that Comfy-Org has repackaged."
        )
    if checkpoint.missing and not checkpoint.quantisation:
        raise CheckpointError(
            f"{slot}: {checkpoint.path.name} lacks {len(checkpoint.missing)} tensors, the first "
            f"is {checkpoint.missing[0]}; download it again."
        )
