"""LoRAs: what a file changes, and whether that fits a DiT; told from the header alone.

A LoRA has, for a layer, two factors whose product is added to its weight; or the differences
themselves, of weight, bias or modulation. What is added is scaled: by alpha / rank for factors,
and by the user's strength.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..model.config import DiTConfig
from .checkpoint import Checkpoint, Kind
from .detect import detect, expected_shapes
from .families import describe_dit
from .headers import read_header, shown
from .lora_keys import Role, layer_table, split_key
from .lora_notes import LoraNotes, read_lora_notes

_FORMATS = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")
_ALPHA_FORMATS = (*_FORMATS, "I64", "I32")
_MOST_STRENGTH = 1000
_NAMED = 3
"""How many keys a message names."""


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """What a LoRA's file changes.

    Attributes:
        checkpoint: the file.
        layers: by their names in the file without prefixes: the key of each part.
        notes: how factors without an alpha of their own are scaled.
    """

    checkpoint: Checkpoint
    layers: Mapping[str, Mapping[Role, str]]
    notes: LoraNotes

    @property
    def path(self) -> Path:
        """Give the file."""
        return self.checkpoint.path

    def shape(self, key: str) -> tuple[int, ...]:
        """Give the shape of a tensor of the file."""
        return self.checkpoint.header.tensors[key].shape


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA and how much of it.

    Attributes:
        file: what it changes.
        strength: 1 is what it was trained for; 0 leaves it out; negative goes the other way.
    """

    file: LoraFile
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.strength) <= _MOST_STRENGTH:
            raise CheckpointError(
                f"the strength of {self.file.path} is {self.strength:g}, but it must be from "
                f"-{_MOST_STRENGTH} to {_MOST_STRENGTH}; 1 is usual."
            )


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What one LoRA adds to one parameter.

    Attributes:
        lora: whose it is.
        keys: of the two factors, down and up, or of the one difference.
        alpha: key of a tensor that scales it by alpha / rank; None: ``scale`` does.
        rank: of the factors; 1 for a difference.
        scale: without an alpha of its own; the strength is not in it.
    """

    lora: Lora
    keys: tuple[str, ...]
    alpha: str | None = None
    rank: int = 1
    scale: float = 1.0

    @property
    def is_low_rank(self) -> bool:
        """Whether it is a product of two factors, and no difference."""
        return len(self.keys) == 2


@dataclass(frozen=True, kw_only=True)
class LoraMatch:
    """What a LoRA does to a DiT.

    Attributes:
        lora: which.
        deltas: by our names of the parameters.
        unmatched: keys for which the DiT has no place.
    """

    lora: Lora
    deltas: Mapping[str, tuple[Delta, ...]]
    unmatched: tuple[str, ...]

    @property
    def gap(self) -> str | None:
        """Say in a sentence which keys are left out; None if there are none."""
        if not self.unmatched:
            return None
        file = self.lora.file
        count = len(file.checkpoint.header.tensors)
        return (
            f"{file.path}: {len(self.unmatched)} of {count} keys match nothing in this model and "
            f"are left out: {_some(self.unmatched)}."
        )

    def as_data(self) -> dict[str, object]:
        """Give it as plain data, for JSON."""
        return {
            "file": str(self.lora.file.path),
            "strength": self.lora.strength,
            "parameters": len(self.deltas),
            "unmatched": len(self.unmatched),
            "first_unmatched": [shown(name) for name in self.unmatched[:_NAMED]],
        }


def _some(names: tuple[str, ...]) -> str:
    """Name the first of some keys."""
    more = ", ..." if len(names) > _NAMED else ""
    return f"{', '.join(shown(name) for name in names[:_NAMED])}{more}"


def read_lora(source: Path | str | Checkpoint) -> LoraFile:
    """Read what a LoRA's file changes; its tensors stay where they are.

    Raises:
        CheckpointError: if it is no LoRA, of a kind that is not applied here, or damaged.
    """
    checkpoint = source if isinstance(source, Checkpoint) else detect(read_header(source))
    if checkpoint.kind is not Kind.LORA:
        raise CheckpointError(
            f"{checkpoint.path} is {checkpoint.label}, but a LoRA is needed here; choose another "
            "file."
        )
    if checkpoint.obstacle is not None:
        raise CheckpointError(
            f"{checkpoint.path} is {checkpoint.label}, which cannot be used: {checkpoint.obstacle}."
        )
    layers: dict[str, dict[Role, str]] = defaultdict(dict)
    for name in checkpoint.header.tensors:
        found = split_key(name)
        if found is None:
            continue
        stem, role = found
        if role in layers[stem]:
            raise _damaged(checkpoint, f"{shown(layers[stem][role])} and {shown(name)} are one key")
        layers[stem][role] = name
    notes = read_lora_notes(checkpoint.header)
    file = LoraFile(checkpoint=checkpoint, layers=dict(layers), notes=notes)
    for parts in layers.values():
        _check_parts(file, parts)
    return file


def _damaged(checkpoint: Checkpoint, what: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path}: {what}; the LoRA is damaged or of an unknown kind: download it again."
    )


def _check_parts(file: LoraFile, parts: Mapping[Role, str]) -> None:
    """Refuse parts that do not go together, whatever model they are for."""
    tensors = file.checkpoint.header.tensors
    for role, key in parts.items():
        dtype = tensors[key].dtype
        if dtype not in (_ALPHA_FORMATS if role is Role.ALPHA else _FORMATS):
            raise _damaged(file.checkpoint, f"{shown(key)} has the number format {dtype}")
    alpha, down, up = (parts.get(role) for role in (Role.ALPHA, Role.DOWN, Role.UP))
    if alpha is not None and tensors[alpha].parameters != 1:
        raise _damaged(file.checkpoint, f"{shown(alpha)} is not one number")
    alone = down or up or parts.get(Role.UP_BIAS)
    if alone is None:
        return
    if down is None or up is None:
        raise _damaged(file.checkpoint, f"{shown(alone)} stands without its factors")
    shapes = f"{shown(down)} {_sizes(file.shape(down))} and {shown(up)} {_sizes(file.shape(up))}"
    if min(len(file.shape(down)), len(file.shape(up))) < 2:
        raise _damaged(file.checkpoint, f"{shapes} are no factors of a weight")
    rank = file.shape(down)[0]
    if rank < 1 or math.prod(file.shape(up)[1:]) != rank:
        raise _damaged(file.checkpoint, f"{shapes} are of different rank")


def _sizes(shape: tuple[int, ...]) -> str:
    return shown(str(list(shape)))


_PLACES: tuple[tuple[tuple[Role, ...], str], ...] = (
    ((Role.DOWN, Role.UP), ".weight"),
    ((Role.UP_BIAS,), ".bias"),
    ((Role.WEIGHT,), ".weight"),
    ((Role.BIAS,), ".bias"),
    ((Role.MODULATION,), ".modulation"),
)
"""What parts of a layer change, by the end of its name."""


def match_lora(lora: Lora, config: DiTConfig) -> LoraMatch:
    """Find the parameters of a DiT that a LoRA changes, and check every shape.

    Raises:
        CheckpointError: if no key matches, or one that does is of another shape.
    """
    table, shapes = layer_table(config.layers), expected_shapes(config)
    deltas: dict[str, list[Delta]] = defaultdict(list)
    stems: dict[str, str] = {}
    matched: set[str] = set()
    for stem, parts in lora.file.layers.items():
        for roles, leaf in _PLACES:
            if stem not in table or roles[0] not in parts:
                continue
            layer = table[stem]
            target = layer if layer in shapes and leaf == ".weight" else f"{layer}{leaf}"
            if target not in shapes:
                continue
            delta = _delta(lora, stem, parts, roles)
            if stems.setdefault(target, stem) != stem:
                what = f"{shown(delta.keys[0])} changes {target}, as keys of another spelling do"
                raise _damaged(lora.file.checkpoint, what)
            _check_shape(delta, target, shapes[target], config)
            deltas[target].append(delta)
            matched.update(delta.keys, [] if delta.alpha is None else [delta.alpha])
    keys = lora.file.checkpoint.header.tensors
    if not deltas:
        raise _foreign(lora.file, config)
    return LoraMatch(
        lora=lora,
        deltas={target: tuple(found) for target, found in deltas.items()},
        unmatched=tuple(key for key in keys if key not in matched),
    )


def _delta(lora: Lora, stem: str, parts: Mapping[Role, str], roles: tuple[Role, ...]) -> Delta:
    keys = tuple(parts[role] for role in roles)
    if roles[0] not in (Role.DOWN, Role.UP_BIAS):
        return Delta(lora=lora, keys=keys)
    rank = lora.file.shape(parts[Role.DOWN])[0]
    return Delta(
        lora=lora,
        keys=keys,
        alpha=parts.get(Role.ALPHA),
        rank=rank,
        scale=lora.file.notes.scale(stem, rank),
    )


def _check_shape(delta: Delta, target: str, shape: tuple[int, ...], config: DiTConfig) -> None:
    """Refuse a delta that is not of its parameter's shape."""
    file = delta.lora.file
    own = file.shape(delta.keys[0])
    if delta.is_low_rank:
        up = file.shape(delta.keys[1])
        # The factors of a convolution come with its kernel, or with the kernel laid flat.
        flat = len(own) == 2 and own[1] == math.prod(shape[1:])
        own = (up[0], *(shape[1:] if flat else own[1:]))
    if _solid(own) != _solid(shape):
        raise CheckpointError(
            f"{file.path} is {file.checkpoint.label} {file.checkpoint.details}, and does not fit "
            f"{describe_dit(config)}: {target} is {list(shape)} there, and {_sizes(own)} for "
            f"{shown(delta.keys[0])}; choose the LoRA that was made for this model."
        )


def _solid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give a shape without the sides that say nothing."""
    return tuple(side for side in shape if side != 1)


def _foreign(file: LoraFile, config: DiTConfig) -> CheckpointError:
    keys = tuple(file.checkpoint.header.tensors)
    return CheckpointError(
        f"{file.path} is {file.checkpoint.label} {file.checkpoint.details}, and none of its "
        f"{len(keys)} keys match {describe_dit(config)}; the first are {_some(keys)}. Choose the "
        "LoRA that was made for this model."
    )
