"""The short commands: each gathers, checks, calls the core, and prints."""

import argparse
import json
import sys
from typing import Any

from ..errors import CheckpointError, SwiftError
from ..flow.recipe import Recipe, SolverName
from ..pipeline import decode
from ..stages.plan import PUBLISHED_MODELS, plan_generation, planned_models
from ..weights.detect import detect
from ..weights.headers import read_header
from ..weights.latents import load_latent
from .reporting import Bars
from .settings import choose_runtime, open_models, output_shape, recipe, segment_settings
from .videos import check_video, write_stream

_PUBLISHED_RECIPE = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)


def run_decode(options: argparse.Namespace) -> int:
    """Make the video of a saved latent."""
    check_video(options)
    saved = load_latent(options.latent)
    models = open_models(options.models)
    channels, wanted = saved.latent.shape[1], models.detail_vae.config.latent_channels
    if channels != wanted:
        raise CheckpointError(
            f"{options.latent} has {channels} channels, but the VAE of {models.name} has {wanted}; "
            "pass --models with the set that made it."
        )
    with Bars(quiet=options.quiet) as bars:
        runtime = choose_runtime(options.device, bars)
        rate = options.fps or saved.frames_per_second
        write_stream(decode(models, saved.latent, runtime=runtime), options, rate=rate)
    sys.stdout.write(f"{options.output}\n")
    return 0


def run_plan(options: argparse.Namespace) -> int:
    """Say what a run would do."""
    models, motion, detail = PUBLISHED_MODELS, _PUBLISHED_RECIPE, _PUBLISHED_RECIPE
    if options.models:
        opened = open_models(options.models)
        models = planned_models(opened)
        motion, detail = opened.motion_recipe, opened.detail_recipe
    made = plan_generation(
        output_shape(options),
        segment_settings(options),
        models=models,
        motion_recipe=recipe(options, motion, prefix="motion_"),
        detail_recipe=recipe(options, detail, prefix=""),
    )
    text = json.dumps(made.as_data(), indent=2) if options.json else made.describe()
    sys.stdout.write(f"{text}\n")
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """Say what each file is; a file that cannot be read does not hide the others."""
    found: list[dict[str, Any]] = []
    failed = False
    for path in options.files:
        try:
            checkpoint = detect(read_header(path))
        except SwiftError as error:
            failed = True
            found.append({"file": str(path), "error": str(error)})
            if not options.json:
                sys.stderr.write(f"swift_core: {error}\n")
        else:
            found.append({"file": str(path), **checkpoint.as_data()})
            if not options.json:
                sys.stdout.write(f"{path}: {checkpoint.sentence}\n")
    if options.json:
        sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
    return 2 if failed else 0
