"""UMT5 from files: its weights, and the tokenizer that belongs to them."""

from dataclasses import replace
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..precision import Precision
from ..shapes import Tensor
from ..text.tokenizer import Tokenizer
from ..text.umt5 import UMT5Config, UMT5Encoder, check_tokenizer, make_stack, shield_packed
from .build import check_usable, fill_module, read_weights
from .checkpoint import Checkpoint, Kind
from .tokenizers import find_tokenizer
from .umt5_names import umt5_stack_table
from .unpacking import unpack_weights


def check_umt5(checkpoint: Checkpoint, tokenizer_folder: Path | None) -> None:
    """Refuse what would be in the way of building the encoder, before its weights are read.

    Args:
        tokenizer_folder: where a user says that the tokenizer is; None looks for it.

    Raises:
        CheckpointError: if there is no tokenizer, or it is not the encoder's.
        PackageError: if a library is not installed.
    """
    config = _config(checkpoint)
    with torch.device("meta"):
        make_stack(replace(config, layers=1))
    _tokenizer(checkpoint, config, tokenizer_folder)


def build_umt5(
    checkpoint: Checkpoint, tokenizer_folder: Path | None, *, precision: Precision
) -> UMT5Encoder:
    """Build the encoder from a file.

    Args:
        tokenizer_folder: where a user says that the tokenizer is; None looks for it.

    Raises:
        CheckpointError: if the file is no whole encoder that can be used, there is no tokenizer, or
            it is not the encoder's.
        PackageError: if a library is not installed.
    """
    config = _config(checkpoint)
    tokenizer = _tokenizer(checkpoint, config, tokenizer_folder)
    with torch.device("meta"):
        stack = make_stack(config)
    # One pass over a few hundred tokens: nothing to be gained from products in 8 bits.
    exact = replace(precision, fp8_products=False)
    try:
        weights = unpack_weights(stack, _in_stack(checkpoint, config), precision=exact)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    fill_module(stack, weights)
    shield_packed(stack)
    return UMT5Encoder(config, stack, tokenizer).eval()


def _config(checkpoint: Checkpoint) -> UMT5Config:
    config = checkpoint.config
    if checkpoint.kind is not Kind.TEXT_UMT5:
        raise CheckpointError(
            f"{checkpoint.path} is {checkpoint.label}, but a {Kind.TEXT_UMT5.value} is needed "
            "here; choose another file."
        )
    check_usable(checkpoint)
    assert isinstance(config, UMT5Config), "a usable checkpoint has its kind's configuration"
    return config


def _tokenizer(checkpoint: Checkpoint, config: UMT5Config, folder: Path | None) -> Tokenizer:
    tokenizer = find_tokenizer(checkpoint, folder=folder)
    check_tokenizer(tokenizer, config, source=str(checkpoint.path))
    return tokenizer


def _in_stack(checkpoint: Checkpoint, config: UMT5Config) -> dict[str, Tensor]:
    """Read the weights, and what says how they are packed, under the names of transformers."""
    layers = {
        ours.removesuffix(".weight"): theirs.removesuffix(".weight")
        for ours, theirs in umt5_stack_table(config.layers).items()
    }
    stored: dict[str, Tensor] = {}
    for name, tensor in read_weights(checkpoint).items():
        layer, _, part = name.rpartition(".")
        stored[f"{layers[layer]}.{part}"] = tensor
    return stored
