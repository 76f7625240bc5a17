"""What a step and a chunk are made of, each piece alone at its true shape.

Attention by every kernel there is, a block eager and compiled, its parts; the VAE's convolutions in
each layout; what the host does beside them. So it shows at once where time goes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from swift_core.geometry import LatentShape, motion_shape
from swift_core.model.attention import KeyValue, attend
from swift_core.model.attention_backends import FLASH, SAGE, Backend
from swift_core.model.blocks import DiTBlock
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.model.modulation import add_gated, modulate
from swift_core.model.rope import Rope, apply_rope, make_rope
from swift_core.model.scaled import ScaledLinear
from swift_core.model.work import dit_flops
from swift_core.segments.plan import SegmentSettings, plan_segments

from .convolutions import measure_convolutions
from .host import measure_host
from .machine import Machine
from .rows import Record, Row
from .scale import Scale
from .timing import Run, normal, prepared, timed
from .weights import draw, make_dit, precision_of

SDPA_KERNELS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)


def windows(scale: Scale) -> dict[str, tuple[DiTConfig, LatentShape]]:
    """Give both DiTs with what goes through each in one step."""
    motion = motion_shape(scale.output).latent(
        scale.motion_vae.compression, channels=scale.motion_vae.latent_channels
    )
    whole = scale.output.latent(
        scale.detail_vae.compression, channels=scale.detail_vae.latent_channels
    )
    largest = plan_segments(whole.latent_frames, SegmentSettings()).largest
    return {
        "motion": (scale.motion, motion),
        "detail": (scale.detail, replace(whole, latent_frames=largest)),
    }


def measure_pieces(record: Record, scale: Scale, *, compiles: bool) -> None:
    """Add the rows of all pieces.

    Args:
        compiles: whether blocks are compiled too; that takes a minute each.
    """
    works: dict[str, Callable[[], None]] = {}
    for name, (config, window) in windows(scale).items():
        what = (config, window)
        works[f"{name}: attention"] = partial(measure_attention, record, scale, name, *what)
        for packed in (False, True) if name == "motion" else (False,):
            form = "8 bits" if packed else "16 bits"
            works[f"{name}: block in {form}"] = partial(
                measure_block, record, scale, name, what, packed=packed, compiles=compiles
            )
        works[f"{name}: parts of a block"] = partial(measure_parts, record, scale, name, *what)
    works["decoder"] = partial(measure_convolutions, record, scale)
    works["host"] = partial(measure_host, record, scale)
    for group, measure in works.items():
        record.attempt("set-up", measure, group=group)


def measure_attention(
    record: Record, scale: Scale, name: str, config: DiTConfig, window: LatentShape
) -> None:
    """Measure one layer's self-attention with every kernel there is, and the prompt's."""
    machine = record.machine
    tokens = window.latent_frames * window.tokens_per_frame(config.patch)
    group = f"{name}: attention, {tokens} tokens, {config.heads} heads"
    size = (1, tokens, config.heads, config.head_dim)
    query, key, value = (normal(machine, *size) for _ in range(3))
    memory = KeyValue(key, value)
    row = Row(name="PyTorch's choice", group=group, flops=4 * tokens**2 * config.dim)
    timed(record, scale, row, lambda: attend(query, memory))
    for kernel in SDPA_KERNELS if machine.is_cuda else ():

        def by_kernel(kernel: SDPBackend = kernel) -> object:
            with sdpa_kernel(kernel):
                return attend(query, memory)

        timed(record, scale, replace(row, name=kernel.name.lower()), by_kernel)
    for backend in (FLASH, SAGE):
        if backend.is_installed():

            def by_package(backend: Backend = backend) -> Run:
                return partial(backend.load(), query, key, value)

            prepared(record, scale, replace(row, name=backend.name), by_package)
    words = (1, config.text_tokens, config.heads, config.head_dim)
    prompt = KeyValue(normal(machine, *words), normal(machine, *words))
    work = 4 * tokens * config.text_tokens * config.dim
    row = Row(name="to the prompt", group=group, flops=work)
    timed(record, scale, row, lambda: attend(query, prompt))


def one_block(config: DiTConfig, machine: Machine, *, packed: bool) -> tuple[DiTBlock, WanDiT]:
    """Give a block on the device, and its DiT."""
    single = replace(config, layers=1)
    precision = precision_of(machine)
    stored = draw(single, precision=precision, packed=packed, device=machine.device)
    dit = make_dit(stored, single, precision).to(machine.device)
    block: Any = dit.blocks[0]
    return block, dit


def block_flops(config: DiTConfig, tokens: int) -> int:
    """Count the work of one block."""
    one, two = (dit_flops(replace(config, layers=layers), tokens=tokens) for layers in (1, 2))
    return two - one


def measure_block(
    record: Record,
    scale: Scale,
    name: str,
    what: tuple[DiTConfig, LatentShape],
    *,
    packed: bool,
    compiles: bool,
) -> None:
    """Measure one block, eager and compiled."""
    (config, window), machine = what, record.machine
    frames, each = window.latent_frames, window.tokens_per_frame(config.patch)
    group = f"{name}: block, {frames * each} tokens"
    label = "8-bit weights" if packed else str(machine.compute).removeprefix("torch.")
    block, dit = one_block(config, machine, packed=packed)
    tokens = normal(machine, 1, frames, each, config.dim)
    level = normal(machine, 1, frames, 6, config.dim, dtype=torch.float32)
    text = normal(machine, 1, config.text_tokens, config.text_dim)
    with torch.inference_mode():
        prompt = dit.read_prompt(text).dit_blocks[0]
        rope = _rope(config, window, machine)
    row = Row(name=f"{label}, eager", group=group, flops=block_flops(config, frames * each))
    timed(record, scale, row, lambda: block(tokens, level, rope=rope, prompt=prompt))
    if not compiles:
        return

    def compiled() -> Run:
        # As ``swift_core.model.compiled`` does it; and what was compiled for another block before
        # would count as this one's earlier shapes.
        torch.compiler.reset()
        faster: Any = torch.compile(block.forward, dynamic=False)
        return lambda: faster(tokens, level, rope=rope, prompt=prompt)

    prepared(record, scale, replace(row, name=f"{label}, compiled"), compiled)


def _rope(config: DiTConfig, window: LatentShape, machine: Machine) -> Rope:
    """Give a window's tables."""
    return make_rope(
        config,
        range(window.latent_frames),
        height=window.height // config.patch.height,
        width=window.width // config.patch.width,
        device=machine.device,
    )


def measure_parts(
    record: Record, scale: Scale, name: str, config: DiTConfig, window: LatentShape
) -> None:
    """Measure what a block is made of, and how often it stands in one."""
    machine = record.machine
    frames, each = window.latent_frames, window.tokens_per_frame(config.patch)
    count, dim = frames * each, config.dim
    group = f"{name}: parts of a block"
    block, _ = one_block(config, machine, packed=False)
    tokens = normal(machine, 1, frames, each, dim)
    flat = tokens.flatten(1, 2)
    shift = normal(machine, 1, frames, 1, dim, dtype=torch.float32)
    rope = _rope(config, window, machine)
    norm3 = block.norm3
    attention = block.self_attn
    parts: dict[str, tuple[int, int, Callable[[], object]]] = {
        "projection (q, k, v, o; q, o of the prompt)": (
            6,
            2 * count * dim**2,
            lambda: attention.q(flat),
        ),
        "feed-forward": (1, 4 * count * dim * config.ffn_dim, lambda: block.ffn(tokens)),
        "norm of queries or keys": (3, 0, lambda: attention.norm_q(flat)),
        "rope": (2, 0, lambda: apply_rope(attention.split(flat), rope)),
        "modulate": (2, 0, lambda: modulate(tokens, shift=shift, scale=shift, eps=config.eps)),
        "add through the gate": (2, 0, lambda: add_gated(tokens, tokens, gate=shift)),
        "norm before the prompt": (
            1,
            0,
            lambda: F.layer_norm(tokens.float(), (dim,), norm3.weight, norm3.bias, config.eps).to(
                tokens.dtype
            ),
        ),
    }
    for part, (times, flops, run) in parts.items():
        row = Row(name=part, group=group, flops=flops or None, facts={"in_a_block": times})
        timed(record, scale, row, run)
    packed, _ = one_block(config, machine, packed=True)
    layers = [layer for layer in packed.modules() if isinstance(layer, ScaledLinear)]
    row = Row(name="unpacking 8-bit weights", group=group, facts={"in_a_block": 1})
    timed(record, scale, row, lambda: [x.unpacked_weight(machine.compute) for x in layers])
    if machine.is_cuda:
        layers[0].products = True
        row = Row(
            name="projection in 8 bits",
            group=group,
            flops=2 * count * dim**2,
            facts={"in_a_block": 6},
        )
        timed(record, scale, row, lambda: layers[0](flat))
