"""Random weights as files: a whole set, written out in full.

So reading them is what reading a published model is. A folder that has models is used as it is.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from swift_core.errors import CheckpointError, OutputError
from swift_core.model.config import DiTConfig
from swift_core.vae.config import VAEConfig
from swift_core.weights.build import save_checkpoint
from swift_core.weights.model_set import ModelSet, open_model_set
from swift_core.weights.notes import describe_metadata
from swift_core.weights.set_file import SetFile, write_set_file

from .machine import Machine
from .scale import Scale
from .weights import Stored, draw, nbytes_of, precision_of, words_encoder

_SPARE_NBYTES = 2**28
"""Of a disk, for all else."""

_UNFINISHED = "unfinished"
"""A file that stands in a folder while models are written there."""

_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
}


@dataclass(frozen=True, kw_only=True)
class WrittenSet:
    """A set of models in a folder.

    Attributes:
        models: the set.
        nbytes: that were written just now.
        note: a remark for the row.
    """

    models: ModelSet
    nbytes: int
    note: str


def write_models(scale: Scale, machine: Machine, folder: Path, *, packed: bool) -> WrittenSet:
    """Write a whole set as files, if there is none yet, and open it.

    At full size 41 GB with packed experts; with 16-bit ones both slots name one file, 40 GB. So
    they do, too, where the disk has no room for two.

    Raises:
        CheckpointError: if there is one with other experts.
        OutputError: if the disk has no room for it.
    """
    unfinished = folder / _UNFINISHED
    nbytes, note = 0, ""
    if unfinished.exists() or not any(folder.glob("*.safetensors")):
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        nbytes, note = _write_models(scale, machine, folder, packed=packed)
        unfinished.unlink()
    models = open_model_set(folder)
    _check_experts(models, folder, packed=packed)
    if not nbytes:
        low = models.motion_low
        is_shared = low is None or low.source == models.motion_high.source
        note = "it was there" + (", both experts in one file" if is_shared else "")
    return WrittenSet(models=models, nbytes=nbytes, note=note)


def _check_experts(models: ModelSet, folder: Path, *, packed: bool) -> None:
    has_packed = models.motion_high.packed_nbytes is not None
    if has_packed == packed:
        return
    has, other, asked = ("8-bit", "fp8", "bf16") if has_packed else ("16-bit", "bf16", "fp8")
    raise CheckpointError(
        f"{folder} has {has} experts, but --experts {asked} is asked for; add --experts {other}, "
        "or name another folder."
    )


def _write_models(scale: Scale, machine: Machine, folder: Path, *, packed: bool) -> tuple[int, str]:
    """Write a whole set, anew if it was cut off before; give its bytes and a remark."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    made = partial(draw, precision=precision_of(machine), device=machine.device)
    drawn: dict[str, tuple[DiTConfig | VAEConfig, Stored]] = {
        "motion_high": (scale.motion, made(scale.motion, packed=packed)),
        "motion_low": (scale.motion, made(scale.motion, packed=packed)),
        "motion_vae": (scale.motion_vae, made(scale.motion_vae, packed=False)),
        "detail": (scale.detail, made(scale.detail, packed=False)),
        "detail_vae": (scale.detail_vae, made(scale.detail_vae, packed=False)),
    }
    sizes = {name: nbytes_of(stored) for name, (_, stored) in drawn.items()}
    sources, note = choose_files(sizes, folder, two_experts=packed)
    written = 0
    for name in dict.fromkeys(sources.values()):
        config, stored = drawn[name]
        path = folder / f"{name}.safetensors"
        written += write_file(path, stored, describe_metadata(config))
    save_checkpoint(words_encoder(scale), folder / "text.safetensors")
    slots = {slot: f"{name}.safetensors" for slot, name in sources.items()}
    write_set_file(
        folder,
        SetFile(
            name=f"random, {scale.name}",
            description="Random weights of the true shapes.",
            slots={"text": "text.safetensors", **slots},
        ),
    )
    return written, note


def choose_files(
    sizes: Mapping[str, int], folder: Path, *, two_experts: bool
) -> tuple[dict[str, str], str]:
    """Choose which model's file each slot names, by the room on the disk; and say why.

    Args:
        sizes: bytes of each model.
        two_experts: whether each has a file of its own, if there is room.

    Raises:
        OutputError: if there is not even room for one of them.
    """
    room = shutil.disk_usage(folder).free - _SPARE_NBYTES
    own = {name: name for name in sizes}
    shared = own | {"motion_low": "motion_high"}
    least, wanted = (sum(sizes[name] for name in set(each.values())) for each in (shared, own))
    if least > room:
        raise OutputError(
            f"{folder} has room for {max(0, room) / 1e9:.1f} GB, a set of models takes "
            f"{least / 1e9:.1f} GB; make room, or name a folder on another disk."
        )
    if not two_experts:
        return shared, "both experts are one file"
    if wanted > room:
        return shared, f"both experts are one file: the disk has room for {room / 1e9:.1f} GB"
    return own, ""


def write_file(path: Path, stored: Stored, metadata: Mapping[str, str]) -> int:
    """Write weights as safetensors, one tensor at a time; shared ones are written each time."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in stored.items():
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for content in _bytes_of(stored.values()):
            file.write(content)
    return end


def _bytes_of(tensors: Iterable[torch.Tensor]) -> Iterable[memoryview]:
    for tensor in tensors:
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
