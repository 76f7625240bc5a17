"""Model files in the published formats, under the published names, small and with drawn weights.

Small are the DiTs (dim 128 and 256 where those published have 5120 and 3072): ComfyUI reads their
sizes off the weights. But the text's width is always UMT5's 4096 to it, and the VAEs are always of
the published sizes, the newest versions' Wan2.1 VAE excepted: so those are whole.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B, WAN22_TI2V_5B
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.detect import expected_shapes
from tools.workflows import files

SMALL = {"dim": 128, "heads": 1, "ffn_dim": 256, "layers": 2}
SMALL_A14B = replace(WAN22_I2V_A14B, **SMALL)
SMALL_TI2V = replace(WAN22_TI2V_5B, **{**SMALL, "dim": 256, "heads": 2})
SMALL_REFERENCE = replace(WAN22_REFERENCE_5B, **{**SMALL, "dim": 256, "heads": 2})
TEXT_DIM = WAN22_TI2V_5B.text_dim
RANK = 4

REFERENCE_NAME = "wan2.2_ti2v_5B_reference_fp16.safetensors"
"""Of the form with 96 input channels, which nobody has published yet."""


def write_models(models: Path) -> list[Path]:
    """Write all files that the graphs name, but the text encoder, into ComfyUI's model folders.

    The two VAEs are 0.3 and 1.4 GB: whoever writes them deletes them.
    """
    written = []

    def write(file, tensors):
        path = models / file.directory / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        written.append(path)

    write(files.I2V_HIGH, scaled_fp8(draw(SMALL_A14B, seed=1)))
    write(files.I2V_LOW, scaled_fp8(draw(SMALL_A14B, seed=2)))
    write(files.LIGHTX2V_HIGH, lora(SMALL_A14B, seed=3))
    write(files.LIGHTX2V_LOW, lora(SMALL_A14B, seed=4))
    write(files.TI2V_5B, draw(SMALL_TI2V, seed=5))
    write(files.TURBO, lora(SMALL_TI2V, seed=6))
    write(files.VAE_21, draw(WAN21_VAE, seed=7))
    write(files.VAE_22, draw(WAN22_VAE, seed=8))
    reference = models / "diffusion_models" / REFERENCE_NAME
    save_file(draw(SMALL_REFERENCE, seed=9), reference)
    return [*written, reference]


def draw(config, *, seed, dtype=torch.float16):
    """Draw a model's weights, in original Wan names: norms around 1, the rest by fan-in.

    The large ones repeat themselves: nobody looks at them, and a VAE has 700 million.
    """
    source = torch.randn(99_991, generator=torch.Generator().manual_seed(seed))
    tensors = {}
    for index, (name, shape) in enumerate(expected_shapes(config).items()):
        count = math.prod(shape)
        values = source.roll(index).repeat(-(-count // len(source)))[:count].reshape(shape)
        if "gamma" in name or ("norm" in name and name.endswith("weight")):
            values = 1 + 0.1 * values
        elif "modulation" in name or len(shape) < 2:
            values = 0.1 * values
        else:
            values = values / math.sqrt(math.prod(shape[1:]))
        tensors[name] = values.to(dtype)
    return tensors


def scaled_fp8(tensors):
    """Pack the blocks' matrices as ComfyUI's fp8_scaled files do: a factor beside each."""
    packed = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    for name, values in tensors.items():
        packed[name] = values
        if name.startswith("blocks.") and name.endswith(".weight") and values.dim() == 2:
            scale = values.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
            packed[name] = (values.float() / scale).to(torch.float8_e4m3fn)
            packed[name.removesuffix("weight") + "scale_weight"] = scale
    return packed


def lora(config, *, seed):
    """Draw a LoRA of the attentions, in the keys of those made for ComfyUI."""
    tensors = {}
    draws = torch.Generator().manual_seed(seed)
    for name, shape in expected_shapes(config).items():
        if "_attn." in name and name.endswith(".weight") and len(shape) == 2:
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            rows, columns = shape
            for part, size in (("down", (RANK, columns)), ("up", (rows, RANK))):
                values = torch.randn(size, generator=draws) / math.sqrt(size[1])
                tensors[f"{key}.lora_{part}.weight"] = values.half()
            tensors[f"{key}.alpha"] = torch.tensor(float(RANK))
    return tensors
