"""Each stage's model alone: what one step or one chunk takes in the steady state."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from swift_core.errors import BudgetError
from swift_core.geometry import LatentShape, PixelShape, motion_shape
from swift_core.memory.working import Step
from swift_core.model.config import DiTConfig
from swift_core.model.scaled import ScaledLinear
from swift_core.model.work import dit_flops
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.bands import WHOLE, Banding
from swift_core.vae.causal import TailCache
from swift_core.vae.config import VAEConfig
from swift_core.vae.memory import VaePlan, decode_peak, encode_peak, plan_decode, plan_encode
from swift_core.vae.work import vae_work

from .pieces import windows
from .profiling import Profiler
from .rows import Record, Row
from .scale import Scale
from .weights import dit_slot, precision_of, vae_slot
from .whole import Cap

STEPS = 4
"""Of a distilled model; one more goes before and does not count."""


@dataclass(frozen=True, kw_only=True)
class _Form:
    """A DiT in one number format."""

    name: str
    packed: bool
    products: bool = False


def measure_stages(record: Record, scale: Scale, profiler: Profiler) -> None:
    """Add the rows of both DiTs and both VAEs."""
    forms = [_Form(name="8-bit weights", packed=True), _Form(name="16-bit weights", packed=False)]
    if record.machine.is_cuda:
        forms.insert(1, _Form(name="8-bit weights and products", packed=True, products=True))
    found = windows(scale)
    for form in forms:
        _measure_dit(record, "motion", found["motion"], form, profiler)
    _measure_dit(record, "detail", found["detail"], forms[-1], profiler)
    small = motion_shape(scale.output)
    for name, config, shape in (
        ("motion VAE", scale.motion_vae, small),
        ("detail VAE", scale.detail_vae, scale.output),
    ):
        measure = partial(_measure_vae, record, scale, name, config, shape, profiler)
        record.attempt("set-up", measure, group=f"{name}: one chunk")


def _measure_dit(
    record: Record,
    name: str,
    what: tuple[DiTConfig, LatentShape],
    form: _Form,
    profiler: Profiler,
) -> None:
    (config, window), machine = what, record.machine
    tokens = window.latent_frames * window.tokens_per_frame(config.patch)
    label = f"{form.name}, {tokens} tokens"

    @torch.inference_mode()
    def measure() -> Row:
        slot = dit_slot(config, machine, packed=form.packed, name=name)
        begin = time.perf_counter()
        dit = slot.load(precision_of(machine)).to(machine.device)
        machine.synchronize()
        loading = time.perf_counter() - begin
        for layer in dit.modules():
            if isinstance(layer, ScaledLinear):
                layer.products = form.products
        weights = sum(parameter.nbytes for parameter in dit.parameters())
        draw = torch.Generator().manual_seed(1)
        size = (1, config.in_channels, window.latent_frames, window.height, window.width)
        latent = torch.randn(size, generator=draw).to(machine.device, machine.compute)
        text = torch.randn((1, config.text_tokens, config.text_dim), generator=draw)
        prompt = dit.read_prompt(text.to(machine.device, machine.compute))
        timestep = torch.full((1, window.latent_frames), 937.5)
        positions = range(window.latent_frames)

        def step() -> torch.Tensor:
            return dit(latent, timestep, prompt, positions=positions)

        finite = bool(step().isfinite().all())
        seconds = machine.seconds_of(step, repeats=STEPS, warm_ups=1)
        peak = machine.peak_nbytes()
        notes = [
            "" if finite else "what came out is not finite",
            profiler.look(f"{name}: {label}", step, machine),
        ]
        working = Step(window=window).nbytes(config, compute=machine.compute)
        return Row(
            name=label,
            group=f"{name}: one step",
            seconds=seconds,
            flops=dit_flops(config, tokens=tokens),
            load_seconds=loading,
            peak_nbytes=peak,
            predicted_nbytes=weights + working,
            facts={"weights_nbytes": weights, "steps": STEPS},
            note="; ".join(filter(None, notes)),
        )

    record.attempt(label, measure, group=f"{name}: one step")


def _measure_vae(
    record: Record,
    scale: Scale,
    name: str,
    config: VAEConfig,
    shape: PixelShape,
    profiler: Profiler,
) -> None:
    machine = record.machine
    slot = vae_slot(config, machine, name=name)
    vae: Any = None

    def loaded() -> WanVAE:
        nonlocal vae
        vae = vae or slot.load(precision_of(machine)).to(machine.device)
        return vae

    for kind, plan in (("decode", plan_decode), ("encode", plan_encode)):
        for banding, words in bandings(plan, scale, config, shape, machine.compute).items():
            group = f"{name}: one chunk"
            row = Row(name=f"{kind}, {words}", group=group)
            measure = _Chunk(
                record=record, config=config, shape=shape, banding=banding, profiler=profiler
            )
            record.attempt(
                row.name,
                lambda kind=kind, row=row, measure=measure: measure.run(kind, row, loaded()),
                group=group,
            )


def bandings(
    plan: Callable[..., VaePlan],
    scale: Scale,
    config: VAEConfig,
    shape: PixelShape,
    compute: torch.dtype,
) -> dict[Banding, str]:
    """Give the ways in which a VAE runs, uncapped and on smaller cards, as the product chooses.

    On those the weights are beside the work: see ``swift_core.stages.fit``.
    """
    weights = decode_peak(config, shape.height, shape.width, compute, WHOLE).weights_nbytes
    found = {WHOLE: "whole frames"}
    for gib in scale.caps_gib:
        room = Cap(gib=gib).budget_nbytes - weights
        try:
            chosen = plan(config, shape, compute=compute, budget_nbytes=room)
        except BudgetError:  # the whole run under that cap says so
            continue
        found.setdefault(chosen.banding, f"bands as {gib:g} GiB want")
    return found


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """The third chunk of a clip, again and again: from then on nothing changes."""

    record: Record
    config: VAEConfig
    shape: PixelShape
    banding: Banding
    profiler: Profiler

    @torch.inference_mode()
    def run(self, kind: str, row: Row, vae: WanVAE) -> Row:
        """Measure one later chunk."""
        machine, config = self.record.machine, self.config
        shape, frames, space = self.shape, config.compression.time, config.compression.space
        per_chunk = _per_chunk(config, shape)
        begun = TailCache()
        work: Callable[[], object]
        if kind == "decode":
            size = (1, config.latent_channels, 1, shape.height // space, shape.width // space)
            latent = torch.randn(size, device=machine.device, dtype=machine.compute)
            peak = decode_peak(config, shape.height, shape.width, machine.compute, self.banding)
            flops = per_chunk[1]
            work = partial(vae.decode_chunk, latent, cache=begun, banding=self.banding)
            work()
        else:
            size = (1, 3, frames, shape.height, shape.width)
            pixels = torch.randn(size, device=machine.device, dtype=machine.compute).clamp(-1, 1)
            peak = encode_peak(config, shape.height, shape.width, machine.compute, self.banding)
            flops = per_chunk[0]
            vae.encode_chunk(pixels[:, :, :1], cache=begun, banding=self.banding)
            work = partial(vae.encode_chunk, pixels, cache=begun, banding=self.banding)
        work()
        machine.clear()

        seconds = machine.seconds_of(work, repeats=3, warm_ups=1)
        most = machine.peak_nbytes()
        return replace(
            row,
            note=self.profiler.look(f"{row.group}, {row.name}", work, machine),
            seconds=seconds,
            flops=flops,
            peak_nbytes=most,
            predicted_nbytes=peak.nbytes,
            facts={
                "banding": f"{self.banding.bands} bands, {self.banding.levels} levels"
                + (", parked" if self.banding.parks else ""),
                "chunks": (self.shape.pixel_frames - 1) // frames + 1,
            },
        )


def _per_chunk(config: VAEConfig, shape: PixelShape) -> tuple[int, int]:
    """Count the work of one later chunk, encoding and decoding."""
    longer = vae_work(
        config, replace(shape, pixel_frames=shape.pixel_frames + config.compression.time)
    )
    own = vae_work(config, shape)
    return longer.encode_flops - own.encode_flops, longer.decode_flops - own.decode_flops
