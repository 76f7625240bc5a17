"""LoRAs through diffusers' own key tables and scales.

diffusers puts LoRAs on with peft, which is not needed here: what is compared is what it would
hand to peft, factors under its own names with the alphas multiplied in.
"""

import pytest
import torch
from safetensors.torch import save_file

from swift_core.precision import FP32
from swift_core.weights.lora import Lora, read_lora
from swift_core.weights.lora_merge import apply_loras
from tests.loras import draw
from tests.models import small_dit
from tests.oracles import oracle_dit

conversion = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
pytestmark = pytest.mark.oracle

ATTENTION = [f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"]
BLOCK = [*ATTENTION, "ffn.0", "ffn.2"]
OUTSIDE = ["time_projection.1", "text_embedding.0", "text_embedding.2", "time_embedding.0"]
OUTSIDE += ["time_embedding.2", "head.head"]


def factors_of(dit, layer, rank, seed):
    outputs, inputs = dit.get_submodule(layer).weight.shape
    return draw(rank, inputs, seed=seed), draw(outputs, rank, seed=seed + 1)


def copied(tensors):
    """Copy what diffusers scales in place."""
    return {name: value.clone() for name, value in tensors.items()}


def merge_into_oracle(oracle, converted):
    """Do what peft does at scale 1: add the product to the weight, the bias to the bias."""
    converted = {name.removeprefix("transformer."): value for name, value in converted.items()}
    for name, down in converted.items():
        stem = name.removesuffix(".lora_A.weight")
        if stem != name:
            layer = oracle.get_submodule(stem)
            layer.weight.data = layer.weight + converted[f"{stem}.lora_B.weight"] @ down
            layer.bias.data = layer.bias + converted.get(f"{stem}.lora_B.bias", 0)


def run_both(dit, oracle):
    latent, text = draw(1, 8, 2, 4, 6, seed=1, scale=1.0), draw(1, 12, 16, seed=2, scale=1.0)
    ours = dit(
        latent,
        torch.full((1, 2), 400.0),
        prompt=dit.read_prompt(text),
        positions=(0, 1),
    )
    theirs = oracle(latent, torch.tensor([400.0]), text, return_dict=False)[0]
    return ours, theirs


def compare(path, tensors, converted):
    """Put a file on our DiT, and its conversion on diffusers', and run both."""
    dit = small_dit()
    oracle = oracle_dit(small_dit())
    before, _ = run_both(dit, oracle)
    save_file(tensors, path)
    report = apply_loras(dit, [Lora(file=read_lora(path))], precision=FP32)
    assert report.matches[0].unmatched == ()
    merge_into_oracle(oracle, converted)
    ours, theirs = run_both(dit, oracle)
    # As without a LoRA: the same arithmetic in fp32, in another order.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - before).abs().mean() > 0.05


def test_wan_names_of_every_layer(tmp_path):
    """As LightX2V writes them: factors, alphas, and differences of biases."""
    dit, tensors = small_dit(), {}
    layers = [f"blocks.{index}.{layer}" for index in range(3) for layer in BLOCK]
    for index, layer in enumerate([*layers, *OUTSIDE]):
        down, up = factors_of(dit, layer, 3, 10 * index)
        tensors[f"diffusion_model.{layer}.lora_A.weight"] = down
        tensors[f"diffusion_model.{layer}.lora_B.weight"] = up
        tensors[f"diffusion_model.{layer}.diff_b"] = draw(len(up), seed=10 * index + 2)
        if layer in layers:
            tensors[f"diffusion_model.{layer}.alpha"] = torch.tensor(1.5 + index % 3)
    converted = conversion._convert_non_diffusers_wan_lora_to_diffusers(copied(tensors))
    assert len(converted) == 3 * (len(layers) + len(OUTSIDE))
    compare(tmp_path / "lora.safetensors", tensors, converted)


def test_underscored_names_of_every_layer_of_a_block(tmp_path):
    """As musubi-tuner writes them."""
    dit, tensors = small_dit(), {}
    for index in range(3):
        for number, layer in enumerate(BLOCK):
            down, up = factors_of(dit, f"blocks.{index}.{layer}", 2 + index, 100 * index + number)
            stem = f"lora_unet_blocks_{index}_{layer.replace('.', '_')}"
            tensors[f"{stem}.lora_down.weight"] = down
            tensors[f"{stem}.lora_up.weight"] = up
            tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    converted = conversion._convert_musubi_wan_lora_to_diffusers(copied(tensors))
    assert len(converted) == 2 * 3 * len(BLOCK)
    compare(tmp_path / "lora.safetensors", tensors, converted)
