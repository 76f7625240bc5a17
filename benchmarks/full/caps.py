"""Whole runs on smaller cards: one process for each, because a cap holds for a process's life."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NO_CAP = "no cap"
"""Label of the run that the others are held against."""


def run_caps(caps_gib: Sequence[float], words: Sequence[str], *, label: str = "") -> int:
    """Run ``end-to-end`` uncapped, then under each cap; give the number of runs that failed.

    Args:
        words: for each of them.
        label: likewise.
    """
    failed = 0
    for gib in (None, *caps_gib):
        command = [sys.executable, "-m", "benchmarks.full", "end-to-end", *words]
        command += [] if gib is None else ["--cap", f"{gib:g}"]
        named = [label, NO_CAP if gib is None else ""]
        command += ["--label", ", ".join(filter(None, named))]
        print(" ".join(command[1:]), flush=True)
        made = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
        failed += made.returncode != 0
    return failed


def run_words(
    experts: str, *, label: str, cap_gib: float | None, from_files: bool, words: str
) -> list[str]:
    """Name a whole run by what is special about it.

    The cap, or that there is none, comes last: a capped run and the one that it is held against
    differ in that alone.

    Args:
        label: may end in "no cap".
        words: for ``swift_core generate``; they are the label where there is no other.
    """
    own, _, end = label.rpartition(", ")
    own = own if end == NO_CAP else label
    end = end if end == NO_CAP else ""
    if cap_gib is not None:
        end = f"{cap_gib:g} GiB"
    own = own or words.replace("--", "")
    return [word for word in (experts, "from files" if from_files else "", own, end) if word]
