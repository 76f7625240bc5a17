"""Under which names the world stores UMT5: Wan's own, and those of transformers and ComfyUI."""

from collections.abc import Iterator

TOKENIZER_TENSOR = "spiece_model"
"""Under this name ComfyUI's files hold their SentencePiece model, as bytes."""

_STACK = "encoder."
_SHARED = "shared.weight"
"""What transformers calls its encoder, and its table of tokens outside of it."""

_OUTSIDE = {
    "token_embedding.weight": "embed_tokens.weight",
    "norm.weight": "final_layer_norm.weight",
}
_BLOCK = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
"""Original -> transformers' encoder."""


def umt5_stack_table(layers: int) -> dict[str, str]:
    """Give the names of an encoder's tensors, original -> within transformers' encoder."""
    return dict(_rows(layers))


def _rows(layers: int) -> Iterator[tuple[str, str]]:
    yield from _OUTSIDE.items()
    for layer in range(layers):
        for ours, theirs in _BLOCK.items():
            yield f"blocks.{layer}.{ours}", f"block.{layer}.{theirs}"


def umt5_file_table(layers: int) -> dict[str, str]:
    """Give the names in a transformers file -> original.

    The table of tokens goes by two names; a file has either, or both for the same values.
    """
    names = {f"{_STACK}{theirs}": ours for ours, theirs in _rows(layers)}
    return {_SHARED: "token_embedding.weight", **names}
