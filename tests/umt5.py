"""A small UMT5 and its tokenizer, and their files in the spellings that people have."""

import io

import sentencepiece
import torch
from safetensors.torch import save_file

from swift_core.text.umt5 import UMT5Config, umt5_shapes
from swift_core.weights.umt5_names import umt5_file_table

SENTENCES = (
    "slow zoom in on a cup of coffee",
    "pan left over the mountains in the evening light",
    "a cat runs over the grass, and the sun is low",
    "the boat turns; water moves & glitters",
)


def small_spiece(**changes):
    """A SentencePiece model with UMT5's special tokens, as bytes."""
    made = io.BytesIO()
    how = {
        "vocab_size": 80,
        "model_type": "unigram",
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=made, **(how | changes)
    )
    return made.getvalue()


SPIECE = small_spiece()
PIECES = sentencepiece.SentencePieceProcessor(model_proto=SPIECE).get_piece_size()

SMALL_UMT5 = UMT5Config(
    vocabulary=PIECES + 20,
    text_dim=16,
    ffn_dim=32,
    heads=3,
    head_dim=16,
    layers=2,
    buckets=8,
)
"""Its heads together are not as wide as its embeddings, so that the two cannot be mistaken; all
its layers are of sizes that products in 8 bits can take, so that it shows if they are made."""


def small_weights(config=SMALL_UMT5, seed=0):
    """Weights by original Wan name; activations stay of order 1 and every part counts."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in umt5_shapes(config).items():
        values = torch.randn(shape, generator=draw)
        if "norm" in name:
            values = 1 + 0.3 * values
        elif "attn" in name or "ffn" in name:
            values = values / shape[1] ** 0.5
        if "attn.q" in name:
            values = values / config.head_dim**0.5  # as it was trained: nothing divides later
        weights[name] = values
    return weights


def in_transformers(weights, table="shared.weight"):
    """The same under the names of transformers' files."""
    layers = 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("blocks."))
    theirs = {ours: name for name, ours in umt5_file_table(layers).items()}
    theirs["token_embedding.weight"] = table
    return {theirs[name]: value for name, value in weights.items()}


def as_bytes(spiece=SPIECE):
    """A SentencePiece model as ComfyUI's files hold it."""
    return {"spiece_model": torch.frombuffer(bytearray(spiece), dtype=torch.uint8)}


def packed_in_fp8(weights, *, dtype=torch.float8_e4m3fn, layers=".weight"):
    """Linear layers in 8 bits with a scale each, and what they stand for in full."""
    stored, full, scales = {}, {}, {}
    for name, value in weights.items():
        if name.endswith(layers) and ("attn." in name or "ffn." in name):
            scale = value.abs().max() / torch.finfo(dtype).max
            stored[name] = (value / scale).to(dtype)
            full[name] = stored[name].float() * scale
            scales[name.removesuffix(".weight")] = scale
        else:
            stored[name] = full[name] = value
    return stored, full, scales


def write(path, tensors, **how):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, **how)
    return path
