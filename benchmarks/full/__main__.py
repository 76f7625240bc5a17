"""``python -m benchmarks.full PART``: measure one part, or make the table of all there is."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from swift_core.weights.model_set import ModelSet

from .beside import measure_beside
from .caps import run_caps, run_words
from .files import measure_files
from .machine import this_machine
from .model_files import write_models
from .pieces import measure_pieces
from .profiling import Profiler
from .rows import Record, Row
from .scale import FULL, SMALL, Scale
from .stages import measure_stages
from .table import write_table
from .weights import random_models
from .whole import WARM_UP, WHOLE_RUN, Cap, Job, file_name, forget_plans, run_whole, warm_up

PARTS = ("pieces", "stages", "files", "end-to-end", "caps", "beside", "table")


def main(words: Sequence[str] | None = None) -> int:
    """Run a part; give 1 if the table has nothing to show, or a run has no models or failed."""
    options = _parser().parse_args(words)
    scale = SMALL if options.small else FULL
    if options.threads:
        torch.set_num_threads(options.threads)
    runs: dict[str, Callable[[argparse.Namespace, Scale], int]] = {
        "pieces": _pieces,
        "stages": _stages,
        "files": _files,
        "end-to-end": _whole,
        "caps": _caps,
        "beside": _beside,
        "table": _table,
    }
    return runs[options.part](options, scale)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.full", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--small", action="store_true", help="small shapes, to try the command")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), metavar="DIR")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU; default: its own")
    parser.add_argument("--compile", action="store_true", help="pieces: compiled blocks too")
    parser.add_argument("--profile", action="store_true", help="stages: tables of kernels too")
    parser.add_argument(
        "--frames", type=_lengths, help="end-to-end and caps: lengths, such as 81,241"
    )
    parser.add_argument(
        "--experts",
        choices=("fp8", "bf16"),
        default="fp8",
        help="weights of Stage I, where they are random (bf16: what the machine computes in)",
    )
    parser.add_argument("--cap", type=float, metavar="GIB", help="end-to-end: play such a card")
    parser.add_argument("--caps", type=_caps_of, metavar="A,B", help="caps: other cards, in GiB")
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="a folder of models; written there with random weights where there is none "
        "(end-to-end and caps: default is in memory)",
    )
    parser.add_argument(
        "--with",
        dest="words",
        default="",
        metavar="WORDS",
        help="end-to-end and caps: more words for swift_core generate, --with='--attention sage'",
    )
    parser.add_argument("--label", default="", help="end-to-end and caps: in the name of the run")
    parser.add_argument(
        "--cold", action="store_true", help="end-to-end and caps: no warm-up before what counts"
    )
    return parser


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _caps_of(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _record(options: argparse.Namespace, scale: Scale, name: str = "") -> Record:
    path = options.out / f"{name or options.part}.json"
    return Record(path, options.part, scale, this_machine())


def _pieces(options: argparse.Namespace, scale: Scale) -> int:
    record = _record(options, scale)
    measure_pieces(record, scale, compiles=options.compile)
    record.complete()
    return 0


def _stages(options: argparse.Namespace, scale: Scale) -> int:
    record = _record(options, scale)
    path = record.path.with_name(f"{record.path.stem}-profile.txt")
    measure_stages(record, scale, Profiler(path=path if options.profile else None))
    record.complete()
    return 0


def _files(options: argparse.Namespace, scale: Scale) -> int:
    record = _record(options, scale)
    folder = options.models or options.out / "models"
    measure_files(record, scale, folder, packed=options.experts == "fp8")
    record.complete()
    return 0


def _whole(options: argparse.Namespace, scale: Scale) -> int:
    cap = None if options.cap is None else Cap(gib=options.cap)
    if cap is not None:
        cap.enforce(this_machine())
    words = run_words(
        options.experts,
        label=options.label,
        cap_gib=options.cap,
        from_files=options.models is not None,
        words=options.words,
    )
    record = _record(options, scale, file_name("-".join(["end-to-end", *words])))
    before = ", ".join(["preparation", *words])
    models = _find_models(options, scale, record, before)
    if models is None:
        return 1

    def job(label: str, frames: int) -> Job:
        given, output = tuple(options.words.split()), scale.output_of(frames)
        return Job(label=label, models=models, output=output, cap=cap, words=given)

    # At full size a processor would take hours over it.
    if not options.cold and (record.machine.is_cuda or scale.name == "small"):
        first = job(before, scale.warm_up_frames)
        record.attempt(WARM_UP, lambda: warm_up(first, record, options.out), group=before)
    for frames in options.frames or (scale.lengths if cap is None else scale.lengths[:1]):
        each = job(", ".join([f"{frames} frames", *words]), frames)
        forget_plans()
        record.attempt(
            WHOLE_RUN, lambda each=each: run_whole(each, record, options.out), group=each.label
        )
    record.complete()
    return 0


def _find_models(
    options: argparse.Namespace, scale: Scale, record: Record, group: str
) -> ModelSet | None:
    """Find the models of whole runs, and add a row that says what they are; None if that fails."""
    found: list[ModelSet] = []

    def find() -> Row:
        begin = time.perf_counter()
        made, note = _models(options, scale, record)
        found.append(made)
        return Row(name="models", group=group, seconds=time.perf_counter() - begin, note=note)

    record.attempt("models", find, group=group)
    return found[0] if found else None


def _models(options: argparse.Namespace, scale: Scale, record: Record) -> tuple[ModelSet, str]:
    """Find the models of whole runs, and a remark on them."""
    packed = options.experts == "fp8"
    if options.models is None:
        return random_models(scale, record.machine, packed=packed), "in memory"
    made = write_models(scale, record.machine, options.models, packed=packed)
    return made.models, made.note


def _caps(options: argparse.Namespace, scale: Scale) -> int:
    frames = options.frames or scale.lengths[:1]
    words = ["--out", str(options.out.absolute()), "--experts", options.experts]
    words += ["--frames", ",".join(str(length) for length in frames)]
    words += ["--small"] if options.small else []
    words += ["--threads", str(options.threads)] if options.threads else []
    words += ["--models", str(options.models.absolute())] if options.models else []
    words += [f"--with={options.words}"] if options.words else []
    words += ["--cold"] if options.cold else []
    return min(1, run_caps(options.caps or scale.caps_gib, words, label=options.label))


def _beside(options: argparse.Namespace, scale: Scale) -> int:
    record = _record(options, scale)
    measure_beside(record, scale)
    record.complete()
    return 0


def _table(options: argparse.Namespace, _scale: Scale) -> int:
    return write_table(options.out)


if __name__ == "__main__":
    sys.exit(main())
