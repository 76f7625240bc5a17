"""Small real models for tests."""

from dataclasses import replace

from swift_core.geometry import Patch
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from tests.weights import fill_

SMALL_DIT = DiTConfig(
    in_channels=8,
    out_channels=8,
    dim=48,
    ffn_dim=64,
    heads=2,
    layers=3,
    text_dim=16,
    text_tokens=12,
    frequency_dim=32,
    patch=Patch(time=1, height=2, width=2),
    eps=1e-6,
)


def small_dit(**changes):
    config = replace(SMALL_DIT, **changes)
    return fill_(WanDiT(config)).eval().requires_grad_(False)
