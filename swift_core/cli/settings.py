"""From words of the command line to checked values of the core."""

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import BudgetError, CheckpointError, DeviceError, MediaError, OutputError
from ..flow.recipe import Recipe, SolverName
from ..geometry import PixelShape
from ..media.codecs import VideoCodec
from ..media.sources import ClipSource, open_clip
from ..memory.host import free_host_nbytes, host_nbytes
from ..model.attention_backends import AttentionChoice, choose_attention
from ..model.scaled import check_products
from ..precision import BF16, FP32
from ..progress import Observer, ignore
from ..segments.plan import Interaction, RopePositions, SegmentSettings
from ..slabs import Slabs
from ..stages.resources import Resources
from ..stages.runtime import Runtime
from ..stages.speed import speed_of
from ..weights.bundled import open_bundled_set
from ..weights.model_set import ModelSet, open_model_set

_log = logging.getLogger(__name__)

_BF16_SINCE = (8, 0)
"""Compute capability: the RTX 30 series and its like."""

FULL_OUTPUT = PixelShape(pixel_frames=81, height=1408, width=2560)
SMALL_OUTPUT = PixelShape(pixel_frames=49, height=320, width=512)
"""What the built-in set makes unless told otherwise: it runs on any CPU."""

MOTION_CODECS = {
    ".mkv": VideoCodec.FFV1,
    ".mov": VideoCodec.PRORES,
    ".mp4": VideoCodec.H264,
}
"""How a kept motion clip is stored, by suffix: as well as each container can."""


def open_models(folder: Path | None, *, tokenizer: Path | None = None) -> ModelSet:
    """Open a folder's set of models, or the bundled one.

    Raises:
        CheckpointError: if the set cannot be used, or takes no tokenizer and is given one.
    """
    if folder is not None:
        return open_model_set(folder, tokenizer=tokenizer)
    if tokenizer is not None:
        raise CheckpointError(
            f"--tokenizer {tokenizer} is for UMT5, and the built-in set has none; add --models "
            "with a set that has, or leave it out."
        )
    return open_bundled_set()


def output_shape(options: argparse.Namespace) -> PixelShape:
    """Give the size and length asked for."""
    usual = FULL_OUTPUT if options.models or options.command == "plan" else SMALL_OUTPUT
    height, width = options.size or (usual.height, usual.width)
    frames = usual.pixel_frames if options.pixel_frames is None else options.pixel_frames
    return PixelShape(pixel_frames=frames, height=height, width=width)


def segment_settings(options: argparse.Namespace) -> SegmentSettings:
    """Give the segment settings asked for."""
    return SegmentSettings(
        segment_length=options.segment_length,
        neighbors=options.neighbors,
        right_neighbors=options.right_neighbors,
        rope=RopePositions(options.rope),
        interaction=Interaction(options.interaction),
    )


def recipe(options: argparse.Namespace, usual: Recipe, *, prefix: str) -> Recipe:
    """Change a model's usual recipe as asked for.

    Args:
        prefix: of the options: ``motion_`` for Stage I, empty for Stage II.
    """
    asked = {
        "steps": getattr(options, f"{prefix}steps"),
        "cfg": getattr(options, f"{prefix}cfg"),
        "sigma_shift": getattr(options, f"{prefix}sigma_shift"),
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    solver = getattr(options, f"{prefix}solver")
    if solver is not None:
        changes["solver"] = SolverName(solver)
    return replace(usual, **changes)


def open_motion(options: argparse.Namespace, output: PixelShape) -> ClipSource | None:
    """Open the motion clip, if one is given; look at no more of it than shows that it is too long.

    Raises:
        MediaError: if it cannot be read, or is too long.
    """
    path: Path | None = options.motion
    if path is None:
        return None
    source = open_clip(path, most_frames=output.pixel_frames + 1)
    if source.shape.pixel_frames > output.pixel_frames:
        raise MediaError(
            f"{path} has more than {output.pixel_frames} frames, the video is to have "
            f"{output.pixel_frames}; cut the clip, or ask for more with --pixel-frames."
        )
    return source


def choose_runtime(options: argparse.Namespace, observe: Observer = ignore) -> Runtime:
    """Choose where to compute: bf16 on CUDA, fp32 on the CPU.

    Raises:
        DeviceError: if what is asked for is not there: CUDA, 8-bit products, an attention.
        PackageError: if an attention is asked for that is not installed.
        BudgetError: if a stage, or the VAEs, are given no memory.
    """
    device = options.device
    budget = _nbytes("--memory", options.memory)
    vae_room = _nbytes("--vae-memory", options.vae_memory)
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DeviceError("--device cuda: PyTorch sees no CUDA device here; use --device cpu.")
    on_cuda = device == "cuda" or (device == "auto" and has_cuda)
    where = torch.device("cuda" if on_cuda else "cpu")
    if options.fp8_products:
        check_products(where)
    made = Runtime(
        device=where,
        precision=replace(BF16 if on_cuda else FP32, fp8_products=options.fp8_products),
        observe=observe,
        free_nbytes=None if vae_room is None else lambda: vae_room,
        budget_nbytes=_budget(budget, on_cuda=on_cuda),
        slabs=Slabs(min(host_nbytes() // 4, free_host_nbytes() // 2)) if on_cuda else None,
        compiles=options.compile,
        reads_ahead=on_cuda,
        attention=choose_attention(AttentionChoice(options.attention), where),
    )
    if on_cuda and torch.cuda.get_device_capability(where) < _BF16_SINCE:
        _log.warning("this card has no bf16 arithmetic: slow, and in more memory than planned")
    return made


def card_resources(options: argparse.Namespace) -> Resources:
    """Tell what a run may use here, for a plan: of the card that is there, or of an assumed one.

    Raises:
        BudgetError: if a stage, or the VAEs, are given no memory.
    """
    budget = _nbytes("--memory", options.memory)
    vae_room = _nbytes("--vae-memory", options.vae_memory)
    if not torch.cuda.is_available():
        return Resources(device_nbytes=budget, vae_nbytes=vae_room, host_nbytes=free_host_nbytes())
    return Resources(
        device_nbytes=_free_on_card() if budget is None else budget,
        vae_nbytes=vae_room,
        host_nbytes=free_host_nbytes(),
        speed=speed_of(torch.device("cuda"), dtype=torch.bfloat16),
    )


def _nbytes(option: str, gigabytes: float | None) -> int | None:
    if gigabytes is None:
        return None
    if not 0 < gigabytes < 1e6:
        raise BudgetError(f"{option} {gigabytes:g} is no amount of memory; give 1 GB or more.")
    return int(1e9 * gigabytes)


def _budget(nbytes: int | None, *, on_cuda: bool) -> Callable[[], int] | None:
    """Answer with what was given, as far as the card has it, or with what is free there."""
    if not on_cuda:
        return None if nbytes is None else lambda: nbytes
    return _free_on_card if nbytes is None else lambda: _capped(nbytes)


def _capped(nbytes: int) -> int:
    free = _usable_on_card()
    if free < nbytes:
        _log.warning("of %.1f GB only %.1f GB are free on the card", nbytes / 1e9, free / 1e9)
    return min(nbytes, free)


def _free_on_card() -> int:
    """Tell what a stage may take of the card, less what a convolution's own workspace takes."""
    return int(0.85 * _usable_on_card())


def _usable_on_card() -> int:
    """Tell what is free or ours: the model at work is part of what a stage takes."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()


def check_distinct(inputs: Mapping[str, Path | None], outputs: Mapping[str, Path | None]) -> None:
    """Refuse an output that is an input or another output; both by the name of their option.

    Raises:
        OutputError: naming both options.
    """
    seen = {path.resolve(): option for option, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise OutputError(f"{other} and {option} both name {path}; give each its own file.")
