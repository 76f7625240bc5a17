"""Latents on disk: what a run made, so that decoding can be repeated without sampling again."""

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import (
    load_file,  # pyright: ignore[reportUnknownVariableType]
    save_file,  # pyright: ignore[reportUnknownVariableType]
)

from ..errors import CheckpointError, OutputError
from ..files import part_file
from ..shapes import Float, Tensor
from .headers import Header, read_header, shown

_TENSOR = "latent"
_METADATA = "swift_i2v_latent"


@dataclass(frozen=True, kw_only=True)
class SavedLatent:
    """A video's latent.

    Attributes:
        latent: normalised, fp32.
        frames_per_second: of the video.
        latent_space: of the VAE that it is for, ``VAEConfig.latent_space``.
    """

    latent: Float[Tensor, "1 c t h w"]
    frames_per_second: Fraction
    latent_space: str


def save_latent(saved: SavedLatent, path: Path) -> None:
    """Write a latent; under the name there is always a whole file.

    Raises:
        OutputError: if the place cannot be written.
    """
    notes = {
        "frames_per_second": str(saved.frames_per_second),
        "latent_space": saved.latent_space,
    }
    with part_file(path) as part:
        try:
            save_file(
                {_TENSOR: saved.latent.contiguous().cpu().float()},
                part,
                metadata={_METADATA: json.dumps(notes)},
            )
        except (SafetensorError, OSError) as error:
            raise OutputError(
                f"{path} cannot be written: {error}; make room or choose another folder."
            ) from error


def is_saved_latent(header: Header) -> bool:
    """Say whether a file claims to be a saved latent."""
    return _METADATA in header.metadata


@dataclass(frozen=True, kw_only=True)
class LatentNotes:
    """What the header of a saved latent tells; see ``SavedLatent``.

    Attributes:
        shape: ``(channels, latent_frames, height, width)``.
    """

    shape: tuple[int, ...]
    frames_per_second: Fraction
    latent_space: str


def read_latent_notes(header: Header) -> LatentNotes:
    """Describe a saved latent by its header alone.

    Raises:
        CheckpointError: if the file is something else, or says what cannot be.
    """
    entry = header.tensors.get(_TENSOR)
    shape = (0,) if entry is None else entry.shape
    is_clip = len(shape) == 5 and shape[0] == 1 and min(shape) > 0
    if not is_saved_latent(header) or entry is None or entry.dtype != "F32" or not is_clip:
        raise CheckpointError(
            f"{header.path} is no saved latent; pass a file written by generate --save-latent."
        )
    rate, latent_space = _read_notes(header.path, header.metadata[_METADATA])
    return LatentNotes(shape=shape[1:], frames_per_second=rate, latent_space=latent_space)


def load_latent(path: Path) -> SavedLatent:
    """Read a latent written by ``save_latent``.

    Raises:
        CheckpointError: if the file is missing, broken or something else.
    """
    notes = read_latent_notes(read_header(path))
    try:
        latent: Tensor = load_file(path)[_TENSOR]
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} can no longer be read: {error}; start again.") from error
    return SavedLatent(
        latent=latent,
        frames_per_second=notes.frames_per_second,
        latent_space=notes.latent_space,
    )


def _read_notes(path: Path, text: str) -> tuple[Fraction, str]:
    """Read frames per second and latent space; short numbers only, because a file may hold any."""
    try:
        notes: Any = json.loads(text)
        rate, latent_space = notes["frames_per_second"], notes["latent_space"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} does not say its frames per second and latent space: {error}; make it again."
        ) from error
    if not isinstance(rate, str) or not re.fullmatch(r"[1-9]\d{0,6}(/[1-9]\d{0,6})?", rate, re.A):
        raise CheckpointError(
            f"{path} gives {shown(json.dumps(rate))} as its frames per second, which must be a "
            "number such as 16 or 24000/1001; make the latent again."
        )
    return Fraction(rate), str(latent_space)
