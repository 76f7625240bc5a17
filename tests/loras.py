"""LoRAs for tests: made under our names, spelled as others spell them, merged by hand."""

import torch

LAYERS = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.0.self_attn.o": "blocks.0.attn1.to_out.0",
    "blocks.1.cross_attn.k": "blocks.1.attn2.to_k",
    "blocks.1.ffn.0": "blocks.1.ffn.net.0.proj",
    "blocks.2.ffn.2": "blocks.2.ffn.net.2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
"""Some linear layers of a small DiT, by our names, and diffusers' names for them."""


def draw(*shape, seed=0, scale=0.3):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_factors(dit, rank=4, layers=tuple(LAYERS), seed=0):
    """Draw factors for layers of a DiT, small enough to matter and not to drown the weights."""
    weights = dit.state_dict()
    made = {}
    for index, layer in enumerate(layers):
        outputs, inputs = weights[f"{layer}.weight"].shape
        first = 1000 * seed + 2 * index
        made[layer] = (draw(rank, inputs, seed=first), draw(outputs, rank, seed=first + 1))
    return made


def spelled(factors, name=lambda layer: layer, down="lora_A", up="lora_B", leaf=".weight"):
    """Give factors as the tensors of a file."""
    tensors = {}
    for layer, (first, second) in factors.items():
        tensors[f"{name(layer)}.{down}{leaf}"] = first
        tensors[f"{name(layer)}.{up}{leaf}"] = second
    return tensors


def merged_by_hand(weights, factors, scale=1.0):
    """Add factors to weights, in float64."""
    merged = {name: value.double() for name, value in weights.items()}
    for layer, (down, up) in factors.items():
        weight = merged[f"{layer}.weight"]
        product = up.double().flatten(1) @ down.double().flatten(1)
        merged[f"{layer}.weight"] = weight + scale * product.reshape(weight.shape)
    return merged
