"""One model of a set: known by its configuration now, loaded when needed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from ..errors import CheckpointError
from ..model.config import DiTConfig
from ..model.dit import WanDiT
from ..precision import Precision
from ..text.encoder import TextEncoder
from ..text.umt5 import UMT5Config
from ..text.words import WordConfig
from ..vae.autoencoder import WanVAE
from ..vae.config import VAEConfig
from .build import build_dit, build_vae, build_words, check_usable
from .build_text import build_umt5, check_umt5
from .checkpoint import Checkpoint, Kind
from .notes import Config
from .set_file import SLOT_NEEDS

ConfigT = TypeVar("ConfigT", covariant=True)
ModuleT = TypeVar("ModuleT", bound=nn.Module, covariant=True)
_Wanted = TypeVar("_Wanted", DiTConfig, VAEConfig, WordConfig, UMT5Config)

TextConfig = WordConfig | UMT5Config
"""Sizes of any text encoder."""


def nothing_in_the_way() -> None:
    """Find nothing that speaks against loading a model."""


@dataclass(frozen=True, kw_only=True)
class Slot(Generic[ConfigT, ModuleT]):
    """One model of a set.

    Attributes:
        config: its architecture.
        source: its file, or ``seeded``.
        load: makes the model; whoever calls it holds the only one.
        check: refuses what would be in the way of loading beside the weights, at little cost.
        packed_nbytes: of the weights, where they stay packed in 8 bits; None where they do not.
        files: that its weights are read from.
    """

    config: ConfigT
    source: str
    load: Callable[[Precision], ModuleT]
    check: Callable[[], None] = nothing_in_the_way
    packed_nbytes: int | None = None
    files: tuple[Path, ...] = ()


def open_text(checkpoint: Checkpoint, tokenizer: Path | None) -> Slot[TextConfig, TextEncoder]:
    """Open a text encoder.

    Raises:
        CheckpointError: if the file is none, or cannot be used; so do the others.
    """
    source = str(checkpoint.path)
    if checkpoint.kind is Kind.TEXT_UMT5:
        return Slot(
            config=_config("text", checkpoint, UMT5Config),
            source=source,
            load=lambda precision: build_umt5(checkpoint, tokenizer, precision=precision),
            files=checkpoint.header.paths,
            check=lambda: check_umt5(checkpoint, tokenizer),
            packed_nbytes=checkpoint.nbytes if checkpoint.stays_packed else None,
        )
    words = _config("text", checkpoint, WordConfig)
    if tokenizer is not None:
        raise CheckpointError(
            f"{source} is a word text encoder, which takes no tokenizer, but {tokenizer} is "
            "given as that; leave it out."
        )
    return Slot(
        config=words,
        source=source,
        load=lambda precision: build_words(checkpoint, precision=precision),
    )


def open_dit(slot: str, checkpoint: Checkpoint) -> Slot[DiTConfig, WanDiT]:
    """Open a DiT for a slot."""
    return Slot(
        config=_config(slot, checkpoint, DiTConfig),
        source=str(checkpoint.path),
        load=lambda precision: build_dit(checkpoint, precision=precision),
        files=checkpoint.header.paths,
        packed_nbytes=checkpoint.nbytes if checkpoint.stays_packed else None,
    )


def open_vae(slot: str, checkpoint: Checkpoint) -> Slot[VAEConfig, WanVAE]:
    """Open a VAE for a slot."""
    return Slot(
        config=_config(slot, checkpoint, VAEConfig),
        source=str(checkpoint.path),
        load=lambda precision: build_vae(checkpoint, precision=precision),
        files=checkpoint.header.paths,
    )


def _config(slot: str, checkpoint: Checkpoint, wanted: type[_Wanted]) -> _Wanted:
    """Give a file's configuration, if it can be used in a slot."""
    config: Config | None = checkpoint.config
    need = SLOT_NEEDS[slot]
    if checkpoint.kind not in need.kinds:
        own = [name for name, other in SLOT_NEEDS.items() if checkpoint.kind in other.kinds]
        place = f"name it under {' or '.join(own)}" if own else "it is no model of a set"
        raise CheckpointError(
            f"{checkpoint.path} is {checkpoint.label}, but {need.place} ({slot}) needs "
            f"{need.what}: {place}."
        )
    check_usable(checkpoint)
    assert isinstance(config, wanted), "a usable checkpoint has its kind's configuration"
    return config
