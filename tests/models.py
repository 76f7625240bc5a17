"""Small real models for tests."""

import math
from dataclasses import replace

import torch

from swift_core.flow.recipe import Recipe, SolverName
from swift_core.geometry import Patch
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.precision import FP32
from swift_core.stages.runtime import Runtime
from swift_core.text.words import WordConfig, WordEncoder
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.config import VAEConfig
from swift_core.weights.model_set import ModelSet
from swift_core.weights.slots import Slot
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


def slot(config, module):
    return Slot(config=config, source="test", load=lambda _precision: module)


SMALL_VAE = VAEConfig(
    latent_channels=8,
    encoder_dim=8,
    decoder_dim=8,
    dim_mult=(1, 2, 2),
    residual_blocks=1,
    temporal_downsample=(True, True),
    patch=2,
    residual=True,
    latent_mean=tuple(0.1 * math.sin(i) for i in range(8)),
    latent_std=tuple(1 + 0.2 * math.cos(i) for i in range(8)),
)
"""8x8x4 with 8 channels: fits the small DiTs."""


def small_vae(**changes):
    return fill_(WanVAE(replace(SMALL_VAE, **changes))).eval().requires_grad_(False)


def small_words():
    return fill_(WordEncoder(WordConfig(buckets=32, text_dim=16)))


def small_models(**changes):
    """A whole set: two experts with mask channels, and a detail DiT that sees the reference."""
    vae, words = small_vae(), small_words()
    high, low = small_dit(in_channels=20, layers=1), small_dit(in_channels=20, layers=1)
    fill_(low, seed=1)
    detail = small_dit(in_channels=16, layers=1)
    models = ModelSet(
        name="small",
        description="Small models for tests.",
        text=slot(words.config, words),
        motion_high=slot(high.config, high),
        motion_low=slot(low.config, low),
        motion_vae=slot(vae.config, vae),
        detail=slot(detail.config, detail),
        detail_vae=slot(vae.config, vae),
        motion_recipe=RECIPE,
        detail_recipe=RECIPE,
        boundary=0.9,
    )
    return replace(models, **changes)


RECIPE = Recipe(steps=2, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
RUNTIME = Runtime(device=torch.device("cpu"), precision=FP32)
