"""What a step and a chunk are made of, each piece alone at its true shape.

Attention by every kernel there is, a block eager and compiled, its parts; the VAE's convolutions in
each layout; what the host does beside them. So it shows at once where time goes.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from swift_core.geometry import LatentShape, PixelShape, motion_shape
from swift_core.media.pictures import fit_clip
from swift_core.model.attention import KeyValue, attend
from swift_core.model.attention_backends import FLASH, SAGE
from swift_core.model.blocks import DiTBlock
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.model.modulation import add_gated, modulate
from swift_core.model.rope import Rope, apply_rope, make_rope
from swift_core.model.scaled import ScaledLinear
from swift_core.model.work import dit_flops
from swift_core.segments.plan import SegmentSettings, plan_segments
from swift_core.stages.pixels import to_clip, to_pixels
from swift_core.stages.reference import enlarging
from swift_core.stages.runtime import Runtime
from swift_core.vae.blocks import DoubleSides, RMSNorm, add_duplicates
from swift_core.vae.causal import CausalConv3d
from swift_core.vae.config import Level

from .machine import Machine
from .rows import Record, Row
from .scale import Scale
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
    for name, (config, window) in windows(scale).items():
        measure_attention(record, scale, name, config, window)
        formats = (False, True) if name == "motion" else (False,)
        for packed in formats:
            measure_block(record, scale, name, (config, window), packed=packed, compiles=compiles)
        measure_parts(record, scale, name, config, window)
    measure_convolutions(record, scale)
    measure_host(record, scale)


def _timed(record: Record, scale: Scale, row: Row, run: Callable[[], object]) -> None:
    """Add a row with the time and the memory of a run."""
    machine = record.machine

    @torch.inference_mode()
    def measure() -> Row:
        seconds = machine.seconds_of(run, repeats=scale.repeats)
        return replace(row, seconds=seconds, peak_nbytes=machine.peak_nbytes())

    record.attempt(row.name, measure, group=row.group)


def _normal(machine: Machine, *size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.randn(size, device=machine.device, dtype=dtype or machine.compute)


def measure_attention(
    record: Record, scale: Scale, name: str, config: DiTConfig, window: LatentShape
) -> None:
    """Measure one layer's self-attention with every kernel there is, and the prompt's."""
    machine = record.machine
    tokens = window.latent_frames * window.tokens_per_frame(config.patch)
    group = f"{name}: attention, {tokens} tokens, {config.heads} heads"
    size = (1, tokens, config.heads, config.head_dim)
    query, key, value = (_normal(machine, *size) for _ in range(3))
    memory = KeyValue(key, value)
    row = Row(name="PyTorch's choice", group=group, flops=4 * tokens**2 * config.dim)
    _timed(record, scale, row, lambda: attend(query, memory))
    for kernel in SDPA_KERNELS if machine.is_cuda else ():

        def by_kernel(kernel: SDPBackend = kernel) -> object:
            with sdpa_kernel(kernel):
                return attend(query, memory)

        _timed(record, scale, replace(row, name=kernel.name.lower()), by_kernel)
    for backend in (FLASH, SAGE):
        if backend.is_installed():
            run = partial(backend.load(), query, key, value)
            _timed(record, scale, replace(row, name=backend.name), run)
    words = (1, config.text_tokens, config.heads, config.head_dim)
    prompt = KeyValue(_normal(machine, *words), _normal(machine, *words))
    work = 4 * tokens * config.text_tokens * config.dim
    row = Row(name="to the prompt", group=group, flops=work)
    _timed(record, scale, row, lambda: attend(query, prompt))


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
    tokens = _normal(machine, 1, frames, each, config.dim)
    level = _normal(machine, 1, frames, 6, config.dim, dtype=torch.float32)
    text = _normal(machine, 1, config.text_tokens, config.text_dim)
    with torch.inference_mode():
        prompt = dit.read_prompt(text).dit_blocks[0]
        rope = _rope(config, window, machine)
    row = Row(name=f"{label}, eager", group=group, flops=block_flops(config, frames * each))
    _timed(record, scale, row, lambda: block(tokens, level, rope=rope, prompt=prompt))
    if compiles:
        faster: Any = torch.compile(block)
        row = replace(row, name=f"{label}, compiled")
        _timed(record, scale, row, lambda: faster(tokens, level, rope=rope, prompt=prompt))


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
    tokens = _normal(machine, 1, frames, each, dim)
    flat = tokens.flatten(1, 2)
    shift = _normal(machine, 1, frames, 1, dim, dtype=torch.float32)
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
        _timed(record, scale, row, run)
    packed, _ = one_block(config, machine, packed=True)
    layers = [layer for layer in packed.modules() if isinstance(layer, ScaledLinear)]
    row = Row(name="unpacking 8-bit weights", group=group, facts={"in_a_block": 1})
    _timed(record, scale, row, lambda: [x.unpacked_weight(machine.compute) for x in layers])
    if machine.is_cuda:
        layers[0].products = True
        row = Row(
            name="projection in 8 bits",
            group=group,
            flops=2 * count * dim**2,
            facts={"in_a_block": 6},
        )
        _timed(record, scale, row, lambda: layers[0](flat))


def decoder_levels(scale: Scale) -> list[tuple[Level, int, int, int]]:
    """Give the levels of Stage II's decoder with frames, height and width of a later chunk."""
    config = scale.detail_vae
    space = config.compression.space
    frames, height, width = 1, scale.output.height // space, scale.output.width // space
    levels: list[tuple[Level, int, int, int]] = []
    for level in config.decoder_levels:
        levels.append((level, frames, height, width))
        frames *= level.time
        height, width = height * level.space, width * level.space
    return levels


def measure_convolutions(record: Record, scale: Scale) -> None:
    """Measure the convolutions of Stage II's decoder at each level, in several forms."""
    machine = record.machine
    for index, (level, frames, height, width) in enumerate(decoder_levels(scale)):
        dim = level.dim
        group = f"decoder level {index}: {dim} channels, {frames} frames of {width}x{height}"
        flops = 2 * 27 * dim**2 * frames * height * width
        features = _normal(machine, 1, dim, frames + 2, height, width)
        conv = CausalConv3d(dim, dim, (3, 3, 3)).to(machine.device, machine.compute)
        conv.requires_grad_(False)
        first = features, conv.weight.data
        last = [each.contiguous(memory_format=torch.channels_last_3d) for each in first]
        ways: dict[str, Callable[[], object]] = {
            "conv3d, channels last (ours)": partial(_convolve, conv, last[0], last[1]),
            "conv3d, channels first": partial(_convolve, conv, *first),
            "three conv2d, channels last": partial(in_planes, last[0], last[1], frames=frames),
        }
        for name, run in ways.items():
            _timed(record, scale, Row(name=name, group=group, flops=flops), run)
        if machine.is_cuda:
            row = Row(name="conv3d, channels last, the fastest algorithm", group=group)
            run = partial(_tried_out, ways["conv3d, channels last (ours)"])
            _timed(record, scale, replace(row, flops=flops), run)
        _measure_rest(record, scale, group, level, last[0][:, :, :frames])


def _convolve(conv: CausalConv3d, features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolve as the VAE does, with a weight in some layout."""
    conv.weight.data = weight
    return conv(features)


def in_planes(features: torch.Tensor, weight: torch.Tensor, *, frames: int) -> torch.Tensor:
    """Convolve over time and space as a sum of convolutions of pictures."""
    out: torch.Tensor | None = None
    for tap in range(weight.shape[2]):
        pictures = features[0, :, tap : tap + frames].transpose(0, 1)
        kernel = weight[:, :, tap].contiguous(memory_format=torch.channels_last)
        made = F.conv2d(pictures, kernel, padding=1)
        out = made if out is None else out.add_(made)
    assert out is not None, "a kernel has taps"
    return out.transpose(0, 1)[None]


def _tried_out(run: Callable[[], object]) -> object:
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return run()


def _measure_rest(
    record: Record, scale: Scale, group: str, level: Level, features: torch.Tensor
) -> None:
    """Measure what stands between a level's convolutions."""
    machine = record.machine
    norm = RMSNorm(level.dim).to(machine.device).requires_grad_(False)
    _timed(record, scale, Row(name="norm", group=group), lambda: norm(features))
    _timed(
        record, scale, Row(name="activation", group=group), lambda: F.silu(features, inplace=True)
    )
    if level.space == 2:
        picture = features[:, :, 0]
        _timed(
            record,
            scale,
            Row(name="doubled sides of one frame", group=group),
            lambda: DoubleSides()(picture),
        )
    if level.factor > 1 and scale.detail_vae.residual:
        _, _, frames, height, width = features.shape
        size = (1, level.dim, frames * level.time, height * level.space, width * level.space)
        out = torch.zeros(size, device=machine.device, dtype=machine.compute)
        out = out.contiguous(memory_format=torch.channels_last_3d)
        coarse = _normal(machine, 1, level.in_dim, frames, height, width)
        coarse = coarse.contiguous(memory_format=torch.channels_last_3d)
        _timed(
            record,
            scale,
            Row(name="shortcut of duplicates", group=group),
            lambda: add_duplicates(out, coarse, level),
        )


def measure_host(record: Record, scale: Scale) -> None:
    """Measure what is done outside of models for each chunk of 4 frames."""
    machine, output, group = record.machine, scale.output, "host, for 4 frames"
    runtime = Runtime(device=machine.device, precision=precision_of(machine))
    small = motion_shape(output)
    clip = torch.rand(4, small.height, small.width, 3)
    large = torch.rand(4, output.height, output.width, 3)
    size = (1, 3, 4, output.height, output.width)
    pixels = torch.rand(size, device=machine.device, dtype=machine.compute) * 2 - 1
    carrying = enlarging(to_clip(pixels)[0], 1.0)
    works: dict[str, Callable[[], object]] = {
        "enlarging the motion clip": lambda: fit_clip(
            clip, height=output.height, width=output.width
        ),
        "enlarging it with detail": lambda: carrying(clip.to(machine.device)),
        "pixels to the device": lambda: to_pixels(large, runtime),
        "pixels from the device": lambda: to_clip(pixels),
    }
    for name, run in works.items():
        _timed(record, scale, Row(name=name, group=group), run)
    for name, faint in (("H.264, a still picture", 0.0), ("H.264, faint noise", 0.02)):
        frames = (0.5 + faint * torch.randn(large.shape)).clamp(0, 1)
        record.attempt(name, partial(_encode, name, group, frames, output), group=group)


def _encode(name: str, group: str, frames: torch.Tensor, output: PixelShape) -> Row:
    """Encode 16 frames, and give the time for 4."""
    from swift_core.media.codecs import VideoCodec
    from swift_core.media.video_write import VideoWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = VideoWriter(
            Path(folder) / "clip.mp4",
            codec=VideoCodec.H264,
            frames_per_second=Fraction(16),
            height=output.height,
            width=output.width,
        )
        begin = time.perf_counter()
        with writer:
            for _ in range(4):
                writer.write(frames)
        return Row(name=name, group=group, seconds=(time.perf_counter() - begin) / 4)
