"""``set.json``: which file of a set is for what; read, written, or guessed from headers.

The file comes with the models, from whoever made them: it names files of its own folder only, and
every value is checked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

from ..errors import CheckpointError, OutputError
from ..files import part_file
from ..flow.recipe import MOST_STEPS, Recipe, SolverName
from ..model.config import DiTConfig
from ..vae.config import VAEConfig
from .checkpoint import Checkpoint, Kind
from .headers import shown

SET_FILE = "set.json"
DEFAULT_BOUNDARY = 0.9
DEFAULT_RECIPE = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
"""How distilled models are sampled: those that people have."""

_MAX_NBYTES = 1 << 20
_MAX_TEXT = 2000


@dataclass(frozen=True, kw_only=True)
class SlotNeed:
    """What a slot is for.

    Attributes:
        kind: of its model.
        place: the part of a run that it is for.
        what: its model in words.
    """

    kind: Kind
    place: str
    what: str


_MOTION_DIT = "an image-to-video DiT (48 input channels, or 36 with mask channels)"

SLOT_NEEDS = {
    "text": SlotNeed(kind=Kind.TEXT_WORDS, place="the prompt", what="a word text encoder"),
    "motion_high": SlotNeed(kind=Kind.DIT, place="Stage I", what=_MOTION_DIT),
    "motion_low": SlotNeed(kind=Kind.DIT, place="Stage I", what=_MOTION_DIT),
    "motion_vae": SlotNeed(kind=Kind.VAE, place="Stage I", what="its DiT's VAE"),
    "detail": SlotNeed(kind=Kind.DIT, place="Stage II", what="a DiT with 48 or 96 input channels"),
    "detail_vae": SlotNeed(kind=Kind.VAE, place="Stage II", what="its DiT's VAE"),
}
"""Every slot of a set; all but ``motion_low`` must be filled."""


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
    """

    name: str
    description: str
    slots: Mapping[str, str]
    motion: Recipe = DEFAULT_RECIPE
    detail: Recipe = DEFAULT_RECIPE
    boundary: float = DEFAULT_BOUNDARY


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
    _check_names(path, content, {"name", "description", "slots", "motion", "detail", "boundary"})
    boundary = _number(path, content, "boundary", DEFAULT_BOUNDARY)
    if not 0 <= boundary <= 1:
        raise _refusal(path, f"boundary is {boundary:g}; a sigma is between 0 and 1")
    return SetFile(
        name=_text(path, content, "name", folder.name),
        description=_text(path, content, "description", f"The models in {folder.name}."),
        slots=_slots(path, _object(path, content.get("slots"), "slots")),
        motion=_recipe(path, content, "motion"),
        detail=_recipe(path, content, "detail"),
        boundary=boundary,
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
    slots = {name: _file_name(path, name, value) for name, value in data.items()}
    for vae, other in (("motion_vae", "detail_vae"), ("detail_vae", "motion_vae")):
        if other in slots:
            slots.setdefault(vae, slots[other])
    for name, need in SLOT_NEEDS.items():
        if name not in slots and name != "motion_low":
            raise _refusal(path, f"slots has no {name}; {need.place} needs {need.what}")
    return slots


def _file_name(path: Path, slot: str, value: Any) -> str:
    """Check that a value names a file within the folder, whatever the system's idea of paths."""
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 500:
        windows, posix = PureWindowsPath(value), PurePosixPath(value)
        outside = windows.anchor or posix.is_absolute() or ".." in windows.parts
        if not outside and ":" not in value:
            return value
    raise _refusal(path, f"slot {slot} must name a file inside the folder, without ..")


def assign_files(folder: Path, checkpoints: Mapping[str, Checkpoint]) -> SetFile:
    """Tell by their headers which of a folder's files is for what.

    Raises:
        CheckpointError: if a slot stays empty or could be filled in several ways.
    """
    found = _candidates(checkpoints)
    wrong: list[str] = []
    for name, files in found.items():
        if not files:
            wrong.append(f"no file is {SLOT_NEEDS[name].what} for {name}")
        elif len(files) > 1:
            wrong.append(f"{name} could be {' or '.join(files)}")
    if wrong:
        slots = {name: files[0] if files else "?.safetensors" for name, files in found.items()}
        raise CheckpointError(
            f"{folder} is no clear set of models: {'; '.join(wrong)}. Say which file is for what "
            f"in {SET_FILE} there, in this form: {json.dumps({'slots': slots})} (and motion_low "
            "for the second expert, where there are two)."
        )
    return SetFile(
        name=folder.name,
        description=f"The models in {folder.name}, told apart by their headers.",
        slots={name: files[0] for name, files in found.items()},
    )


def _candidates(checkpoints: Mapping[str, Checkpoint]) -> dict[str, list[str]]:
    """List for each slot the files that fit it."""
    dits = {
        name: checkpoint.config
        for name, checkpoint in checkpoints.items()
        if isinstance(checkpoint.config, DiTConfig) and checkpoint.obstacle is None
    }
    plain = [name for name, dit in dits.items() if dit.in_channels == dit.out_channels]
    reference = [name for name, dit in dits.items() if dit.in_channels == 2 * dit.out_channels]
    masked = [name for name in dits if name not in (*plain, *reference)]
    motion, detail = masked or plain, reference or plain

    def vaes(fitting: list[str]) -> list[str]:
        channels = {dits[name].out_channels for name in fitting}
        return [
            name
            for name, checkpoint in checkpoints.items()
            if isinstance(checkpoint.config, VAEConfig)
            and (not channels or checkpoint.config.latent_channels in channels)
        ]

    words = [name for name, found in checkpoints.items() if found.kind is Kind.TEXT_WORDS]
    return {
        "text": words,
        "motion_high": motion,
        "motion_vae": vaes(motion),
        "detail": detail,
        "detail_vae": vaes(detail),
    }
