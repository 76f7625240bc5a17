"""A small set of models with random weights, made in memory; and sets written to disk.

The set has every part of the real one, in the same classes: two experts with mask channels, a
Stage II with reference channels, a causal VAE. So the whole path runs on any machine, without a
download. It has learned nothing.
"""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..errors import OutputError
from ..flow.recipe import Recipe
from ..geometry import Patch
from ..model.config import DiTConfig
from ..model.dit import WanDiT
from ..precision import FP32, Precision, dtype_of
from ..shapes import Tensor
from ..text.words import WordConfig, WordEncoder
from ..vae.autoencoder import WanVAE
from ..vae.config import VAEConfig
from ..vae.layout import prepare
from .build import fill_module, islands_of, save_checkpoint
from .model_set import ModelSet
from .set_file import DEFAULT_RECIPE, SetFile, write_set_file
from .slots import Slot

ConfigT = TypeVar("ConfigT", DiTConfig, VAEConfig, WordConfig)
ModuleT = TypeVar("ModuleT", bound=nn.Module)

SEEDED = "seeded"

SEEDED_WORDS = WordConfig(buckets=256, text_dim=64)
SEEDED_VAE = VAEConfig(
    latent_channels=48,
    encoder_dim=24,
    decoder_dim=24,
    dim_mult=(1, 2, 2),
    residual_blocks=1,
    temporal_downsample=(True, True),
    patch=2,
    residual=True,
    latent_mean=(0.0,) * 48,
    latent_std=(1.0,) * 48,
)
SEEDED_MOTION = DiTConfig(
    in_channels=100,
    out_channels=48,
    dim=128,
    ffn_dim=256,
    heads=4,
    layers=2,
    text_dim=64,
    text_tokens=512,
    frequency_dim=256,
    patch=Patch(time=1, height=2, width=2),
    eps=1e-6,
)
SEEDED_DETAIL = DiTConfig(
    in_channels=96,
    out_channels=48,
    dim=192,
    ffn_dim=512,
    heads=6,
    layers=3,
    text_dim=64,
    text_tokens=512,
    frequency_dim=256,
    patch=Patch(time=1, height=2, width=2),
    eps=1e-6,
)
_DESCRIPTION = (
    "Built-in models with random weights: shapes and code paths are real, the pictures are noise."
)


def seeded_model_set(seed: int = 0) -> ModelSet:
    """Make the small set; the same seed gives the same weights.

    Args:
        seed: any whole number; the global random state is neither read nor changed.
    """
    recipe: Recipe = DEFAULT_RECIPE
    vae = Slot(config=SEEDED_VAE, source=SEEDED, load=partial(_make_vae, f"{seed}/vae"))
    words = partial(_make, WordEncoder, SEEDED_WORDS, f"{seed}/words")
    return ModelSet(
        name=SEEDED,
        description=_DESCRIPTION,
        text=Slot(config=SEEDED_WORDS, source=SEEDED, load=words),
        motion_high=_dit_slot(SEEDED_MOTION, f"{seed}/motion_high"),
        motion_low=_dit_slot(SEEDED_MOTION, f"{seed}/motion_low"),
        motion_vae=vae,
        detail=_dit_slot(SEEDED_DETAIL, f"{seed}/detail"),
        detail_vae=vae,
        motion_recipe=recipe,
        detail_recipe=recipe,
    )


def _dit_slot(config: DiTConfig, key: str) -> Slot[DiTConfig, WanDiT]:
    return Slot(config=config, source=SEEDED, load=partial(_make, WanDiT, config, key))


def _make(
    make: Callable[[ConfigT], ModuleT], config: ConfigT, key: str, precision: Precision
) -> ModuleT:
    with torch.device("meta"):
        module = make(config)
    fill_module(module, _draw(module, key, precision, islands_of(config)))
    return module


def _make_vae(key: str, precision: Precision) -> WanVAE:
    return prepare(_make(WanVAE, SEEDED_VAE, key, precision))


def _draw(
    module: nn.Module, key: str, precision: Precision, islands: tuple[str, ...]
) -> dict[str, Tensor]:
    """Draw every parameter from a generator of its own, in fp32, and bring it to its format."""
    return {
        name: _draw_one(f"{key}/{name}", tuple(value.shape)).to(dtype_of(name, precision, islands))
        for name, value in module.state_dict().items()
    }


def _draw_one(key: str, shape: tuple[int, ...]) -> Tensor:
    """Draw a parameter so that activations stay of order 1."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    name = key.rsplit("/", 1)[1]
    if "gamma" in name or ("norm" in name and name.endswith("weight")):
        return 1 + 0.1 * values
    if "words" in name:
        return values
    if "modulation" in name:
        return 0.3 * values
    return values / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1 * values


def save_model_set(models: ModelSet, folder: Path) -> None:
    """Write a set as files that ``open_model_set`` opens; in fp32, so that nothing is lost.

    Raises:
        OutputError: if the place cannot be written.
    """
    slots = {
        "text": models.text,
        "motion_high": models.motion_high,
        "motion_low": models.motion_low,
        "motion_vae": models.motion_vae,
        "detail": models.detail,
        "detail_vae": models.detail_vae,
    }
    files: dict[str, str] = {}
    for name, slot in slots.items():
        if slot is None:
            continue
        same = next((other for other in files if slots[other] is slot), name)
        files[name] = files.get(same, f"{name}.safetensors")
        if same == name:
            module = slot.load(FP32)
            if not isinstance(module, WanDiT | WanVAE | WordEncoder):
                raise OutputError(
                    f"the text encoder {slot.source} is UMT5, which is not written anew; copy the "
                    "file, or save a set with a word encoder."
                )
            save_checkpoint(module, folder / files[name])
    write_set_file(
        folder,
        SetFile(
            name=models.name,
            description=models.description,
            slots=files,
            motion=models.motion_recipe,
            detail=models.detail_recipe,
            boundary=models.boundary,
            carry=models.carry,
        ),
    )
