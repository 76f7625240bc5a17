"""Latents on disk: what a run made, so that decoding can be repeated without sampling again."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from safetensors.torch import (
    load_file,  # pyright: ignore[reportUnknownVariableType]
    save_file,  # pyright: ignore[reportUnknownVariableType]
)

from ..errors import CheckpointError
from ..files import part_file
from ..shapes import Float, Tensor
from .headers import read_header

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
    if _METADATA not in header.metadata or entry is None or len(entry.shape) != 5:
        raise CheckpointError(
            f"{path} is no saved latent; pass a file written by generate --save-latent."
        )
    try:
        rate = Fraction(json.loads(header.metadata[_METADATA])["frames_per_second"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} does not say its frames per second: {error}.") from error
    return SavedLatent(latent=load_file(path)[_TENSOR].float(), frames_per_second=rate)
