"""Judge a set's Stage II: ``python -m training.evaluate --models out/tiny/set --out out/judged``.

Writes ``evaluation.md`` (the tables), ``evaluation.png`` (drift and seams as pictures) and
``evaluation.json`` (every number).
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from swift_core.errors import SwiftError
from swift_core.geometry import PixelShape
from swift_core.precision import FP32
from swift_core.stages.runtime import Runtime
from swift_core.weights.model_set import open_model_set

from .data import ClipMaker
from .evaluation import (
    Judge,
    Numbers,
    VariantResult,
    film_cases,
    judge_quality,
    judge_variants,
    open_stage1,
)

MEASURES = {
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "haarpsi": ("HaarPSI", ".4f"),
    "gmsd": ("GMSD", ".4f"),
    "first": ("first frame, PSNR", ".2f"),
}
CHANGES = {
    "psnr": ("PSNR", ".2f"),
    "seam": ("seam energy", ".3f"),
    "sharpness": ("change of sharpness", "+.4f"),
    "gap": ("change of PSNR", "+.2f"),
    "seconds": ("seconds", ".1f"),
}
"""Names of numbers in the tables, and how they are written."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of a set of models")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--pictures", type=Path, help="cache of the held-out photographs")
    parser.add_argument("--size", type=_clip, default=_clip("512x320x17"), help="of the quality")
    parser.add_argument("--long", type=_clip, default=_clip("256x128x49"), help="of the variants")
    parser.add_argument("--seeds", type=int, default=3, help="of the variants")
    parser.add_argument("--threads", type=int, help="CPU threads; as many as there are cores")
    return parser.parse_args(arguments)


def _clip(text: str) -> PixelShape:
    width, height, frames = (int(part) for part in text.split("x"))
    return PixelShape(pixel_frames=frames, height=height, width=width)


def quality_table(results: dict[str, Numbers]) -> str:
    """Write the means of each way as a table."""
    rows = [
        [name, *(format(numbers[key], form) for key, (_, form) in MEASURES.items())]
        for name, numbers in results.items()
    ]
    return _table(["", *(title for title, _ in MEASURES.values())], rows)


def _artefacts_words(results: dict[str, Numbers]) -> str:
    """Say what came of references with Stage I's artefacts, if there is such a Stage I."""
    if not results:
        return ""
    return (
        "With one move for each, where that small clip went through Stage I, noised there and "
        f"denoised in one stride:\n\n{quality_table(results)}\n"
    )


def variant_table(results: dict[str, VariantResult]) -> str:
    """Write the mean over seeds and its spread for each variant."""
    rows: list[list[str]] = []
    for name, result in results.items():
        cells: list[str] = []
        for key, (_, form) in CHANGES.items():
            mean, spread = result.spread(key)
            cells.append(f"{format(mean, form)} ± {format(spread, form.removeprefix('+'))}")
        rows.append([name, *cells])
    return _table(["", *(title for title, _ in CHANGES.values())], rows)


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def plot(results: dict[str, VariantResult], path: Path) -> None:
    """Draw sharpness from segment to segment, and the seams; does nothing without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    drift, seams = figure.subplots(1, 2)
    for name, result in results.items():
        curves = torch.tensor(result.sharpness)
        place = torch.linspace(0, 1, curves.shape[1]).tolist()
        mean, spread = curves.mean(0), curves.std(0, correction=0)
        (line,) = drift.plot(place, mean.tolist(), marker="o", label=name)
        low, high = (mean - spread).tolist(), (mean + spread).tolist()
        drift.fill_between(place, low, high, alpha=0.2, color=line.get_color())
    drift.set_xlabel("from the first segment to the last")
    drift.set_ylabel("sharpness, share of VAE(truth)'s")
    drift.legend(fontsize=8)
    found = {name: result.spread("seam") for name, result in results.items()}
    names = list(found)
    means, spreads = zip(*found.values(), strict=True)
    seams.barh(names, means, xerr=spreads)
    seams.axvline(1, color="black", linewidth=0.8)
    seams.invert_yaxis()
    seams.set_xlabel("seam energy (1: segments leave no trace)")
    figure.savefig(path, dpi=110)


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Judge a set, and write what was found.

    Raises:
        SwiftError: if the set cannot be opened.
    """
    device = torch.device("cpu")
    models = open_model_set(options.models)
    judge = Judge(models, runtime=Runtime(device=device, precision=FP32))
    clips = ClipMaker(seed=0, device=device, held_out=True, cache=options.pictures)
    quality = judge_quality(judge, film_cases(clips, options.size, all_moves=True))
    stage = open_stage1(models, judge.runtime)
    artefacts = {}
    if stage is not None:
        artefacts = judge_quality(judge, film_cases(clips, options.size, stage=stage))
    variants = judge_variants(judge, film_cases(clips, options.long), seeds=options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    text = (
        f"# {models.name}, held-out photographs ({', '.join(clips.names)})\n\n"
        f"{options.size}, frames after the first, motion known exactly, reference made from the "
        f"truth at a quarter of the size; every move for each:\n\n{quality_table(quality)}\n"
        f"{_artefacts_words(artefacts)}"
        f"{options.long}, mean ± deviation over {options.seeds} seeds; changes are from the first "
        "segment to the last, beside VAE(truth); seam energy 1 means that segments leave no "
        "trace:\n\n"
        f"{variant_table(variants)}"
    )
    (options.out / "evaluation.md").write_text(text)
    plot(variants, options.out / "evaluation.png")
    found: dict[str, Any] = {
        "quality": quality,
        "through_stage1": artefacts,
        "variants": {
            name: {"seeds": result.numbers, "sharpness": result.sharpness}
            for name, result in variants.items()
        },
    }
    (options.out / "evaluation.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def main(arguments: list[str]) -> int:
    """Judge; an error that a user can cause is one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        evaluate(options)
    except SwiftError as error:
        logging.getLogger("training").error("%s", error)  # noqa: TRY400 - a sentence, no trace
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
