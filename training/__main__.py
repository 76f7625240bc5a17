"""Train the tiny set: ``python -m training vae|motion|detail|all``."""

import argparse
import logging
import sys
from pathlib import Path

import torch

from swift_core.errors import SwiftError

from .loop import Budget, RunSettings
from .recipes import RECIPES, Workshop
from .sizes import FULL, SMALL

SCALES = {"small": SMALL, "full": FULL}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("recipe", choices=RECIPES, help="what to train; all is one after another")
    parser.add_argument("--out", type=Path, default=Path("out/tiny"), help="folder of the run")
    parser.add_argument(
        "--seconds", type=float, help="budget of each recipe, resumed runs included"
    )
    parser.add_argument("--steps", type=int, help="budget of each recipe in steps")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--scale", choices=SCALES, help="sizes of clips; full on a GPU, else small")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads; as many as there are cores")
    parser.add_argument("--fp32", action="store_true", help="no bf16 activations on a GPU")
    parser.add_argument("--unjudged", action="store_true", help="do not judge by held-out clips")
    return parser.parse_args(arguments)


def prepare_shop(options: argparse.Namespace) -> Workshop:
    """Turn the command line into where and how the recipes run."""
    named = options.device
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if named == "auto" else named
    )
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if options.threads:
        torch.set_num_threads(options.threads)
    scale = SCALES[options.scale or ("full" if on_gpu else "small")]
    no_budget = options.seconds is None and options.steps is None
    return Workshop(
        settings=RunSettings(
            out=options.out,
            budget=Budget(seconds=options.seconds, steps=options.steps),
            resume=options.resume,
            half=on_gpu and not options.fp32,
        ),
        scale=scale,
        device=device,
        seed=options.seed,
        judge=not options.unjudged,
        budgets=scale.budgets if no_budget else {},
    )


def main(arguments: list[str]) -> int:
    """Run a recipe; an error that a user can cause is one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    options = parse(arguments)
    try:
        RECIPES[options.recipe](prepare_shop(options))
    except SwiftError as error:
        logging.getLogger("training").error("%s", error)  # noqa: TRY400 - a sentence, no trace
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
