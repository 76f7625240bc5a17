"""Random weights of the true sizes, made in seconds: one block is drawn, the others are like it.

In memory all blocks of a DiT share the drawn block's numbers; on the device each has its own. As
files they are written out in full, so that reading them is what reading a published model is.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path

import torch

from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.precision import BF16, FP32, Precision, dtype_of, is_island
from swift_core.text.words import WordConfig, WordEncoder
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.config import VAEConfig
from swift_core.vae.layout import prepare
from swift_core.weights.build import fill_module, islands_of, save_checkpoint
from swift_core.weights.model_set import ModelSet
from swift_core.weights.notes import describe_metadata
from swift_core.weights.set_file import DEFAULT_RECIPE, SET_FILE, SetFile, write_set_file
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

_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    _FP8: "F8_E4M3",
}


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


def _words(scale: Scale) -> WordEncoder:
    words = WordEncoder(WordConfig(buckets=256, text_dim=scale.detail.text_dim))
    return words.eval().requires_grad_(False)


def random_models(scale: Scale, machine: Machine, *, packed: bool) -> ModelSet:
    """Make a whole set in memory.

    Args:
        packed: Stage I's experts in 8 bits.
    """
    words = _words(scale)
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


def write_models(scale: Scale, machine: Machine, folder: Path, *, packed: bool) -> int:
    """Write a whole set as files, if it is not there yet; give the bytes that were written.

    At full size 41 GB with packed experts; with 16-bit ones both slots name one file, 40 GB.
    """
    if (folder / SET_FILE).exists():
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    made = partial(draw, precision=precision_of(machine), device=machine.device)
    configs: dict[str, Callable[[], tuple[DiTConfig | VAEConfig, Stored]]] = {
        "motion_high": lambda: (scale.motion, made(scale.motion, packed=packed)),
        "motion_low": lambda: (scale.motion, made(scale.motion, packed=packed)),
        "motion_vae": lambda: (scale.motion_vae, made(scale.motion_vae, packed=False)),
        "detail": lambda: (scale.detail, made(scale.detail, packed=False)),
        "detail_vae": lambda: (scale.detail_vae, made(scale.detail_vae, packed=False)),
    }
    files = {name: f"{name}.safetensors" for name in configs}
    if not packed:
        files["motion_low"] = files["motion_high"]
    written = 0
    for name in dict.fromkeys(path.removesuffix(".safetensors") for path in files.values()):
        config, stored = configs[name]()
        written += write_file(folder / files[name], stored, describe_metadata(config))
    save_checkpoint(_words(scale), folder / "text.safetensors")
    write_set_file(
        folder,
        SetFile(
            name=f"random, {scale.name}",
            description="Random weights of the true shapes.",
            slots={"text": "text.safetensors", **files},
        ),
    )
    return written


def write_file(path: Path, stored: Stored, metadata: Mapping[str, str]) -> int:
    """Write weights as safetensors, one tensor at a time; shared ones are written each time."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in stored.items():
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for content in _bytes_of(stored.values()):
            file.write(content)
    return end


def _bytes_of(tensors: Iterable[torch.Tensor]) -> Iterable[memoryview]:
    for tensor in tensors:
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
