"""What a LoRA's file notes of its scale, where no tensor says it.

These are PEFT's settings, as diffusers writes them into the file's metadata. They are untrusted:
every value is checked.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ..errors import CheckpointError
from .headers import Header, shown

_KEY = "lora_adapter_metadata"
_PREFIX = "transformer."
_MOST_ALPHA = 1e6


@dataclass(frozen=True, kw_only=True)
class LoraNotes:
    """How the factors of a LoRA are scaled.

    Attributes:
        alpha: of every layer that ``alphas`` does not name; None: as the rank.
        alphas: by the end of a layer's name, or by its whole name behind a ``^``.
        rank_stabilised: divide by the square root of the rank, not by the rank.
    """

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict[str, float])
    rank_stabilised: bool = False

    def scale(self, stem: str, rank: int) -> float:
        """Give what a layer's factors are multiplied by.

        Source: huggingface/peft, LoraLayer.update_layer and get_pattern_key.
        """
        alpha = next(
            (value for name, value in self.alphas.items() if _names(name, stem)), self.alpha
        )
        alpha = rank if alpha is None else alpha
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def _names(name: str, stem: str) -> bool:
    return stem == name.removeprefix("^") or stem.endswith(f".{name}")


def read_lora_notes(header: Header) -> LoraNotes:
    """Read what a file notes of its scale; one that notes nothing has factors as they are.

    Raises:
        CheckpointError: if a value is not what it should be, or asks for what is not done here.
    """
    text = header.metadata.get(_KEY)
    if text is None:
        return LoraNotes()
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(header, f"it is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise _refusal(header, "it is no JSON object")
    notes = {
        name.removeprefix(_PREFIX): value for name, value in cast("dict[str, Any]", data).items()
    }
    alpha, alphas = notes.get("lora_alpha"), notes.get("alpha_pattern", {})
    if not isinstance(alphas, dict):
        raise _refusal(header, "alpha_pattern is no JSON object")
    named = cast("dict[str, Any]", alphas)
    for name in named:
        # PEFT takes them as regular expressions, but writes names.
        if not re.fullmatch(r"\^?[\w.]+", name, re.ASCII):
            raise _refusal(header, f"alpha_pattern has {shown(name)}, which is no layer's name")
    return LoraNotes(
        alpha=None if alpha is None else _alpha(header, "lora_alpha", alpha),
        alphas={name: _alpha(header, name, value) for name, value in named.items()},
        rank_stabilised=_flag(header, notes, "use_rslora"),
    )


def _alpha(header: Header, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= _MOST_ALPHA:
        raise _refusal(header, f"the alpha of {shown(name)} is no number up to {_MOST_ALPHA:g}")
    return float(value)


def _flag(header: Header, notes: dict[str, Any], name: str) -> bool:
    value = notes.get(name)
    if value not in (None, False, True):
        raise _refusal(header, f"{name} is neither true nor false")
    return bool(value)


def _refusal(header: Header, what: str) -> CheckpointError:
    return CheckpointError(
        f"{header.path} has wrong notes under {_KEY} in its metadata: {what}; use the file as its "
        "author wrote it, or load it with ComfyUI's own LoRA loader and connect the MODEL."
    )
