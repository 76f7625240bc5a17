"""What people would pick instead, in the same run: diffusers' Wan models at the same shapes.

The DiTs have our weights, the very tensors; the VAEs are compared by ``benchmarks.tiles``.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from swift_core.geometry import LatentShape
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.model.work import dit_flops
from swift_core.weights.layouts import dit_to_diffusers

from .machine import Machine
from .pieces import windows
from .rows import Record, Row
from .scale import Scale
from .weights import draw, make_dit, precision_of

STEPS = 4


def measure_beside(record: Record, scale: Scale) -> None:
    """Add a row for each of ours and each of theirs."""
    for name, (config, window) in windows(scale).items():
        for theirs in (False, True):
            label = "diffusers" if theirs else "ours"
            record.attempt(
                label,
                lambda n=name, c=config, w=window, t=theirs: _dit(record.machine, n, c, w, t),
                group=f"{name}: one step",
            )
    group = "detail VAE: decode"
    record.attempt("tiles", lambda: _decodes(record, scale, group), group=group)


def check_diffusers() -> None:
    """Import it, so that what is missing comes out here.

    Raises:
        ImportError: saying what is missing.
    """
    import_module("diffusers")


def _dit(machine: Machine, name: str, config: DiTConfig, window: LatentShape, theirs: bool) -> Row:
    """Measure one step of a DiT, ours or theirs, with the same weights."""
    if theirs:
        check_diffusers()
    precision = precision_of(machine)
    stored = draw(config, precision=precision, packed=False, device=machine.device)
    tokens = window.latent_frames * window.tokens_per_frame(config.patch)
    size = (1, config.in_channels, window.latent_frames, window.height, window.width)
    draws = torch.Generator().manual_seed(1)
    latent = torch.randn(size, generator=draws).to(machine.device, machine.compute)
    text = torch.randn((1, config.text_tokens, config.text_dim), generator=draws)
    text = text.to(machine.device, machine.compute)
    with torch.inference_mode():
        dit = make_dit(stored, config, precision).to(machine.device)
        make_step = _their_step if theirs else _our_step
        step = make_step(dit, latent, text)
        del dit
        machine.clear()
        seconds = machine.seconds_of(step, repeats=STEPS, warm_ups=1)
    return Row(
        name="diffusers" if theirs else "ours",
        group=f"{name}: one step",
        seconds=seconds,
        flops=dit_flops(config, tokens=tokens),
        peak_nbytes=machine.peak_nbytes(),
        note="reads the prompt in every step" if theirs else "",
    )


def _our_step(dit: WanDiT, latent: torch.Tensor, text: torch.Tensor) -> Callable[[], object]:
    prompt = dit.read_prompt(text)
    frames = latent.shape[2]
    timestep = torch.full((1, frames), 937.5)
    return lambda: dit(latent, timestep, prompt, positions=range(frames))


def _their_step(dit: WanDiT, latent: torch.Tensor, text: torch.Tensor) -> Callable[[], object]:
    """Give diffusers' step: TI2V takes a timestep for each token, I2V one for all."""
    oracle = shared_oracle(dit)
    config = dit.config
    tokens = latent.shape[2] * (latent.shape[3] // 2) * (latent.shape[4] // 2)
    is_anchored = config.in_channels in (config.out_channels, 2 * config.out_channels)
    size = (1, tokens) if is_anchored else (1,)
    timestep = torch.full(size, 937.5, device=latent.device)
    return lambda: oracle(latent, timestep, text, return_dict=False)


def shared_oracle(dit: WanDiT) -> Any:
    """Give diffusers' DiT with the very weights of ours, in the formats that diffusers keeps.

    Its blocks are made without memory: drawing weights that are thrown away would take minutes.
    """
    oracles: Any = import_module("tests.oracles")
    oracle: Any = oracles.empty_oracle_dit(replace(dit.config, layers=1))
    with torch.device("meta"):
        oracle.blocks = oracles.empty_oracle_dit(dit.config).blocks
    names = dit_to_diffusers(dit.state_dict())
    weights = {names[name]: weight for name, weight in dit.state_dict().items()}
    device, compute = dit.patch_embedding.weight.device, dit.patch_embedding.weight.dtype
    kept = tuple(oracle._keep_in_fp32_modules)
    for name, weight in weights.items():
        wide = any(part in name.split(".") for part in kept)
        weights[name] = weight.to(torch.float32 if wide else compute)
    oracle.load_state_dict(weights, strict=True, assign=True)
    return oracle.to(device).eval().requires_grad_(False)


def _decodes(record: Record, scale: Scale, group: str) -> None:
    """Let the other benchmark measure decoding in bands and in tiles, and take its rows."""
    check_diffusers()
    from benchmarks import tiles

    machine, is_full = record.machine, scale.name == "full"
    bench = tiles.Bench(
        config=scale.detail_vae,
        device=machine.device,
        compute=machine.compute,
        height=scale.output.height,
        width=scale.output.width,
        latent_frames=4 if is_full else 2,
        tile=512 if is_full else 128,
    )
    for made in tiles.run(bench):
        out_of_memory = made.peak_nbytes is None
        record.put(
            Row(
                name=made.name,
                group=group,
                seconds=None if out_of_memory else made.seconds,
                peak_nbytes=made.peak_nbytes,
                predicted_nbytes=made.predicted_nbytes,
                facts={
                    "latent_frames": bench.latent_frames,
                    "largest_error": made.largest_error,
                    "relative_error": made.relative_error,
                },
                note="memory beside weights",
                error="out of memory" if out_of_memory else "",
            )
        )
