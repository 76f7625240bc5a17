"""Inputs that two nodes share, and their values as the core's."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar

from comfy_api.latest import io

from ..swift_core.errors import SegmentError, SwiftError
from ..swift_core.flow.recipe import Recipe, SolverName
from ..swift_core.geometry import LARGEST_SIDE
from ..swift_core.weights.set_file import DEFAULT_RECIPE
from .schema import advanced

MOST_SEED = 0xFFFFFFFFFFFFFFFF


def sampling_inputs() -> list[Any]:
    """Describe steps, guidance, shift, solver and seed."""
    return [
        io.Int.Input(
            "steps",
            default=4,
            min=1,
            max=100,
            tooltip=(
                "Sampling steps. 4 for distilled models and LoRAs (LightX2V, Turbo, swift-tiny), "
                "20 to 50 for undistilled ones."
            ),
        ),
        io.Float.Input(
            "cfg",
            default=1.0,
            min=0.0,
            max=20.0,
            step=0.1,
            round=0.01,
            tooltip=(
                "Guidance. 1 is off and twice as fast: right for distilled models. Undistilled "
                "ones want 3.5 to 5 and a negative prompt."
            ),
        ),
        advanced(
            io.Float.Input(
                "sigma_shift",
                default=DEFAULT_RECIPE.sigma_shift,
                min=0.1,
                max=50.0,
                step=0.1,
                round=0.01,
                tooltip=(
                    "Warp of the noise levels; larger spends more steps on noise. 5 is what the "
                    "4-step LoRAs were made for. It replaces ModelSamplingSD3's shift."
                ),
            )
        ),
        advanced(
            io.Combo.Input(
                "solver",
                options=[name.value for name in SolverName],
                default=DEFAULT_RECIPE.solver.value,
                tooltip=(
                    "euler for most; renoise for TI2V-5B-Turbo and others distilled with fresh "
                    "noise; unipc for undistilled models."
                ),
            )
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=MOST_SEED,
            control_after_generate=True,
            tooltip=(
                "Of all noise; the same seed gives the same clip whatever the segments. Only with "
                "'control after generate' at fixed does pressing Run again go on with a run that "
                "was stopped."
            ),
        ),
    ]


ChoiceT = TypeVar("ChoiceT", bound=Enum)


def read_choice(kind: type[ChoiceT], name: str, value: str) -> ChoiceT:
    """Read a choice; ComfyUI 0.3.64 hands on whatever a program has asked for.

    Raises:
        SwiftError: naming what there is.
    """
    known = [choice.value for choice in kind]
    if value not in known:
        raise SwiftError(f"{name} is {value!r}; choose one of {', '.join(known)}.")
    return kind(value)


def make_recipe(
    steps: int,
    cfg: float,
    sigma_shift: float = DEFAULT_RECIPE.sigma_shift,
    solver: str = DEFAULT_RECIPE.solver.value,
) -> Recipe:
    """Turn the widgets into a recipe."""
    return Recipe(
        steps=steps,
        cfg=cfg,
        sigma_shift=sigma_shift,
        solver=read_choice(SolverName, "solver", solver),
    )


def read_segment_seeds(text: str) -> dict[int, int]:
    """Read ``"2:77, 4:5"``: seeds of their own for some segments.

    Raises:
        SegmentError: naming what cannot be read.
    """
    seeds: dict[int, int] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        segment, colon, seed = (part.strip() for part in entry.partition(":"))
        if not (colon and segment.isdecimal() and seed.isdecimal() and int(seed) <= MOST_SEED):
            raise SegmentError(
                f'segment_seeds: "{entry}" cannot be read; write segment:seed, for example "2:77, '
                '4:5", or leave it empty.'
            )
        seeds[int(segment)] = int(seed)
    return seeds


def side_input(name: str, *, default: int, tooltip: str, least: int = 16, step: int = 16) -> Any:
    """Describe a width or height in pixels."""
    return io.Int.Input(
        name, default=default, min=least, max=LARGEST_SIDE, step=step, tooltip=tooltip
    )


def picture_input() -> Any:
    """Describe the picture."""
    return io.Image.Input(
        "image",
        tooltip="The picture; it becomes the first frame. Of several in a batch it is the first.",
    )


def first_picture(image: Any) -> Any:
    """Take the picture out of an IMAGE batch: the first one, without transparency."""
    return colours(image[:1])[0]


def colours(images: Any) -> Any:
    """Take the colours of an IMAGE batch; one channel is grey."""
    return images[..., :3].expand(-1, -1, -1, 3).float().cpu()
