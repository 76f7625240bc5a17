"""Random weights of the true sizes, made in seconds: one block is drawn, the others are like it.

In memory all blocks of a DiT share the drawn block's numbers; on the device each has its own.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache

import torch

from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.precision import BF16, FP32, Precision, dtype_of, is_island
from swift_core.text.words import WordConfig, WordEncoder
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.config import VAEConfig
from swift_core.vae.layout import prepare
from swift_core.weights.build import fill_module, islands_of
from swift_core.weights.model_set import ModelSet
from swift_core.weights.set_file import DEFAULT_RECIPE
from swift_core.weights.slots import Slot
from swift_core.weights.unpacking import unpack_weights

from .machine import Machine
from .scale import Scale

Stored = dict[str, torch.Tensor]

_BLOCK = re.compile(r"blocks\.\d+\.")
_FP8 = torch.float8_e4m3fn
_FP8_STEP = 100.0
"""Weights are drawn at deviation 1, cut at 4, and packed times this: near the format's 448."""

_HEAD_SCALE = 0.02
"""Of a VAE's last layer: its pictures are then faint noise, which encodes about as fast as film."""


def precision_of(machine: Machine) -> Precision:
    """Give the precision that the command line would choose."""
    return BF16 if machine.compute is torch.bfloat16 else FP32


@lru_cache(maxsize=8)
def draw(
    config: DiTConfig | VAEConfig, *, precision: Precision, packed: bool, device: torch.device
) -> Stored:
    """Draw a model's weights as a file has them; those of all blocks are the first one's.

    Args:
        packed: the blocks' linear layers in 8 bits, with a scale each.
        device: that draws; the weights are in host memory.
    """
    with torch.device("meta"):
        module = WanDiT(config) if isinstance(config, DiTConfig) else WanVAE(config)
    generator = torch.Generator(device).manual_seed(0)
    islands, stored = islands_of(config), Stored()
    for name, value in module.state_dict().items():
        first = _BLOCK.sub("blocks.0.", name)
        if first not in stored:
            values = torch.randn(value.shape, generator=generator, device=device)
            if packed and _is_packed(name, value, islands):
                fan_in = value.shape[1]
                stored[first] = values.clamp(-4, 4).mul(_FP8_STEP).to(_FP8).cpu()
                stored[_scale_name(first)] = torch.tensor(1 / (_FP8_STEP * math.sqrt(fan_in)))
            else:
                dtype = dtype_of(name, precision, islands)
                stored[first] = _scaled(name, values).to(dtype).cpu()
        stored[name] = stored[first]
        if _scale_name(first) in stored and name.endswith(".weight"):
            stored[_scale_name(name)] = stored[_scale_name(first)]
    return stored


def _is_packed(name: str, value: torch.Tensor, islands: tuple[str, ...]) -> bool:
    return bool(_BLOCK.match(name)) and value.dim() == 2 and not is_island(name, islands)


def _scale_name(name: str) -> str:
    return f"{name.removesuffix('.weight')}.scale_weight"


def _scaled(name: str, values: torch.Tensor) -> torch.Tensor:
    """Bring numbers of deviation 1 to a parameter's size, so that activations stay of order 1."""
    if "gamma" in name or ("norm" in name and name.endswith("weight")):
        return 1 + 0.1 * values
    if "modulation" in name:
        return 0.3 * values
    if values.dim() == 1:
        return 0.1 * values
    values = values / math.sqrt(math.prod(values.shape[1:]))
    return values * _HEAD_SCALE if name == "decoder.head.2.weight" else values


def nbytes_of(stored: Mapping[str, torch.Tensor]) -> int:
    """Count the bytes of a model, every block in full."""
    return sum(tensor.nbytes for tensor in stored.values())


def make_dit(stored: Stored, config: DiTConfig, precision: Precision) -> WanDiT:
    """Make a DiT of drawn weights, by the way that files go."""
    with torch.device("meta"):
        dit = WanDiT(config)
    weights = unpack_weights(dit, stored, precision=precision, islands=islands_of(config))
    fill_module(dit, weights)
    return dit


def make_vae(stored: Stored, config: VAEConfig, precision: Precision) -> WanVAE:
    """Make a VAE of drawn weights."""
    with torch.device("meta"):
        vae = WanVAE(config)
    fill_module(vae, unpack_weights(vae, stored, precision=precision, islands=islands_of(config)))
    # Laid out as convolutions read them, in memory of its own: the drawn ones stay as they are.
    return prepare(vae)


def dit_slot(
    config: DiTConfig, machine: Machine, *, packed: bool, name: str
) -> Slot[DiTConfig, WanDiT]:
    """Give a DiT of random weights as a model set has it."""
    stored = draw(config, precision=precision_of(machine), packed=packed, device=machine.device)
    return Slot(
        config=config,
        source=f"random: {name}",
        load=lambda precision: make_dit(stored, config, precision),
        packed_nbytes=nbytes_of(stored) if packed else None,
    )


def vae_slot(config: VAEConfig, machine: Machine, *, name: str) -> Slot[VAEConfig, WanVAE]:
    """Give a VAE of random weights as a model set has it."""
    stored = draw(config, precision=precision_of(machine), packed=False, device=machine.device)
    return Slot(
        config=config,
        source=f"random: {name}",
        load=lambda precision: make_vae(stored, config, precision),
    )


def words_encoder(scale: Scale) -> WordEncoder:
    """Give a text encoder: a small one, because it is not measured."""
    words = WordEncoder(WordConfig(buckets=256, text_dim=scale.detail.text_dim))
    return words.eval().requires_grad_(False)


def random_models(scale: Scale, machine: Machine, *, packed: bool) -> ModelSet:
    """Make a whole set in memory.

    Args:
        packed: Stage I's experts in 8 bits.
    """
    words = words_encoder(scale)
    return ModelSet(
        name=f"random, {scale.name}",
        description="Random weights of the true shapes.",
        text=Slot(
            config=words.config, source="random: words", load=lambda p: words.to(dtype=p.weights)
        ),
        motion_high=dit_slot(scale.motion, machine, packed=packed, name="motion_high"),
        motion_low=dit_slot(scale.motion, machine, packed=packed, name="motion_low"),
        motion_vae=vae_slot(scale.motion_vae, machine, name="motion_vae"),
        detail=dit_slot(scale.detail, machine, packed=False, name="detail"),
        detail_vae=vae_slot(scale.detail_vae, machine, name="detail_vae"),
        motion_recipe=DEFAULT_RECIPE,
        detail_recipe=DEFAULT_RECIPE,
    )
