"""Where a text encoder's tokenizer is: in its own file, or in a folder beside it."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from ..text.tokenizer import Tokenizer, read_sentencepiece, read_tokenizer_json
from .checkpoint import Checkpoint
from .umt5_names import TOKENIZER_TENSOR

_FILES = {"spiece.model": read_sentencepiece, "tokenizer.json": read_tokenizer_json}
_PLACES = (".", "tokenizer", "google/umt5-xxl", "umt5-xxl", "../tokenizer")
"""Seen beside text encoders; the last in folders that diffusers has made."""

_MAX_NBYTES = 1 << 26
"""Three times the largest known."""


def find_tokenizer(checkpoint: Checkpoint, *, folder: Path | None) -> Tokenizer:
    """Find and read the tokenizer of a text encoder.

    Args:
        folder: where a user says that it is; None looks into the file, and around it.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        PackageError: if the library that reads it is not installed.
    """
    if folder is not None:
        return _read_folder(folder, checkpoint)
    if TOKENIZER_TENSOR in checkpoint.header.tensors:
        return _read_tensor(checkpoint)
    around = checkpoint.path.parent
    for place in _PLACES:
        found = _file_in(around / place)
        if found is not None:
            return _read_file(found)
    raise CheckpointError(
        f"{checkpoint.path} has no tokenizer inside, and none of {', '.join(_FILES)} is beside it "
        f"or in {', '.join(_PLACES[1:-1])} there; put spiece.model of google/umt5-xxl (Hugging "
        "Face) there, name its folder with --tokenizer, or use a file of Comfy-Org's "
        "(umt5_xxl_fp16.safetensors), which has it inside."
    )


def _read_folder(folder: Path, checkpoint: Checkpoint) -> Tokenizer:
    found = _file_in(folder)
    if found is None:
        raise CheckpointError(
            f"{folder} is named as the tokenizer of {checkpoint.path}, but has no "
            f"{' and no '.join(_FILES)}; name a folder with one of them."
        )
    return _read_file(found)


def _file_in(folder: Path) -> Path | None:
    return next((folder / name for name in _FILES if (folder / name).is_file()), None)


def _read_file(path: Path) -> Tokenizer:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_NBYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"the tokenizer {path} cannot be read: {error}; choose another one."
        ) from error
    _check_length(len(content), str(path))
    return _FILES[path.name](content, source=str(path))


def _read_tensor(checkpoint: Checkpoint) -> Tokenizer:
    """Read the SentencePiece model that a file holds as a tensor of bytes."""
    entry = checkpoint.header.tensors[TOKENIZER_TENSOR]
    source = f"{entry.path} ({TOKENIZER_TENSOR})"
    if entry.dtype not in ("U8", "I8"):
        raise CheckpointError(
            f"the tokenizer in {source} is in the number format {entry.dtype.lower()}, but bytes "
            "were expected; use a file as its author wrote it."
        )
    _check_length(entry.parameters, source)
    try:
        opened: Any = safe_open(entry.path, framework="np")
        with opened as file:
            content: bytes = file.get_tensor(TOKENIZER_TENSOR).tobytes()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the tokenizer in {source} cannot be read: {error}; start again."
        ) from error
    return read_sentencepiece(content, source=source)


def _check_length(nbytes: int, source: str) -> None:
    if nbytes > _MAX_NBYTES:
        raise CheckpointError(
            f"the tokenizer in {source} has more than {_MAX_NBYTES} bytes, which no tokenizer of "
            "UMT5 has; use a file as its author wrote it."
        )
