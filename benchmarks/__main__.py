"""Run every comparison that this machine can: ``python -m benchmarks``."""

import argparse
import platform

import diffusers
import torch

from . import dit, vae


def main() -> None:
    """Say what it runs on, and print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "--threads", type=int, default=1, help="1 by default: a busy machine disturbs it least"
    )
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    print(
        f"torch {torch.__version__}, diffusers {diffusers.__version__}, {platform.machine()}, "
        f"threads: {threads}; time: median of alternating runs; memory: most tensor bytes alive "
        "at once"
    )
    dit.main()
    vae.main()


main()
