"""The words of the command line, and what they are turned into."""

import argparse
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..errors import SwiftError
from ..flow.recipe import SolverName
from ..media.codecs import VideoCodec
from ..model.attention_backends import AttentionChoice
from ..segments.plan import Interaction, RopePositions, SegmentSettings
from ..weights.set_file import LORA_SLOTS
from .commands import run_decode, run_inspect, run_plan
from .generate import run_generate
from .loras import ChosenLora

Value = TypeVar("Value")


MOST_RATE_PART = 1_000_000
"""Containers store a rate as a fraction of small whole numbers."""


class UsageError(SwiftError):
    """Words on the command line that make no command."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of printing its usage and leaving, and takes whole words only.

    Abbreviations would change their meaning, or lose it, whenever an option is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help.")


def _parsed(name: str, example: str, parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Make an argparse type whose error says what was expected."""

    def convert(text: str) -> Value:
        try:
            return parse(text)
        except (ValueError, ZeroDivisionError) as error:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no {name}; write it like {example}"
            ) from error

    return convert


def _size(text: str) -> tuple[int, int]:
    width, height = text.lower().split("x")
    return int(height), int(width)


def _rate(text: str) -> Fraction:
    # No exponents: Fraction would write out a number of a billion digits.
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}|/\d{1,9})?", text, re.ASCII):
        raise ValueError(text)
    rate = Fraction(text)
    if not (Fraction(1, 10) <= rate <= 1000 and rate.denominator <= MOST_RATE_PART):
        raise ValueError(text)
    return rate


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**64:
        raise ValueError(text)
    return seed


def _segment_seed(text: str) -> tuple[int, int]:
    segment, seed = text.split("=")
    return int(segment), _seed(seed)


def _lora(text: str) -> ChosenLora:
    slot, _, file = text.partition("=")
    # A path may have a colon of its own: only a number behind the last one is a strength.
    number = r"[+-]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})"
    found = re.fullmatch(rf"(.+?)(?::({number}))?", file, re.ASCII | re.DOTALL)
    if not slot or found is None:
        raise ValueError(text)
    return ChosenLora(slot=slot, path=Path(found[1]), strength=float(found[2] or 1))


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = _Parser(prog="swift_core", description="One picture in, one 2K video out.")
    chosen = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_generate(chosen.add_parser("generate", help="make a video from a picture"))
    _add_decode(chosen.add_parser("decode", help="make the video of a saved latent again"))
    _add_plan(chosen.add_parser("plan", help="say what a run will do; reads no weights"))
    _add_inspect(chosen.add_parser("inspect", help="say what a checkpoint is"))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_generate)
    parser.add_argument("--image", type=Path, required=True, help="the picture")
    parser.add_argument("--prompt", required=True, help="what happens in the video")
    parser.add_argument("--negative", default="", help="what to keep away from, if cfg is not 1")
    parser.add_argument("--seed", type=_parsed("seed", "42", _seed), default=0)
    parser.add_argument(
        "--segment-seed",
        type=_parsed("re-roll", "2=43 (segment=seed)", _segment_seed),
        action="append",
        default=[],
        metavar="K=N",
        help="give segment K (counted from 0) a seed of its own; may be repeated",
    )
    _add_shape(parser)
    _add_sampling(parser)
    parser.add_argument(
        "--reference-strength",
        type=float,
        help="share of the motion reference in what Stage II starts from, 0 (noise) to below 1; "
        "default 0 where the model sees the reference, else 0.5",
    )
    parser.add_argument(
        "--carry",
        type=float,
        metavar="SHARE",
        help="share of the picture's own detail that is carried along the motion into the "
        "enlarged clip, 0 (none, as in the paper) to 1; default: as the models want",
    )
    _add_loras(parser)
    _add_motion(parser)
    parser.add_argument("--save-motion", type=Path, metavar="CLIP", help="keep Stage I's clip")
    parser.add_argument("--save-latent", type=Path, metavar="F", help="keep the video's latent")
    parser.add_argument("--report", type=Path, metavar="R.json", help="write what was done")
    _add_video(parser)
    parser.add_argument("--fps", type=_parsed("rate", "16 or 30000/1001", _rate), default="16")
    _add_machine(parser)
    parser.add_argument(
        "--fp8-products",
        action="store_true",
        help="multiply 8-bit weights in 8 bits: faster on cards that can (from the RTX 40 series "
        "on), off by about 2.5 %% in each product",
    )
    parser.add_argument(
        "--attention",
        choices=[choice.value for choice in AttentionChoice],
        default=AttentionChoice.AUTO.value,
        help="what computes the DiTs' self-attention: PyTorch (sdpa), FlashAttention, or "
        "SageAttention, which rounds to 8 bits; checked against PyTorch as it runs. auto: the "
        "fastest that is installed and does not round",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile DiT blocks with torch.compile: the first step of each stage waits half a "
        "minute or more, every other one is faster; worth it for long videos",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="folder with UMT5's spiece.model or tokenizer.json; default: in its file or beside it",
    )


def _add_decode(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_decode, fp8_products=False, attention=AttentionChoice.SDPA.value)
    parser.set_defaults(compile=False)
    parser.add_argument("latent", type=Path, help="from generate --save-latent")
    _add_video(parser)
    parser.add_argument(
        "--fps", type=_parsed("rate", "16 or 30000/1001", _rate), help="default: as saved"
    )
    _add_machine(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_plan)
    _add_shape(parser)
    _add_sampling(parser)
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="default: the published models' numbers"
    )
    _add_loras(parser)
    _add_motion(parser)
    _add_memory(parser)
    parser.add_argument("--json", action="store_true", help="as data")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_inspect)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="as data")


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=_parsed("size", "2560x1408", _size), metavar="WxH", help="of the video"
    )
    parser.add_argument("--pixel-frames", type=int, metavar="P", help="frames: 4n+1")
    segments = SegmentSettings()
    parser.add_argument("--segment-length", type=int, default=segments.segment_length, metavar="M")
    parser.add_argument("--neighbors", type=int, default=segments.neighbors, metavar="N")
    parser.add_argument(
        "--right-neighbors", type=int, default=segments.right_neighbors, metavar="N"
    )
    parser.add_argument(
        "--rope", choices=[rope.value for rope in RopePositions], default=segments.rope.value
    )
    parser.add_argument(
        "--interaction",
        choices=[interaction.value for interaction in Interaction],
        default=segments.interaction.value,
    )


def _add_loras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        type=_parsed("LoRA", "detail=turbo.safetensors or detail=turbo.safetensors:0.8", _lora),
        action="append",
        default=[],
        metavar="SLOT=FILE[:STRENGTH]",
        help=f"put a LoRA onto a DiT ({', '.join(LORA_SLOTS)}); may be repeated",
    )


def _add_motion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--motion", type=Path, metavar="CLIP", help="use this clip for Stage I")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    for prefix, stage in (("", "Stage II"), ("motion-", "Stage I")):
        group = parser.add_argument_group(f"sampling of {stage}", "default: as the models want")
        group.add_argument(f"--{prefix}steps", type=int, metavar="N")
        group.add_argument(f"--{prefix}cfg", type=float, metavar="X", help="1 = no guidance")
        group.add_argument(f"--{prefix}sigma-shift", type=float, metavar="S")
        group.add_argument(f"--{prefix}solver", choices=[name.value for name in SolverName])


def _add_video(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, help="the video to write")
    parser.add_argument(
        "--codec", choices=[codec.value for codec in VideoCodec], default=VideoCodec.H264.value
    )
    parser.add_argument("--quality", type=int, metavar="Q", help="CRF; smaller is better")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="memory of the card that a stage may take, weights and work together; DiT blocks that "
        "do not fit are streamed; default: what is free on the card",
    )
    parser.add_argument(
        "--vae-memory",
        type=float,
        metavar="GB",
        help="memory of the VAEs beside their weights; default: what is free on the card",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="the set of models; default: the built-in one"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    _add_memory(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
