"""Our UMT5 against transformers' own model with its own weights, and against the arithmetic."""

import math

import pytest
import sentencepiece
import torch
from torch.nn import functional as F

from swift_core.precision import BF16, FP32, Precision
from swift_core.weights.build_text import build_umt5
from swift_core.weights.detect import detect
from swift_core.weights.headers import read_header
from tests.umt5 import (
    SMALL_UMT5,
    SPIECE,
    as_bytes,
    in_transformers,
    packed_in_fp8,
    small_weights,
    write,
)

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

PROMPT = "slow zoom in on a cup of coffee, and the boat turns over the mountains in the light"
MORE_THAN_THE_DISTANCES = PROMPT * 4
"""Over 128 tokens: farther apart, all distances count alike."""


@pytest.fixture(scope="module")
def oracle():
    """Their model, its weights from its own beginnings, but for norms and a table of order 1."""
    config = transformers.UMT5Config(
        vocab_size=SMALL_UMT5.vocabulary,
        d_model=SMALL_UMT5.text_dim,
        d_kv=SMALL_UMT5.head_dim,
        d_ff=SMALL_UMT5.ffn_dim,
        num_layers=SMALL_UMT5.layers,
        num_heads=SMALL_UMT5.heads,
        relative_attention_num_buckets=SMALL_UMT5.buckets,
    )
    torch.manual_seed(0)
    model = transformers.UMT5EncoderModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
        else:
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


def own_weights(oracle, table="shared.weight"):
    """Their state dict, as it is but for the table's second name."""
    weights = dict(oracle.state_dict())
    weights.pop("encoder.embed_tokens.weight")
    weights[table] = weights.pop("shared.weight")
    return weights


def build(path, weights, *, precision=FP32, tokenizer=None):
    checkpoint = detect(read_header(write(path, weights)))
    return build_umt5(checkpoint, tokenizer, precision=precision)


def padded_ids(prompt, length=512):
    """As Wan makes them: pieces, the end, padding, and which of them are text."""
    ids = sentencepiece.SentencePieceProcessor(model_proto=SPIECE).encode(prompt)[: length - 1]
    ids = torch.tensor([[*ids, 1]])
    mask = torch.ones_like(ids)
    rest = length - ids.shape[1]
    return F.pad(ids, (0, rest)), F.pad(mask, (0, rest))


@pytest.mark.parametrize("prompt", [PROMPT, MORE_THAN_THE_DISTANCES, "cat", ""])
@pytest.mark.parametrize("table", ["shared.weight", "encoder.embed_tokens.weight"])
def test_the_same_as_transformers_with_masked_padding(oracle, tmp_path, prompt, table):
    """We run the text alone; they run 512 tokens, mask the padding, and it is cut off."""
    ours = build(tmp_path / "m.safetensors", {**own_weights(oracle, table), **as_bytes()})
    ids, mask = padded_ids(prompt)
    theirs = oracle(input_ids=ids, attention_mask=mask).last_hidden_state[:, : int(mask.sum())]
    found = ours.encode(prompt, max_tokens=512)
    assert found.shape == theirs.shape
    torch.testing.assert_close(found, theirs, atol=2e-5, rtol=0)


def reference(weights, ids):
    """The arithmetic of Wan's encoder, written out."""
    config = SMALL_UMT5
    tokens = weights["token_embedding.weight"][ids]
    count = len(ids)
    distance = torch.arange(count)[None] - torch.arange(count)[:, None]
    near = config.buckets // 4
    far = near + (
        torch.log(distance.abs().clamp(min=1) / near) / math.log(128 / near) * near
    ).long().clamp(max=near - 1)
    bucket = torch.where(distance.abs() < near, distance.abs(), far)
    bucket = bucket + (distance > 0) * 2 * near

    def norm(x, name):
        return weights[name] * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6)

    for layer in range(config.layers):
        block = {
            name.split(".", 2)[2]: value
            for name, value in weights.items()
            if name.startswith(f"blocks.{layer}.")
        }
        x = norm(tokens, f"blocks.{layer}.norm1.weight")
        q, k, v = (
            (x @ block[f"attn.{part}.weight"].T).view(count, config.heads, config.head_dim)
            for part in "qkv"
        )
        bias = block["pos_embedding.embedding.weight"][bucket].permute(2, 0, 1)
        attention = (torch.einsum("ihd,jhd->hij", q, k) + bias).softmax(-1)
        mixed = torch.einsum("hij,jhd->ihd", attention, v).reshape(count, -1)
        tokens = tokens + mixed @ block["attn.o.weight"].T
        x = norm(tokens, f"blocks.{layer}.norm2.weight")
        gate = F.gelu(x @ block["ffn.gate.0.weight"].T, approximate="tanh")
        tokens = tokens + (gate * (x @ block["ffn.fc1.weight"].T)) @ block["ffn.fc2.weight"].T
    return norm(tokens, "norm.weight")[None]


@pytest.fixture(scope="module")
def weights():
    return small_weights()


@pytest.fixture(scope="module")
def expected(weights):
    ids, mask = padded_ids(MORE_THAN_THE_DISTANCES)
    return reference(weights, ids[0, : int(mask.sum())])


def kept(tokens, path, weights, **how):
    """Encode with a file of these weights."""
    encoder = build(path, {**weights, **as_bytes()}, **how)
    found = encoder.encode(MORE_THAN_THE_DISTANCES, max_tokens=512)
    assert found.shape == tokens.shape
    return found


@pytest.mark.parametrize("spelling", [dict, in_transformers])
def test_the_same_as_the_arithmetic(weights, expected, tmp_path, spelling):
    assert expected.shape[1] > 130
    found = kept(expected, tmp_path / "m.safetensors", spelling(weights))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def difference(found, expected):
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(weights, expected, tmp_path, dtype):
    """Computed in bf16 they are off by its rounding; kept in 16 bits and computed in fp32, less."""
    stored = {name: value.to(dtype) for name, value in weights.items()}
    path = tmp_path / "m.safetensors"
    rounded = kept(expected, path, stored, precision=BF16)
    assert rounded.dtype == torch.bfloat16
    assert difference(rounded, expected) < 2e-2
    found = kept(expected, path, stored)
    assert difference(found, expected) < (1e-2 if dtype is torch.bfloat16 else 1e-3)
    widened = {name: value.float() for name, value in stored.items()}
    ids, mask = padded_ids(MORE_THAN_THE_DISTANCES)
    exact = reference(widened, ids[0, : int(mask.sum())])
    torch.testing.assert_close(found, exact, atol=2e-5, rtol=0)


def scale_keys(scales, key):
    return {f"{layer}.{key}": scale for layer, scale in scales.items()}


@pytest.mark.parametrize("spelling", [dict, in_transformers])
@pytest.mark.parametrize("key", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("fp8_products", [False, True])
def test_scaled_fp8_is_unpacked_as_it_runs(
    weights, expected, tmp_path, spelling, key, fp8_products
):
    """Equal to the unpacked weights computed in full; off from the original by their 8 bits."""
    stored, full, scales = packed_in_fp8(weights)
    names = dict(zip(stored, spelling(stored), strict=True))
    marked = {names[f"{layer}.weight"]: scale for layer, scale in scales.items()}
    tensors = {
        **spelling(stored),
        **{f"{name.removesuffix('.weight')}.{key}": scale for name, scale in marked.items()},
    }
    if key == "scale_weight":
        tensors["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    precision = Precision(weights=torch.float32, compute=torch.float32, fp8_products=fp8_products)
    found = kept(expected, tmp_path / "m.safetensors", tensors, precision=precision)
    ids, mask = padded_ids(MORE_THAN_THE_DISTANCES)
    exact = reference(full, ids[0, : int(mask.sum())])
    torch.testing.assert_close(found, exact, atol=2e-5, rtol=0)
    assert 1e-3 < difference(found, expected) < 6e-2


def test_plain_fp8(weights, expected, tmp_path):
    """Everything in 8 bits, the table of tokens and the norms too."""
    stored = {name: value.to(torch.float8_e4m3fn) for name, value in weights.items()}
    found = kept(expected, tmp_path / "m.safetensors", stored)
    ids, mask = padded_ids(MORE_THAN_THE_DISTANCES)
    full = {name: value.float() for name, value in stored.items()}
    exact = reference(full, ids[0, : int(mask.sum())])
    torch.testing.assert_close(found, exact, atol=2e-5, rtol=0)
    assert difference(found, expected) < 0.1


def test_packed_weights_stay_packed_and_in_bf16_close(weights, expected, tmp_path):
    stored, _, scales = packed_in_fp8(weights)
    tensors = {**stored, **scale_keys(scales, "scale_weight"), **as_bytes()}
    encoder = build(tmp_path / "m.safetensors", tensors, precision=BF16)
    in_fp8 = [p.numel() for p in encoder.parameters() if p.dtype == torch.float8_e4m3fn]
    assert sum(in_fp8) == sum(stored[f"{layer}.weight"].numel() for layer in scales)
    found = encoder.encode(MORE_THAN_THE_DISTANCES, max_tokens=512)
    assert found.dtype == torch.bfloat16
    assert difference(found, expected) < 7e-2
