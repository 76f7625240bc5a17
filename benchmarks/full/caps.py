"""Whole runs on smaller cards: one process for each, because a cap holds for a process's life."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NO_CAP = "no cap"
"""Label of the run that the others are held against."""


def run_caps(caps_gib: Sequence[float], words: Sequence[str]) -> int:
    """Run ``end-to-end`` uncapped, then under each cap; give the number of runs that failed.

    Args:
        words: for each of them.
    """
    failed = 0
    for gib in (None, *caps_gib):
        command = [sys.executable, "-m", "benchmarks.full", "end-to-end", *words]
        command += ["--label", NO_CAP] if gib is None else ["--cap", f"{gib:g}"]
        print(" ".join(command[1:]), flush=True)
        made = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
        failed += made.returncode != 0
    return failed
