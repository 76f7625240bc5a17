"""The short commands: each gathers, checks, calls the core, and prints."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, SwiftError
from ..files import reserved
from ..pipeline import decode
from ..stages.plan import PUBLISHED_MODELS, plan_generation, planned_models
from ..stages.reference import check_motion
from ..stages.run_plan import plan_run
from ..text.umt5 import UMT5_XXL
from ..weights.detect import detect
from ..weights.headers import shown
from ..weights.latents import is_saved_latent, load_latent, read_latent_notes
from ..weights.model_set import add_loras, loras_of
from ..weights.set_file import DEFAULT_RECIPE
from ..weights.shards import read_model_header
from .loras import describe_loras, fit_published, loras_as_data, open_loras
from .reporting import Bars
from .settings import (
    card_resources,
    choose_runtime,
    open_models,
    open_motion,
    output_shape,
    recipe,
    segment_settings,
)
from .speech import complain, say
from .videos import check_video, write_stream


def run_decode(options: argparse.Namespace) -> int:
    """Make the video of a saved latent."""
    check_video(options)
    saved = load_latent(options.latent)
    models = open_models(options.models)
    wanted = models.detail_vae.config.latent_space
    if saved.latent_space != wanted:
        raise CheckpointError(
            f"{options.latent} is for a VAE of {shown(saved.latent_space)}, but that of "
            f"{models.name} has {wanted}; pass --models with the set that made it."
        )
    if options.models is None:
        complain(models.description)
    with reserved(options.output, overwrite=options.overwrite), Bars(quiet=options.quiet) as bars:
        runtime = choose_runtime(options, bars)
        rate = options.fps or saved.frames_per_second
        write_stream(decode(models, saved.latent, runtime=runtime), options, rate=rate)
    say(str(options.output))
    return 0


def run_plan(options: argparse.Namespace) -> int:
    """Say what a run would do."""
    models = replace(PUBLISHED_MODELS, text=UMT5_XXL)
    motion = detail = DEFAULT_RECIPE
    if options.models:
        opened = add_loras(open_models(options.models), open_loras(options.lora))
        models, loras = planned_models(opened), loras_of(opened)
        motion, detail = opened.motion_recipe, opened.detail_recipe
    else:
        loras = fit_published(models, options.lora)
        models = replace(models, loras=loras)
    output = output_shape(options)
    clip = open_motion(options, output)
    if clip is not None:
        check_motion(clip.shape, output)
    made = plan_generation(
        output,
        segment_settings(options),
        models=models,
        motion_recipe=recipe(options, motion, prefix="motion_"),
        detail_recipe=recipe(options, detail, prefix=""),
        has_motion=clip is not None,
    )
    whole = plan_run(models, made, card_resources(options), compute=torch.bfloat16)
    data: dict[str, Any] = {**whole.as_data(), "loras": loras_as_data(loras)}
    words = f"{whole.describe()}{describe_loras(loras)}"
    say(json.dumps(data, indent=2) if options.json else words)
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """Say what each file is; a file that cannot be read does not hide the others."""
    found: list[dict[str, Any]] = []
    failed = False
    for path in options.files:
        try:
            data, sentence = _inspect(path)
        except SwiftError as error:
            failed = True
            found.append({"file": str(path), "error": str(error)})
            if not options.json:
                complain(f"swift_core: {error}")
        else:
            found.append({"file": str(path), **data})
            if not options.json:
                say(f"{path}: {sentence}")
    if options.json:
        say(json.dumps(found, indent=2))
    return 2 if failed else 0


def _inspect(path: Path) -> tuple[dict[str, Any], str]:
    """Say what a file is, as data and in a sentence."""
    header = read_model_header(path)
    if not is_saved_latent(header):
        checkpoint = detect(header)
        return checkpoint.as_data(), checkpoint.sentence
    notes = read_latent_notes(header)
    rate = str(notes.frames_per_second)
    data = {
        "kind": "latent",
        "shape": list(notes.shape),
        "frames_per_second": rate,
        "latent_space": notes.latent_space,
    }
    size = "x".join(str(side) for side in notes.shape)
    return data, f"a saved latent, {size}, {rate} frames per second; decode makes its video."
