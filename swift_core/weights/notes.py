"""Our own files' notes: what a model needs to know of itself and shapes cannot say.

They are one JSON object under one key of the file's metadata. Like all of a header they are
untrusted: every value is checked before it is used.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, cast

from ..errors import CheckpointError
from ..model.config import DiTConfig
from ..text.umt5 import UMT5Config
from ..text.words import WordConfig
from ..vae.config import VAEConfig
from .headers import Header, shown

NOTES_KEY = "swift_i2v"
_MAX_TEXT_TOKENS = 65536

Config = DiTConfig | VAEConfig | WordConfig | UMT5Config
"""What is known of a model before its weights are read."""


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What a file notes about its model; None for what it does not say.

    Attributes:
        kind: ``dit``, ``vae``, ``words`` or ``umt5``.
        heads: attention heads.
        text_tokens: length to which text is padded.
        eps: epsilon of the norms.
        latent_mean: per latent channel.
        latent_std: per latent channel, all positive.
    """

    kind: str | None = None
    heads: int | None = None
    text_tokens: int | None = None
    eps: float | None = None
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None


def describe_metadata(config: Config) -> dict[str, str]:
    """Write, as a file's metadata, what the shapes of such a model cannot say."""
    notes: dict[str, Any]
    if isinstance(config, DiTConfig):
        notes = {
            "kind": "dit",
            "heads": config.heads,
            "text_tokens": config.text_tokens,
            "eps": config.eps,
        }
    elif isinstance(config, VAEConfig):
        notes = {
            "kind": "vae",
            "latent_mean": config.latent_mean,
            "latent_std": config.latent_std,
        }
    else:
        notes = {"kind": "umt5" if isinstance(config, UMT5Config) else "words"}
    return {NOTES_KEY: json.dumps(notes)}


def read_notes(header: Header) -> Notes:
    """Read a file's notes; a file that has none notes nothing.

    Raises:
        CheckpointError: if a value is not what it should be.
    """
    text = header.metadata.get(NOTES_KEY)
    if text is None:
        return Notes()
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(header, f"it is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise _refusal(header, "it is no JSON object")
    notes = cast("dict[str, Any]", data)
    kind = notes.get("kind")
    if kind not in ("dit", "vae", "words", "umt5"):
        raise _refusal(header, f"kind is {_value(kind)}, not dit, vae, words or umt5")
    return Notes(
        kind=kind,
        heads=_count(header, notes, "heads", most=1024),
        text_tokens=_count(header, notes, "text_tokens", most=_MAX_TEXT_TOKENS),
        eps=_eps(header, notes),
        latent_mean=_channels(header, notes, "latent_mean", least=-math.inf),
        latent_std=_channels(header, notes, "latent_std", least=0.0),
    )


def _refusal(header: Header, what: str) -> CheckpointError:
    return CheckpointError(
        f"{header.path} has wrong notes under {NOTES_KEY} in its metadata: {what}; use a file as "
        "its author wrote it."
    )


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f"'{shown(value)}'"
    simple = value is None or isinstance(value, int | float)
    return shown(str(value)) if simple else "a list or an object"


def _count(header: Header, notes: dict[str, Any], name: str, *, most: int) -> int | None:
    value = notes.get(name)
    if value is not None and not (type(value) is int and 1 <= value <= most):
        raise _refusal(header, f"{name} is {_value(value)}, not a whole number from 1 to {most}")
    return value


def _eps(header: Header, notes: dict[str, Any]) -> float | None:
    value = notes.get("eps")
    if value is not None and not (type(value) is float and 0 < value <= 0.1):
        raise _refusal(header, f"eps is {_value(value)}, not a number between 0 and 0.1")
    return value


def _channels(
    header: Header, notes: dict[str, Any], name: str, *, least: float
) -> tuple[float, ...] | None:
    """Read numbers above ``least``, one per latent channel."""
    value = notes.get(name)
    if value is None:
        return None
    above = "" if least < 0 else f" above {least:g}"
    form = f"it must be a list of finite numbers{above}"
    if not isinstance(value, list):
        raise _refusal(header, f"{name} is {_value(value)}; {form}")
    numbers = cast("list[Any]", value)
    for number in numbers:
        fits = type(number) in (int, float) and abs(number) < 1e6 and number > least
        if not fits:
            raise _refusal(header, f"{name} holds {_value(number)}; {form}")
    return tuple(float(number) for number in numbers)
