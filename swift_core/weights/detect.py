"""What a checkpoint is, told from its keys and shapes alone, never from its name."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from ..errors import CheckpointError
from ..model.config import DiTConfig
from ..model.dit import WanDiT
from ..text.umt5 import UMT5Config, umt5_shapes
from ..text.words import WordConfig, WordEncoder
from ..vae.autoencoder import WanVAE
from ..vae.config import VAEConfig
from .checkpoint import FORMAT_NAMES, LOADABLE, Checkpoint, Kind, count_formats
from .families import (
    Recognised,
    describe_dit,
    describe_umt5,
    describe_vae,
    foreign_part,
    name_dit,
    name_vae,
    recognise_lora,
    recognise_t5,
    recognise_tae,
)
from .headers import Header, TensorEntry, shown
from .layouts import MOST_PREFIXES, PREFIXES, to_wan_keys
from .notes import Config, Notes, read_notes
from .packing import Packing, is_packing, layer_of, read_packing
from .probes import PROBES, Probe
from .shards import read_model_header
from .sizes import MissingError, Shapes, dit_config, umt5_config, vae_config, word_config
from .umt5_names import TOKENIZER_TENSOR

_Tensors = Mapping[str, TensorEntry]

_RECOGNISERS: tuple[Callable[[_Tensors], Recognised | None], ...] = (
    recognise_lora,
    recognise_t5,
    recognise_tae,
)


def look_into(path: Path | str) -> Checkpoint:
    """Tell what a model's file or files are, by their headers alone.

    Args:
        path: see ``read_model_header``.

    Raises:
        CheckpointError: if there is no such file, or it is damaged.
    """
    return detect(read_model_header(path))


def detect(header: Header) -> Checkpoint:
    """Tell what a file is.

    Raises:
        CheckpointError: if it is of a known kind, but contradicts itself or lacks what its shapes
            cannot say.
    """
    beside = {TOKENIZER_TENSOR, *filter(is_packing, header.tensors)}
    names = [name for name in header.tensors if name not in beside]
    prefix = _common_prefix(names)
    tensors = {name.removeprefix(prefix): header.tensors[name] for name in names}
    for recognise in _RECOGNISERS:
        known = recognise(tensors)
        if known is not None:
            return Checkpoint(
                header=header,
                kind=known.kind,
                name=known.name,
                details=known.details,
                prefix=prefix,
                obstacle=known.obstacle,
            )
    for probe in PROBES:
        if any(re.fullmatch(probe.sign, name) for name in tensors):
            try:
                return _examine(header, probe, prefix=prefix, tensors=tensors)
            except CheckpointError as error:
                raise CheckpointError(f"{header.path}: {error}") from error
    return Checkpoint(
        header=header,
        kind=Kind.UNKNOWN,
        name="unknown file",
        details=_what_was_tried(list(header.tensors)),
    )


def _common_prefix(names: list[str]) -> str:
    """Give what stands in front of every name, of the prefixes seen in the wild."""
    found = ""
    for _ in range(MOST_PREFIXES if names else 0):
        step = next((p for p in PREFIXES if all(n.startswith(found + p) for n in names)), None)
        if step is None:
            break
        found += step
    return found


def _what_was_tried(names: list[str]) -> str:
    if not names:
        return "there is no tensor in it"
    inside = sum("diffusion_model." in name for name in names)
    if 0 < inside < len(names):
        return "several models in one file; use the parts as files of their own"
    tried = ", ".join(probe.wanted for probe in PROBES)
    return (
        f"{len(names)} tensors, the first being {shown(names[0])}; looked for a LoRA, T5, a TAE, "
        f"and for {tried}, and found none"
    )


def _examine(header: Header, probe: Probe, *, prefix: str, tensors: _Tensors) -> Checkpoint:
    """Look at a file of a kind that we load: its architecture, and whether it is whole."""
    notes = read_notes(header)
    if notes.kind not in (None, probe.note):
        raise CheckpointError(
            f"its metadata says that it is of the kind {notes.kind}, but its keys are those of a "
            f"{probe.kind.value}; use a file as its author wrote it."
        )
    foreign = {name: part for name in tensors if (part := foreign_part(name)) is not None}
    own = [name for name in tensors if name not in foreign]
    renamed = to_wan_keys(own, probe.layout)
    shapes = {renamed[name]: tensors[name].shape for name in own}
    try:
        config = _config(probe.kind, shapes, notes)
    except MissingError as error:
        return Checkpoint(
            header=header,
            kind=probe.kind,
            name=f"part of a {_family(probe.kind)}",
            details=f"{len(tensors)} tensors of it",
            layout=probe.layout,
            prefix=prefix,
            missing=(error.name,),
            obstacle=(
                "it is one file of several, or damaged; put all files and their "
                ".safetensors.index.json into one folder, or get the model as one file"
            ),
        )
    whole = expected_shapes(config)
    name, details, obstacle = _describe(config, foreign.values())
    packing = read_packing(header)
    formats = _foreign_formats(tensors, packing)
    if formats is None:
        _check_shapes(shapes, whole)
    stored = {renamed[name]: f"{prefix}{name}" for name in own}
    return Checkpoint(
        header=header,
        kind=probe.kind,
        name=name,
        details=details,
        layout=probe.layout,
        prefix=prefix,
        config=config,
        tensors=stored,
        packed=_packed(header, stored),
        expected=len(whole),
        missing=tuple(name for name in whole if name not in shapes),
        unexpected=(
            *(name for name in shapes if name not in whole),
            *foreign,
            *packing.strays,
        ),
        quantisation=packing.words,
        obstacle=obstacle or formats,
    )


def _config(kind: Kind, shapes: Shapes, notes: Notes) -> Config:
    if kind is Kind.DIT:
        return dit_config(shapes, notes)
    if kind is Kind.VAE:
        return vae_config(shapes, notes)
    return umt5_config(shapes) if kind is Kind.TEXT_UMT5 else word_config(shapes)


def _family(kind: Kind) -> str:
    return kind.value if kind is Kind.TEXT_UMT5 else f"Wan {kind.value}"


def _describe(config: Config, foreign: Iterable[str]) -> tuple[str, str, str | None]:
    """Give name, details and obstacle."""
    if isinstance(config, DiTConfig):
        name, obstacle = name_dit(config, foreign)
        return name, describe_dit(config), obstacle
    if isinstance(config, VAEConfig):
        return name_vae(config), describe_vae(config), None
    if isinstance(config, UMT5Config):
        return Kind.TEXT_UMT5.value, describe_umt5(config), None
    return "word text encoder", f"{config.buckets} words, width {config.text_dim}", None


def _foreign_formats(tensors: _Tensors, packing: Packing) -> str | None:
    """Say which formats of a file cannot be read; None if all can."""
    foreign = packing.foreign or tuple(
        FORMAT_NAMES.get(name, name.lower())
        for name in count_formats(tensors.values())
        if name not in LOADABLE
    )
    if not foreign:
        return None
    return (
        f"weights in {' and '.join(foreign)} are not read here; in ComfyUI load it with its own "
        "loader node and connect that to a MODEL input, elsewhere choose it in "
        f"{', '.join(FORMAT_NAMES[name] for name in LOADABLE)}"
    )


def _packed(header: Header, stored: Mapping[str, str]) -> dict[str, str]:
    """Give the names of what says how weights are packed, with Wan's name of the layer."""
    wan = {name: ours for ours, name in stored.items()}
    found: dict[str, str] = {}
    for name in filter(is_packing, header.tensors):
        layer, part = layer_of(name)
        weight = wan.get(f"{layer}.weight")
        if weight is not None:
            found[f"{weight.removesuffix('.weight')}.{part}"] = name
    return found


def make_module(config: DiTConfig | VAEConfig | WordConfig) -> nn.Module:
    """Build a model of this architecture, without memory for its weights."""
    with torch.device("meta"):
        if isinstance(config, DiTConfig):
            return WanDiT(config)
        if isinstance(config, VAEConfig):
            return WanVAE(config)
        return WordEncoder(config)


@lru_cache(maxsize=16)
def expected_shapes(config: Config) -> Shapes:
    """Give the shapes of all tensors of a model, by original Wan name."""
    if isinstance(config, UMT5Config):
        return umt5_shapes(config)
    return {name: tuple(value.shape) for name, value in make_module(config).state_dict().items()}


def _check_shapes(shapes: Shapes, whole: Shapes) -> None:
    for name, shape in shapes.items():
        if name in whole and whole[name] != shape:
            raise CheckpointError(
                f"{shown(name)} has shape {shown(str(list(shape)))}, but the rest of the file "
                f"wants {list(whole[name])}; the file is damaged or of another kind."
            )
