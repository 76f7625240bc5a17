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

from ..errors import CheckpointError
from ..files import part_file
from ..shapes import Float, Tensor
from .headers import read_header, shown

_TENSOR = "latent"
_METADATA = "swift_i2v_latent"


@dataclass(frozen=True, kw_only=True)
class SavedLatent:
    """A video's latent.

    Attributes:
        latent: normalised, fp32.
        frames_per_second: of the video.
    """

    latent: Float[Tensor, "1 c t h w"]
    frames_per_second: Fraction


def save_latent(saved: SavedLatent, path: Path) -> None:
    """Write a latent; under the name there is always a whole file."""
    metadata = {_METADATA: json.dumps({"frames_per_second": str(saved.frames_per_second)})}
    with part_file(path) as part:
        save_file({_TENSOR: saved.latent.contiguous().cpu().float()}, part, metadata=metadata)


def load_latent(path: Path) -> SavedLatent:
    """Read a latent written by ``save_latent``.

    Raises:
        CheckpointError: if the file is missing, broken or something else.
    """
    header = read_header(path)
    entry = header.tensors.get(_TENSOR)
    shape = (0,) if entry is None else entry.shape
    is_clip = len(shape) == 5 and shape[0] == 1 and min(shape) > 0
    if _METADATA not in header.metadata or entry is None or entry.dtype != "F32" or not is_clip:
        raise CheckpointError(
            f"{path} is no saved latent; pass a file written by generate --save-latent."
        )
    rate = _read_rate(path, header.metadata[_METADATA])
    try:
        latent: Tensor = load_file(path)[_TENSOR]
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} can no longer be read: {error}; start again.") from error
    return SavedLatent(latent=latent, frames_per_second=rate)


def _read_rate(path: Path, text: str) -> Fraction:
    """Read frames per second; short numbers only, because a file may hold any."""
    try:
        rate: Any = json.loads(text)["frames_per_second"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} does not say its frames per second: {error}.") from error
    if not isinstance(rate, str) or not re.fullmatch(r"[1-9]\d{0,18}(/[1-9]\d{0,18})?", rate, re.A):
        raise CheckpointError(
            f"{path} gives {shown(json.dumps(rate))} as its frames per second, which must be a "
            "number such as 16 or 24000/1001; make the latent again."
        )
    return Fraction(rate)
