"""LoRAs on the command line: which are asked for, and what is said of them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..stages.plan import PlannedModels
from ..weights.lora import Lora, LoraMatch
from ..weights.lora_slots import fit_lora, open_lora

Matches = Mapping[str, tuple[LoraMatch, ...]]
"""What LoRAs do to the DiTs of a run, by slot."""


@dataclass(frozen=True, kw_only=True)
class ChosenLora:
    """A LoRA that was asked for.

    Attributes:
        slot: of the DiT that it goes onto.
        path: its file.
        strength: how much of it.
    """

    slot: str
    path: Path
    strength: float


def open_loras(chosen: Iterable[ChosenLora]) -> dict[str, list[Lora]]:
    """Look into the files, and sort them by slot.

    Raises:
        CheckpointError: for a slot that does not exist, or a file that is no LoRA.
    """
    loras: dict[str, list[Lora]] = defaultdict(list)
    for one in chosen:
        loras[one.slot].append(open_lora(one.slot, one.path, one.strength))
    return dict(loras)


def fit_published(models: PlannedModels, chosen: Iterable[ChosenLora]) -> Matches:
    """Match LoRAs with models of which only the numbers are known.

    Raises:
        CheckpointError: if one does not fit.
    """
    dits = {"motion_high": models.motion, "motion_low": models.motion, "detail": models.detail}
    return {
        slot: tuple(fit_lora(lora, slot, dits) for lora in loras)
        for slot, loras in open_loras(chosen).items()
    }


def loras_as_data(matches: Matches) -> dict[str, Any]:
    """Give LoRAs as plain data, for JSON."""
    return {slot: [match.as_data() for match in found] for slot, found in matches.items()}


def describe_loras(matches: Matches) -> str:
    """Give LoRAs in words, a line each; nothing where there are none."""
    lines = [
        f"{slot}: {match.lora.file.path.name} at {match.lora.strength:g}, "
        f"changes {len(match.deltas)} parameters"
        + (f"; {len(match.unmatched)} keys match nothing" if match.unmatched else "")
        for slot, found in matches.items()
        for match in found
    ]
    return "".join(f"\n{'loras' if not i else '':<10}{line}" for i, line in enumerate(lines))
