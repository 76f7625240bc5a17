"""What is done outside of the models for each chunk of 4 frames, as the product does it."""

import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch

from swift_core.geometry import PixelShape, motion_shape
from swift_core.memory.fetching import fetch
from swift_core.stages.pixels import to_clip, to_frames, to_pixels
from swift_core.stages.reference import enlarging, workplace
from swift_core.stages.runtime import Runtime

from .rows import Record, Row
from .scale import Scale
from .timing import Run, prepared
from .weights import precision_of

GROUP = "host, for 4 frames"


def measure_host(record: Record, scale: Scale) -> None:
    """Measure what is done outside of models for each chunk of 4 frames."""
    machine, output = record.machine, scale.output
    runtime = Runtime(device=machine.device, precision=precision_of(machine))
    small, device = motion_shape(output), workplace(machine.device)
    clip = torch.rand(4, small.height, small.width, 3)
    size = (output.height, output.width)

    def enlarges(carry: float) -> Run:
        enlarge = enlarging(torch.rand(*size, 3).to(device), carry)
        return lambda: enlarge(clip.to(device))

    def enters() -> Run:
        large = torch.rand(4, *size, 3).to(device)
        return lambda: to_pixels(large, runtime)

    def leaves() -> Run:
        made = torch.rand(1, 3, 4, *size).to(machine.device, machine.compute) * 2 - 1
        return lambda: list(map(to_clip, fetch([to_frames(made)])))

    works: dict[str, Callable[[], Run]] = {
        "enlarging the motion clip": partial(enlarges, 0.0),
        "enlarging it with detail": partial(enlarges, 1.0),
        "pixels into the VAE's form": enters,
        "pixels from the device": leaves,
    }
    for name, prepare in works.items():
        prepared(record, scale, Row(name=name, group=GROUP), prepare)
    for name, faint in (("H.264, a still picture", 0.0), ("H.264, faint noise", 0.02)):
        record.attempt(name, partial(_encode, name, faint, output), group=GROUP)


def _encode(name: str, faint: float, output: PixelShape) -> Row:
    """Encode 16 frames of faint noise, and give the time for 4."""
    from swift_core.media.codecs import VideoCodec
    from swift_core.media.video_write import VideoWriter

    noise = torch.randn(4, output.height, output.width, 3)
    frames = (0.5 + faint * noise).clamp(0, 1)
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
        return Row(name=name, group=GROUP, seconds=(time.perf_counter() - begin) / 4)
