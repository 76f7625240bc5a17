"""LoRAs on the DiTs of a set, each for its own: which file goes where, or why it does not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..model.config import DiTConfig
from ..model.dit import WanDiT
from ..precision import Precision
from .checkpoint import Kind
from .detect import look_into
from .lora import Lora, LoraMatch, match_lora, read_lora
from .lora_merge import apply_loras
from .set_file import LORA_SLOTS, SLOT_NEEDS


@dataclass(frozen=True, kw_only=True)
class LoadWithLoras:
    """Loads a DiT and puts LoRAs onto it.

    Attributes:
        base: loads it without.
        matches: what each LoRA does to it.
    """

    base: Callable[[Precision], WanDiT]
    matches: tuple[LoraMatch, ...]

    def __call__(self, precision: Precision) -> WanDiT:
        """Load it; the weights that come from its file are only read."""
        dit = self.base(precision)
        apply_loras(dit, [match.lora for match in self.matches], precision=precision)
        return dit


def load_with_loras(
    load: Callable[[Precision], WanDiT], matches: Sequence[LoraMatch]
) -> Callable[[Precision], WanDiT]:
    """Load a DiT with LoRAs beside those that it comes with: all are added at once."""
    if isinstance(load, LoadWithLoras):
        return LoadWithLoras(base=load.base, matches=(*load.matches, *matches))
    return LoadWithLoras(base=load, matches=tuple(matches))


def matches_of(load: Callable[[Precision], WanDiT]) -> tuple[LoraMatch, ...]:
    """Tell which LoRAs a DiT is loaded with."""
    return load.matches if isinstance(load, LoadWithLoras) else ()


def files_of(matches: Iterable[LoraMatch]) -> tuple[Path, ...]:
    """List the files of LoRAs."""
    return tuple(path for match in matches for path in match.lora.file.checkpoint.header.paths)


def open_lora(slot: str, path: Path, strength: float) -> Lora:
    """Look into a LoRA that is to go onto a slot's DiT.

    Raises:
        CheckpointError: if there is no such slot, or the file is no LoRA that can be applied.
    """
    if slot not in LORA_SLOTS:
        raise CheckpointError(
            f"{path} is to go onto {slot!r}, but LoRAs go onto {', '.join(LORA_SLOTS)}; name one "
            "of these."
        )
    checkpoint = look_into(path)
    own = [name for name, need in SLOT_NEEDS.items() if checkpoint.kind in need.kinds]
    if checkpoint.kind is not Kind.LORA and own:
        raise CheckpointError(
            f"{path} is {checkpoint.label}, but a LoRA is needed for {slot}: it is a model of a "
            f"set, to be named in its slots as {' or '.join(own)}."
        )
    return Lora(file=read_lora(checkpoint), strength=strength)


def fit_lora(lora: Lora, slot: str, dits: Mapping[str, DiTConfig | None]) -> LoraMatch:
    """Match a LoRA with its slot's DiT.

    Args:
        dits: those of the set, by slot; None where a slot is empty.

    Raises:
        CheckpointError: if it does not fit, naming the slots that it fits instead.
    """
    dit = dits[slot]
    others = [name for name in LORA_SLOTS if name != slot and _fits(lora, dits[name])]
    instead = f" It fits {' and '.join(others)}." if others else ""
    if dit is None:
        raise CheckpointError(
            f"{lora.file.path} is to go onto {slot}, but this set has none: its motion_high works "
            f"at all noise levels.{instead}"
        )
    try:
        return match_lora(lora, dit)
    except CheckpointError as error:
        raise CheckpointError(f"{slot}: {error}{instead}") from error


def _fits(lora: Lora, dit: DiTConfig | None) -> bool:
    try:
        return dit is not None and bool(match_lora(lora, dit).deltas)
    except CheckpointError:
        return False
