"""The files in ComfyUI's model folders: named by widgets, told apart by their headers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import folder_paths

from ...swift_core.errors import CheckpointError
from ...swift_core.geometry import Patch
from ...swift_core.model.config import DiTConfig
from ...swift_core.text.umt5 import UMT5_XXL
from ...swift_core.vae.config import WAN22_VAE, VAEConfig
from ...swift_core.weights.checkpoint import Checkpoint, Kind
from ...swift_core.weights.detect import look_into
from ...swift_core.weights.families import foreign_part, lora_widths
from ...swift_core.weights.layouts import Layout
from ...swift_core.weights.lora import Lora, match_lora, read_lora
from ...swift_core.weights.places import UMT5_FILE, is_for_other_models, place_of
from ...swift_core.weights.umt5_names import TOKENIZER_TENSOR
from .formats import is_readable
from .loading import check_tokenizer_file, find_tokenizer
from .loras import ChosenLora

NONE = "none"

_IMAGE_ENCODER = foreign_part("img_emb.")
"""The one part that our DiT lacks and that ComfyUI does without: Wan2.1-I2V's."""

_MODEL_INPUTS = {
    "motion_high": "Motion Reference 360P's motion_model",
    "motion_low": "Motion Reference 360P's motion_model_low",
    "detail": "CSG 2K Sampler's detail_model",
}
"""Where a MODEL goes that another loader has read."""


def list_files(folder: str) -> list[str]:
    """List what ComfyUI has in one of its model folders, after "none".

    Files that no loader of ours reads are among them: chosen, they are named, and where they go.
    """
    return [NONE, *folder_paths.get_filename_list(folder)]


def inspect_file(slot: str, folder: str, name: str) -> Checkpoint:
    """Look into a file by its header only; one file of a model in several stands for all of it.

    Raises:
        CheckpointError: if it is none, or cannot be read.
    """
    path = find_file(folder, name)
    if path is None:
        raise _absent([(slot, folder, name)])
    try:
        return look_into(path)
    except CheckpointError as error:
        if slot in _MODEL_INPUTS and _begins_as_gguf(path):
            raise CheckpointError(
                f"{slot}: {name} is a GGUF file, which this loader does not read; load it with a "
                f"GGUF loader node, and connect its MODEL to {_MODEL_INPUTS[slot]}."
            ) from error
        raise CheckpointError(f"{slot}: {error}") from error


def check_there(chosen: Iterable[tuple[str, str, Any]]) -> None:
    """Refuse files that are not in their folders, all with one sentence.

    Args:
        chosen: slot, folder and name of each.

    Raises:
        CheckpointError: naming those that are not there.
    """
    absent = [
        (slot, folder, name) for slot, folder, name in chosen if find_file(folder, name) is None
    ]
    if absent:
        raise _absent(absent)


def find_file(folder: str, name: Any) -> Path | None:
    """Find a file in one of ComfyUI's model folders, and nowhere else; programs send anything."""
    try:
        path = folder_paths.get_full_path(folder, name)
    except (TypeError, ValueError):  # no text, or a place on another drive
        return None
    return None if path is None else Path(path)


def _absent(files: list[tuple[str, str, Any]]) -> CheckpointError:
    named = ", ".join(
        f"{slot}: {name} is not in ComfyUI's {folder} folder" for slot, folder, name in files
    )
    what = "it" if len(files) == 1 else "them"
    return CheckpointError(
        f"{named}; put {what} there and press R, choose another file, or set models to "
        '"swift-tiny (bundled)".'
    )


def _begins_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def check_dit(slot: str, checkpoint: Checkpoint, allowed: tuple[int, ...], what: str) -> int:
    """Refuse a file that is not a whole DiT with one of these numbers of input channels.

    Raises:
        CheckpointError: saying what it is and what belongs there.
    """
    config = checkpoint.config
    if not isinstance(config, DiTConfig) or config.in_channels not in allowed:
        raise _wrong_slot(slot, checkpoint, what)
    foreign = {foreign_part(name) for name in checkpoint.unexpected} - {None}
    if foreign - {_IMAGE_ENCODER} or (foreign and checkpoint.layout is not Layout.WAN):
        raise _wrong_slot(slot, checkpoint, what)
    if not is_readable(checkpoint):
        raise CheckpointError(
            f"{slot}: {_described(checkpoint)} with weights packed in a way that this loader does "
            "not read; load it with its own loader node, and connect its MODEL to "
            f"{_MODEL_INPUTS[slot]}."
        )
    _check_whole(slot, checkpoint)
    # ComfyUI takes these for granted, and would make noise of a model that has others.
    usual = config.heads * 128 == config.dim and config.text_dim == UMT5_XXL.text_dim
    if not usual or config.patch != Patch(time=1, height=2, width=2):
        raise CheckpointError(
            f"{slot}: {_described(checkpoint)} of other proportions than Wan's, which ComfyUI does "
            "not read; use it on the command line, in its set of models."
        )
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
    if latent_channels == WAN22_VAE.latent_channels and config != WAN22_VAE:
        raise CheckpointError(
            f"{slot}: {_described(checkpoint)} of other proportions than Wan's, which ComfyUI does "
            "not read; use it on the command line, in its set of models."
        )


def check_lora(slot: str, checkpoint: Checkpoint, strength: float, dit: Checkpoint) -> ChosenLora:
    """Refuse a file that is no LoRA for a DiT's width: ComfyUI would leave it out in silence.

    Raises:
        CheckpointError: saying what it is.
    """
    assert isinstance(dit.config, DiTConfig), "checked before its LoRA"
    what = f"a LoRA for {dit.path.name}, width {dit.config.dim},"
    widths = lora_widths(checkpoint.header.tensors)
    if checkpoint.kind is not Kind.LORA or (widths and dit.config.dim not in widths):
        raise _wrong_slot(slot, checkpoint, what)
    if is_for_other_models(checkpoint):
        raise _wrong_slot(slot, checkpoint, what)
    # Other adapters than plain LoRAs are ComfyUI's to read, and so are a foreign part's.
    match = None
    try:
        if checkpoint.obstacle is None and not dit.unexpected:
            match = match_lora(Lora(file=read_lora(checkpoint), strength=strength), dit.config)
    except CheckpointError as error:
        raise CheckpointError(f"{slot}: {error}") from error
    return ChosenLora(slot=slot, file=checkpoint, strength=strength, match=match)


def check_text_encoder(slot: str, checkpoint: Checkpoint) -> None:
    """Refuse a file that is not UMT5-XXL with a tokenizer.

    Raises:
        CheckpointError: saying what it is.
    """
    if checkpoint.kind is not Kind.TEXT_UMT5:
        raise _wrong_slot(slot, checkpoint, f"UMT5 ({UMT5_FILE})")
    _check_whole(slot, checkpoint)
    if checkpoint.config != UMT5_XXL:
        raise CheckpointError(
            f"{slot}: {_described(checkpoint)}, but ComfyUI runs UMT5-XXL only; choose {UMT5_FILE}."
        )
    if not is_readable(checkpoint):
        raise CheckpointError(
            f"{slot}: {_described(checkpoint)} with weights packed in a way that this loader does "
            "not read; load it with its own loader node, and connect its CLIP to CLIP Text Encode."
        )
    if TOKENIZER_TENSOR in checkpoint.header.tensors:
        return
    tokenizer = find_tokenizer(checkpoint)
    if tokenizer is None:
        raise CheckpointError(
            f"{slot}: {checkpoint.path.name} is UMT5 without its tokenizer; choose {UMT5_FILE}, "
            "which has it inside, or put spiece.model of google/umt5-xxl beside the file."
        )
    try:
        check_tokenizer_file(tokenizer, checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{slot}: {error}") from error


def _wrong_slot(slot: str, checkpoint: Checkpoint, what: str) -> CheckpointError:
    return CheckpointError(
        f"{slot}: {_described(checkpoint)}, but {what} belongs here; {place_of(checkpoint).advice}."
    )


def _described(checkpoint: Checkpoint) -> str:
    details = checkpoint.details.replace(" (", ", ").replace(")", "")  # they stand in brackets
    return f"{checkpoint.path.name} is {checkpoint.label} ({details})"


def _check_whole(slot: str, checkpoint: Checkpoint) -> None:
    """Refuse a file that is not whole."""
    if checkpoint.missing:
        raise CheckpointError(
            f"{slot}: {checkpoint.path.name} lacks {len(checkpoint.missing)} tensors, the first "
            f"is {checkpoint.missing[0]}; download it again."
        )
