"""Models from files, through ComfyUI: as they are, or under the names that it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch

from ...swift_core.errors import CheckpointError
from ...swift_core.text.tokenizer import read_sentencepiece
from ...swift_core.text.umt5 import UMT5_XXL, check_tokenizer
from ...swift_core.weights.checkpoint import Checkpoint
from ...swift_core.weights.umt5_names import TOKENIZER_TENSOR, umt5_file_table
from .exact_vae import ExactVAE
from .formats import read_state, reads_as_is

WEIGHT_FORMATS: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
"""As ComfyUI's own loader names them."""

_TOKENIZER_FILE = "spiece.model"
_TOKENIZER_PLACES = (".", "tokenizer", "google/umt5-xxl", "umt5-xxl", "../tokenizer")
"""Beside a text encoder; the last in folders that diffusers has made."""

_MOST_NBYTES = 1 << 26
"""Ten times UMT5's tokenizer."""


def load_model(checkpoint: Checkpoint, weight_format: str) -> Any:
    """Load a DiT, with all the formats that ComfyUI knows.

    Raises:
        CheckpointError: if ComfyUI does not know what it is.
    """
    options = dict(WEIGHT_FORMATS[weight_format])
    if reads_as_is(checkpoint):
        return comfy.sd.load_diffusion_model(str(checkpoint.path), model_options=options)
    return _model_under_names(checkpoint, options)


def _model_under_names(checkpoint: Checkpoint, options: dict[str, Any], **other: Any) -> Any:
    model = comfy.sd.load_diffusion_model_state_dict(
        read_state(checkpoint), model_options=options, **other
    )
    if model is None:
        raise CheckpointError(
            f"{checkpoint.path} is {checkpoint.label}, which this ComfyUI does not know; update "
            "ComfyUI, or choose the file that Comfy-Org has repackaged."
        )
    model.cached_patcher_init = (_model_under_names, (checkpoint, options))
    return model


def load_vae(checkpoint: Checkpoint, budget_nbytes: int | None = None) -> Any:
    """Load a VAE, to be decoded and encoded exactly in every node.

    Args:
        budget_nbytes: what it may take, weights and work together; None: what there is.
    """
    vae = ExactVAE(sd=read_state(checkpoint))
    vae.budget_nbytes = budget_nbytes
    vae.patcher.cached_patcher_init = (_vae_patcher, (checkpoint,))
    return vae


def _vae_patcher(checkpoint: Checkpoint, **_: Any) -> Any:
    """Load a VAE again, as ComfyUI asks for it where it cannot share one."""
    return load_vae(checkpoint).patcher


def find_tokenizer(checkpoint: Checkpoint) -> Path | None:
    """Find the SentencePiece model beside a text encoder that has none inside."""
    around = checkpoint.path.parent
    places = (around / place / _TOKENIZER_FILE for place in _TOKENIZER_PLACES)
    return next((path for path in places if path.is_file()), None)


def check_tokenizer_file(path: Path, checkpoint: Checkpoint) -> None:
    """Refuse a tokenizer that is none, or another model's: ComfyUI would make noise with it.

    Raises:
        CheckpointError: saying what is wrong with it.
    """
    tokenizer = read_sentencepiece(_read_tokenizer(path), source=str(path))
    check_tokenizer(tokenizer, UMT5_XXL, source=checkpoint.path.name)


def load_text_encoder(checkpoint: Checkpoint) -> Any:
    """Load UMT5-XXL.

    Raises:
        CheckpointError: if its tokenizer has gone.
    """
    if not reads_as_is(checkpoint):
        return _text_encoder_under_names(checkpoint)
    folders = folder_paths.get_folder_paths("embeddings")
    return comfy.sd.load_clip([str(checkpoint.path)], folders, comfy.sd.CLIPType.WAN)


def _text_encoder_under_names(checkpoint: Checkpoint, **other: Any) -> Any:
    folders = folder_paths.get_folder_paths("embeddings")
    state = _comfys_umt5(checkpoint)
    if hasattr(comfy.utils, "convert_old_quants"):  # where ComfyUI's loader does it beforehand
        state, _ = comfy.utils.convert_old_quants(state, "")
    clip = comfy.sd.load_text_encoder_state_dicts([state], folders, comfy.sd.CLIPType.WAN, **other)
    clip.patcher.cached_patcher_init = (_clip_patcher, (checkpoint,))
    return clip


def _clip_patcher(checkpoint: Checkpoint, **other: Any) -> Any:
    return _text_encoder_under_names(checkpoint, **other).patcher


def _comfys_umt5(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Give a text encoder under the names of ComfyUI's, with its tokenizer."""
    # Its table of tokens has two names there, and the first is the one that ComfyUI reads.
    table = umt5_file_table(UMT5_XXL.layers).items()
    names = {ours.removesuffix(".weight"): theirs for theirs, ours in reversed(table)}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in read_state(checkpoint).items():
        layer, _, part = name.rpartition(".")
        if layer in names:
            state[f"{names[layer].removesuffix('weight')}{part}"] = tensor
        elif not layer:  # the mark of packed weights
            state[part] = tensor
    return {**state, TOKENIZER_TENSOR: _tokenizer(checkpoint)}


def _tokenizer(checkpoint: Checkpoint) -> torch.Tensor:
    entry = checkpoint.header.tensors.get(TOKENIZER_TENSOR)
    if entry is not None:
        return comfy.utils.load_torch_file(str(entry.path), safe_load=True)[TOKENIZER_TENSOR]
    path = find_tokenizer(checkpoint)
    if path is None:
        raise CheckpointError(f"the tokenizer beside {checkpoint.path} has gone; put it back.")
    return torch.frombuffer(bytearray(_read_tokenizer(path)), dtype=torch.uint8)


def _read_tokenizer(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_NBYTES)
    except OSError as error:
        raise CheckpointError(
            f"the tokenizer {path} cannot be read: {error}; put spiece.model of google/umt5-xxl "
            "there again."
        ) from error
