"""Models from files, and files from models.

A model is made without memory, its weights are mapped from its files, renamed, brought to the
formats of the policy, and taken as they are: no second copy of a weight exists that needs none.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import nn

from ..errors import CheckpointError, OutputError
from ..files import part_file
from ..model.config import DiTConfig
from ..model.dit import FP32_ISLANDS as DIT_ISLANDS
from ..model.dit import WanDiT
from ..model.low_rank import LowRankLinear
from ..model.scaled import ScaledLinear
from ..precision import Precision
from ..shapes import Tensor
from ..text.words import WordEncoder
from ..vae.autoencoder import FP32_ISLANDS as VAE_ISLANDS
from ..vae.autoencoder import WanVAE
from ..vae.config import VAEConfig
from ..vae.layout import prepare
from .checkpoint import Checkpoint, Kind
from .detect import look_into
from .lora import Lora
from .lora_merge import apply_loras
from .notes import Config, describe_metadata
from .unpacking import unpack_weights

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def build_dit(
    source: Path | str | Checkpoint, *, precision: Precision, loras: Sequence[Lora] = ()
) -> WanDiT:
    """Build a DiT from a file, with LoRAs on it.

    Raises:
        CheckpointError: if the file is not a whole DiT that can be used, or a LoRA does not fit.
    """
    dit = _build(WanDiT, Kind.DIT, source, precision)
    apply_loras(dit, loras, precision=precision)
    return dit


def build_vae(source: Path | str | Checkpoint, *, precision: Precision) -> WanVAE:
    """Build a VAE from a file.

    Raises:
        CheckpointError: if the file is not a whole VAE that can be used.
    """
    return prepare(_build(WanVAE, Kind.VAE, source, precision))


def build_words(source: Path | str | Checkpoint, *, precision: Precision) -> WordEncoder:
    """Build a word encoder from a file.

    Raises:
        CheckpointError: if the file is not a whole word encoder.
    """
    return _build(WordEncoder, Kind.TEXT_WORDS, source, precision)


def _build(
    make: Callable[[Any], ModuleT],
    kind: Kind,
    source: Path | str | Checkpoint,
    precision: Precision,
) -> ModuleT:
    checkpoint = _usable(source, kind)
    assert checkpoint.config is not None, "a whole model has a configuration"
    with torch.device("meta"):
        module = make(checkpoint.config)
    stored, islands = read_weights(checkpoint), islands_of(checkpoint.config)
    try:
        weights = unpack_weights(module, stored, precision=precision, islands=islands)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    fill_module(module, weights)
    return module


def fill_module(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module made on the meta device its weights, and make it ready for inference."""
    module.load_state_dict(weights, strict=True, assign=True)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        assert not tensor.is_meta, f"{name} was left without a value"
    module.eval().requires_grad_(False)


def islands_of(config: Config) -> tuple[str, ...]:
    """Give the parts of parameter names that mark fp32 parameters of such a model."""
    if isinstance(config, DiTConfig):
        return DIT_ISLANDS
    return VAE_ISLANDS if isinstance(config, VAEConfig) else ()


def check_usable(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that cannot be loaded.

    Raises:
        CheckpointError: saying what is in the way.
    """
    if checkpoint.obstacle is not None:
        raise CheckpointError(
            f"{checkpoint.path} is {checkpoint.label}, which cannot be used: {checkpoint.obstacle}."
        )
    if not checkpoint.is_complete:
        raise CheckpointError(f"{checkpoint.path} is not whole: {checkpoint.sentence}")


def _usable(source: Path | str | Checkpoint, kind: Kind) -> Checkpoint:
    checkpoint = source if isinstance(source, Checkpoint) else look_into(source)
    if checkpoint.kind is not kind:
        raise CheckpointError(
            f"{checkpoint.path} is {checkpoint.label}, but a {kind.value} is needed here; choose "
            "another file."
        )
    check_usable(checkpoint)
    return checkpoint


def read_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Map all tensors of a model into memory, as they are stored, under Wan's names.

    What says how weights are packed comes with them, under the name of the layer that it is of:
    ``blocks.0.ffn.0.scale_weight``.

    Raises:
        CheckpointError: if a file changed since its header was read.
    """
    weights: dict[str, Tensor] = {}
    entries = checkpoint.header.tensors
    names = {**checkpoint.tensors, **checkpoint.packed}
    try:
        for path in dict.fromkeys(entries[stored].path for stored in names.values()):
            opened: Any = safe_open(path, framework="pt", device="cpu")
            with opened as file:
                for name, stored in names.items():
                    if entries[stored].path != path:
                        continue
                    tensor: Tensor = file.get_tensor(stored)
                    if tuple(tensor.shape) != entries[stored].shape:
                        raise _changed(checkpoint, f"{name} has another shape")
                    weights[name] = tensor
    except (SafetensorError, OSError) as error:
        raise _changed(checkpoint, str(error)) from error
    return weights


def _changed(checkpoint: Checkpoint, what: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path} is not what it was a moment ago ({what}): it was moved or replaced; "
        "start again."
    )


def save_checkpoint(module: WanDiT | WanVAE | WordEncoder, path: Path) -> None:
    """Write a model with the notes that its shapes need.

    What is there under the name is always whole; missing folders are made.

    Raises:
        OutputError: if the place cannot be written.
    """
    lost = any(isinstance(part, ScaledLinear | LowRankLinear) for part in module.modules())
    assert not lost, "files made here have no scales and no factors"
    weights = {name: value.contiguous().cpu() for name, value in module.state_dict().items()}
    with part_file(path) as part:
        try:
            save_file(weights, part, metadata=describe_metadata(module.config))
        except (SafetensorError, OSError) as error:
            raise OutputError(
                f"{path} cannot be written: {error}; choose another folder."
            ) from error
