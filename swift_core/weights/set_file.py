"""``set.json``: which file of a set is for what.

The file comes with the models, from whoever made them: it names files of its own folder only, and
every value is checked.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

from ..errors import CheckpointError, OutputError
from ..files import part_file
from ..flow.recipe import MOST_STEPS, Recipe, SolverName
from .checkpoint import Kind
from .headers import shown

SET_FILE = "set.json"
DEFAULT_BOUNDARY = 0.9
DEFAULT_RECIPE = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
"""How distilled models are sampled: those that people have."""

_NAMES = {
    "name",
    "description",
    "slots",
    "motion",
    "detail",
    "boundary",
    "carry",
    "tokenizer",
    "loras",
}
_MAX_NBYTES = 1 << 20
_MAX_TEXT = 2000


@dataclass(frozen=True, kw_only=True)
class SlotNeed:
    """What a slot is for.

    Attributes:
        kinds: that its model can be of.
        place: the part of a run that it is for.
        what: its model in words.
    """

    kinds: tuple[Kind, ...]
    place: str
    what: str


TEXT_KINDS = (Kind.TEXT_UMT5, Kind.TEXT_WORDS)
_MOTION_DIT = "an image-to-video DiT (48 input channels, or 36 with mask channels)"

SLOT_NEEDS = {
    "text": SlotNeed(kinds=TEXT_KINDS, place="the prompt", what="a text encoder (UMT5, or words)"),
    "motion_high": SlotNeed(kinds=(Kind.DIT,), place="Stage I", what=_MOTION_DIT),
    "motion_low": SlotNeed(kinds=(Kind.DIT,), place="Stage I", what=_MOTION_DIT),
    "motion_vae": SlotNeed(kinds=(Kind.VAE,), place="Stage I", what="its DiT's VAE"),
    "detail": SlotNeed(
        kinds=(Kind.DIT,), place="Stage II", what="a DiT with 48 or 96 input channels"
    ),
    "detail_vae": SlotNeed(kinds=(Kind.VAE,), place="Stage II", what="its DiT's VAE"),
}
"""Every slot of a set; all but ``motion_low`` must be filled."""

LORA_SLOTS = tuple(name for name, need in SLOT_NEEDS.items() if need.kinds == (Kind.DIT,))
"""Those whose models take LoRAs."""


@dataclass(frozen=True, kw_only=True)
class SetLora:
    """A LoRA of a set: its file within the folder, and its strength."""

    file: str
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SetFile:
    """What ``set.json`` says.

    Attributes:
        name: what people call the set.
        description: one sentence for people.
        slots: file of each slot, within the folder.
        motion: how Stage I is sampled.
        detail: how Stage II is sampled.
        boundary: sigma from which on the high-noise expert works.
        carry: share of the picture's detail that the reference is given.
        tokenizer: folder of UMT5's tokenizer, within the folder; None where it need not be named.
        loras: what goes onto the DiT of each slot.
    """

    name: str
    description: str
    slots: Mapping[str, str]
    motion: Recipe = DEFAULT_RECIPE
    detail: Recipe = DEFAULT_RECIPE
    boundary: float = DEFAULT_BOUNDARY
    carry: float = 0.0
    tokenizer: str | None = None
    loras: Mapping[str, tuple[SetLora, ...]] = field(default_factory=dict[str, tuple[SetLora, ...]])


def read_set_file(folder: Path) -> SetFile:
    """Read a folder's ``set.json``.

    Raises:
        CheckpointError: if it says something that cannot be.
        ScheduleError: if a recipe makes no schedule.
    """
    path = folder / SET_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_NBYTES + 1)
        if len(text) > _MAX_NBYTES:
            raise _refusal(path, f"it is longer than {_MAX_NBYTES} bytes")
        data: Any = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise _refusal(path, f"it cannot be read as JSON ({error})") from error
    content = _object(path, data, "it")
    _check_names(path, content, _NAMES)
    boundary = _number(path, content, "boundary", DEFAULT_BOUNDARY)
    if not 0 <= boundary <= 1:
        raise _refusal(path, f"boundary is {boundary:g}; a sigma is between 0 and 1")
    carry = _number(path, content, "carry", 0.0)
    if not 0 <= carry <= 1:
        raise _refusal(path, f"carry is {carry:g}; a share is between 0 and 1")
    return SetFile(
        name=_text(path, content, "name", folder.name),
        description=_text(path, content, "description", f"The models in {folder.name}."),
        slots=_slots(path, _object(path, content.get("slots"), "slots")),
        motion=_recipe(path, content, "motion"),
        detail=_recipe(path, content, "detail"),
        boundary=boundary,
        carry=carry,
        tokenizer=_tokenizer(path, content.get("tokenizer")),
        loras=_loras(path, _object(path, content.get("loras", {}), "loras")),
    )


def write_set_file(folder: Path, content: SetFile) -> None:
    """Write a folder's ``set.json``; under the name there is always a whole file.

    Raises:
        OutputError: if the place cannot be written.
    """
    data = {
        "name": content.name,
        "description": content.description,
        "slots": dict(content.slots),
        "motion": content.motion.as_data(),
        "detail": content.detail.as_data(),
        "boundary": content.boundary,
        **({"carry": content.carry} if content.carry else {}),
        **({} if content.tokenizer is None else {"tokenizer": content.tokenizer}),
        **({"loras": _loras_as_data(content.loras)} if content.loras else {}),
    }
    path = folder / SET_FILE
    with part_file(path) as part:
        try:
            part.write_text(f"{json.dumps(data, indent=2)}\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error}; choose another folder."
            ) from error


def _refusal(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is wrong: {what}; correct it, or use the set as it came.")


def _object(path: Path, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refusal(path, f"{what} must be a JSON object")
    return cast("dict[str, Any]", value)


def _check_names(path: Path, content: dict[str, Any], known: set[str]) -> None:
    for name in content:
        if name not in known:
            raise _refusal(path, f"{shown(name)} is none of {', '.join(sorted(known))}")


def _text(path: Path, content: dict[str, Any], name: str, usual: str) -> str:
    value = content.get(name, usual)
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise _refusal(
            path, f"{name} must be one line of text, of up to {_MAX_TEXT} printable characters"
        )
    return value


def _number(path: Path, content: dict[str, Any], name: str, usual: float) -> float:
    value = content.get(name, usual)
    if type(value) not in (int, float) or not abs(value) < 1e6:
        raise _refusal(path, f"{name} must be a finite number")
    return float(value)


def _recipe(path: Path, content: dict[str, Any], name: str) -> Recipe:
    """Read a recipe; what it leaves out is as usual."""
    data = _object(path, content.get(name, {}), name)
    _check_names(path, data, {"steps", "cfg", "sigma_shift", "solver"})
    steps = data.get("steps", DEFAULT_RECIPE.steps)
    if type(steps) is not int or abs(steps) > MOST_STEPS:
        raise _refusal(path, f"{name}: steps must be a whole number of up to {MOST_STEPS}")
    solver = data.get("solver", DEFAULT_RECIPE.solver.value)
    solvers = [known.value for known in SolverName]
    if solver not in solvers:
        raise _refusal(path, f"{name}: solver must be one of {', '.join(solvers)}")
    return Recipe(
        steps=steps,
        cfg=_number(path, data, "cfg", DEFAULT_RECIPE.cfg),
        sigma_shift=_number(path, data, "sigma_shift", DEFAULT_RECIPE.sigma_shift),
        solver=SolverName(solver),
    )


def _slots(path: Path, data: dict[str, Any]) -> dict[str, str]:
    """Read which file is for what; a set with one VAE uses it for both stages."""
    _check_names(path, data, set(SLOT_NEEDS))
    slots = {name: _inside(path, f"slot {name}", "file", value) for name, value in data.items()}
    for vae, other in (("motion_vae", "detail_vae"), ("detail_vae", "motion_vae")):
        if other in slots:
            slots.setdefault(vae, slots[other])
    for name, need in SLOT_NEEDS.items():
        if name not in slots and name != "motion_low":
            raise _refusal(path, f"slots has no {name}; {need.place} needs {need.what}")
    return slots


def _tokenizer(path: Path, value: Any) -> str | None:
    return None if value is None else _inside(path, "tokenizer", "folder", value)


def _loras(path: Path, data: dict[str, Any]) -> dict[str, tuple[SetLora, ...]]:
    _check_names(path, data, set(LORA_SLOTS))
    found: dict[str, tuple[SetLora, ...]] = {}
    for slot, value in data.items():
        what = f"a LoRA of {slot}"
        if not isinstance(value, list):
            raise _refusal(path, f"loras: {slot} must be a list of JSON objects")
        entries = [_object(path, entry, what) for entry in cast("list[Any]", value)]
        for entry in entries:
            _check_names(path, entry, {"file", "strength"})
        found[slot] = tuple(
            SetLora(
                file=_inside(path, what, "file", entry.get("file")),
                strength=_number(path, entry, "strength", 1.0),
            )
            for entry in entries
        )
    return found


def _loras_as_data(loras: Mapping[str, tuple[SetLora, ...]]) -> dict[str, Any]:
    return {slot: [asdict(lora) for lora in chosen] for slot, chosen in loras.items()}


def _inside(path: Path, name: str, what: str, value: Any) -> str:
    """Check that a value names something in the folder, whatever the system's idea of paths."""
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 500:
        windows, posix = PureWindowsPath(value), PurePosixPath(value)
        outside = windows.anchor or posix.is_absolute() or ".." in windows.parts
        if not outside and ":" not in value:
            return value
    raise _refusal(path, f"{name} must name a {what} inside the folder, without ..")
