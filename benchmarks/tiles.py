"""Decoding in parts: our bands beside diffusers' blended tiles, each against its own whole decode.

``python -m benchmarks.tiles`` runs a small VAE on the CPU; ``--full`` the published sizes at
2560x1408 in bf16 with random weights, on a GPU. Bands must give the untiled picture; what tiles
give depends on how far the middle's attention and the causal history reach across their edges.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from swift_core.vae.autoencoder import FP32_ISLANDS, WanVAE
from swift_core.vae.bands import WHOLE, Banding
from swift_core.vae.config import WAN22_VAE, VAEConfig
from swift_core.vae.layout import prepare
from swift_core.vae.memory import decode_peak
from tests.oracles import empty_oracle_vae, oracle_vae
from tests.weights import fill_

from .measure import peak_nbytes

SMALL = replace(WAN22_VAE, encoder_dim=16, decoder_dim=32)
BANDINGS = (
    WHOLE,
    Banding(levels=2, bands=1, parks=True),
    Banding(levels=2, bands=2),
    Banding(levels=2, bands=4),
    Banding(levels=2, bands=4, parks=True),
    Banding(levels=3, bands=8, parks=True),
)
"""On the CPU what is parked counts as well, because it stands in the same memory."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to decode.

    Attributes:
        name: of the way.
        seconds: of the whole clip.
        peak_nbytes: most bytes alive at once, beside weights and input; None: out of memory.
        predicted_nbytes: what the plan says, where there is one.
        largest_error: against the same model's whole decode, of values from -1 to 1.
        relative_error: likewise, root mean square as a share.
    """

    name: str
    seconds: float
    peak_nbytes: int | None
    predicted_nbytes: int | None = None
    largest_error: float | None = None
    relative_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and at what size it is measured."""

    config: VAEConfig
    device: torch.device
    compute: torch.dtype
    height: int
    width: int
    latent_frames: int
    tile: int

    def measure(self, decode: Callable[[], torch.Tensor]) -> tuple[float, int | None, Any]:
        """Give seconds, peak bytes and the clip; the clip waits on the CPU."""
        if self.device.type == "cpu":
            decode()
            begin = time.perf_counter()
            made = decode()
            seconds = time.perf_counter() - begin
            return seconds, peak_nbytes(decode), made
        try:
            decode()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            begin = time.perf_counter()
            made = decode()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - begin
        except torch.cuda.OutOfMemoryError:
            return 0.0, None, None
        return seconds, torch.cuda.max_memory_allocated() - before, made.cpu()

    def row(
        self, name: str, decode: Callable[[], torch.Tensor], whole: Any, predicted: int | None
    ) -> tuple[Row, Any]:
        """Measure one way against the whole decode; the first way is the whole one."""
        seconds, peak, made = self.measure(decode)
        largest = relative = None
        if made is not None and whole is not None:
            error = (made.float() - whole.float()).flatten()
            largest = error.abs().max().item()
            relative = (error.norm() / whole.float().norm()).item()
        row = Row(
            name=name,
            seconds=seconds,
            peak_nbytes=peak,
            predicted_nbytes=predicted,
            largest_error=largest,
            relative_error=relative,
        )
        print(as_line(row), flush=True)
        return row, made


def as_line(row: Row) -> str:
    """Write a row of the table."""

    def mib(nbytes: int | None) -> str:
        return "-" if nbytes is None else f"{nbytes / 2**20:.1f}"

    errors = ("-", "-")
    if row.largest_error is not None and row.relative_error is not None:
        errors = (f"{row.largest_error:.2g}", f"{row.relative_error:.2%}")
    return (
        f"{row.name:<40} {row.seconds:8.2f} {mib(row.peak_nbytes):>10} "
        f"{mib(row.predicted_nbytes):>10} {errors[0]:>9} {errors[1]:>9}"
    )


def models(bench: Bench) -> tuple[WanVAE, Any]:
    """Build ours and diffusers' with the same weights."""
    vae = fill_(WanVAE(bench.config)).eval().requires_grad_(False)
    if bench.device.type == "cpu":
        return prepare(vae), oracle_vae(vae)
    weights = vae.state_dict()
    oracle = oracle_vae(vae) if bench.config is not WAN22_VAE else empty_oracle_vae(bench.config)
    oracle = oracle.to(bench.device, bench.compute).eval().requires_grad_(False)
    narrow = {
        name: value if name.endswith(FP32_ISLANDS) else value.to(bench.compute)
        for name, value in weights.items()
    }
    vae.load_state_dict(narrow, assign=True)
    return prepare(vae.to(bench.device)), oracle


@torch.inference_mode()
def run(bench: Bench) -> list[Row]:
    """Measure every way, in one run."""
    vae, oracle = models(bench)
    space = bench.config.compression.space
    shape = (1, bench.config.latent_channels, bench.latent_frames)
    size = (bench.height // space, bench.width // space)
    draw = torch.Generator().manual_seed(0)
    latent = torch.randn((*shape, *size), generator=draw).to(bench.device, bench.compute)
    raw_latent = vae.denormalize(latent)
    print(
        f"{'':<40} {'seconds':>8} {'peak MiB':>10} {'predicted':>10} {'max err':>9} {'rel err':>9}"
    )
    rows: list[Row] = []
    whole: Any = None
    for banding in BANDINGS:
        parts = f"{banding.bands} bands" if banding.bands > 1 else "whole"
        parts += f", {banding.levels} levels"
        name = "whole" if banding.is_whole else parts + (", parked" if banding.parks else "")
        peak = decode_peak(bench.config, bench.height, bench.width, bench.compute, banding)
        row, made = bench.row(
            f"ours, {name}",
            lambda banding=banding: _stream(vae, latent, banding),
            whole,
            peak.working_nbytes,
        )
        whole = made if banding.is_whole else whole
        rows.append(row)
    whole = None
    for tile in (None, bench.tile, bench.tile // 2):
        name = "whole"
        if tile is not None:
            oracle.enable_tiling(
                tile_sample_min_height=tile,
                tile_sample_min_width=tile,
                tile_sample_stride_height=tile * 3 // 4,
                tile_sample_stride_width=tile * 3 // 4,
            )
            name = f"tiles of {tile}, a quarter blended"
        row, made = bench.row(
            f"diffusers, {name}", lambda: oracle.decode(raw_latent).sample, whole, None
        )
        whole = made if tile is None else whole
        rows.append(row)
    return rows


def _stream(vae: WanVAE, latent: torch.Tensor, banding: Banding) -> torch.Tensor:
    """Decode as the pack does: each chunk leaves for the CPU when it is there."""
    chunks = vae.decode_stream(latent, banding=banding)
    return torch.cat([chunk.cpu() for chunk in chunks], dim=2)


def main() -> None:
    """Say what it runs on, print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(prog="benchmarks.tiles", description=__doc__)
    parser.add_argument("--full", action="store_true", help="2560x1408 in bf16 on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(
        config=WAN22_VAE if options.full else SMALL,
        device=torch.device("cuda" if options.full else "cpu"),
        compute=torch.bfloat16 if options.full else torch.float32,
        height=1408 if options.full else 1024,
        width=2560 if options.full else 128,
        latent_frames=4 if options.full else 3,
        tile=512 if options.full else 128,
    )
    where = torch.cuda.get_device_name() if options.full else f"CPU, threads: {options.threads}"
    title = f"torch {torch.__version__}, diffusers {diffusers.__version__}, {where}"
    frames = 1 + 4 * (bench.latent_frames - 1)
    print(f"{title}\nWan2.2 VAE decode, {bench.width}x{bench.height}, {frames} frames")
    rows = run(bench)
    if options.json:
        data = {"title": title, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
