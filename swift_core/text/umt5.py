"""UMT5, the text encoder of the published Wan models, as transformers has it.

Only its encoder is used, on one prompt at a time, so that there is no padding to be masked.
Shapes are by the original Wan names; how transformers names the tensors, the weights' layouts say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ..errors import CheckpointError
from ..shapes import Float, Tensor
from .encoder import TextEncoder
from .extras import require
from .tokenizer import Tokenizer

_MAX_DISTANCE = 128
"""From here on all distances between tokens count alike; no shape shows it."""

_EPS = 1e-6
_MOST_UNUSED = 512
"""A vocabulary is rounded up, and has a few hundred entries that no text uses."""


@dataclass(frozen=True, kw_only=True)
class UMT5Config:
    """Sizes of a UMT5 encoder.

    Attributes:
        vocabulary: tokens that it knows.
        text_dim: width of an embedding.
        ffn_dim: width within a block.
        heads: attention heads.
        head_dim: width of a head.
        layers: blocks.
        buckets: distances between tokens that are told apart, to the left and right together.
    """

    vocabulary: int
    text_dim: int
    ffn_dim: int
    heads: int
    head_dim: int
    layers: int
    buckets: int

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.text_dim, self.ffn_dim, self.heads, self.head_dim)
        # Below 4, half of one direction's buckets is nothing to divide distances by.
        if min(*sizes, self.layers) < 1 or self.buckets < 4 or self.buckets % 2:
            raise CheckpointError(
                f"a UMT5 encoder of {self.layers} blocks, {self.text_dim} wide, with {self.heads} "
                f"heads of {self.head_dim} and {self.buckets} buckets of distances cannot exist; "
                "all sizes are above 0, and the buckets are an even number from 4."
            )

    @property
    def attention_dim(self) -> int:
        """Width of all heads."""
        return self.heads * self.head_dim


UMT5_XXL = UMT5Config(
    vocabulary=256384,
    text_dim=4096,
    ffn_dim=10240,
    heads=64,
    head_dim=64,
    layers=24,
    buckets=32,
)


def umt5_shapes(config: UMT5Config) -> dict[str, tuple[int, ...]]:
    """Give the shapes of all tensors of an encoder, by original Wan name."""
    width, attention, ffn = config.text_dim, config.attention_dim, config.ffn_dim
    block = {
        "norm1.weight": (width,),
        "attn.q.weight": (attention, width),
        "attn.k.weight": (attention, width),
        "attn.v.weight": (attention, width),
        "attn.o.weight": (width, attention),
        "pos_embedding.embedding.weight": (config.buckets, config.heads),
        "norm2.weight": (width,),
        "ffn.gate.0.weight": (ffn, width),
        "ffn.fc1.weight": (ffn, width),
        "ffn.fc2.weight": (width, ffn),
    }
    return {
        "token_embedding.weight": (config.vocabulary, width),
        **{
            f"blocks.{layer}.{name}": shape
            for layer in range(config.layers)
            for name, shape in block.items()
        },
        "norm.weight": (width,),
    }


def make_stack(config: UMT5Config) -> nn.Module:
    """Build transformers' encoder; under a meta device, without memory for its weights.

    Raises:
        PackageError: if transformers is not installed.
    """
    library = require("transformers", "the UMT5 text encoder")
    described = library.UMT5Config(
        vocab_size=config.vocabulary,
        d_model=config.text_dim,
        d_kv=config.head_dim,
        d_ff=config.ffn_dim,
        num_layers=config.layers,
        num_heads=config.heads,
        relative_attention_num_buckets=config.buckets,
        relative_attention_max_distance=_MAX_DISTANCE,
        dropout_rate=0.0,
        layer_norm_epsilon=_EPS,
        feed_forward_proj="gated-gelu",
        # Of all its ways the one that every version of the library has.
        attn_implementation="eager",
    )
    # The stack alone: the model around it holds the vocabulary's table under a second name.
    stack: nn.Module = library.UMT5EncoderModel(described).get_encoder()
    return stack


class _Shield(nn.Module):
    """A layer whose weight cannot be seen from outside."""

    weight = None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        """Apply the layer."""
        return self.layer(tokens)


def shield_packed(stack: nn.Module) -> None:
    """Keep transformers from rounding what goes into a layer whose weight is packed.

    It brings what enters ``wo`` to the format of that layer's weight; were that one of 8 bits,
    most of the text would be lost. It does so only where there is a weight to look at.
    """
    layers: dict[str, nn.Module] = dict(cast("Any", stack).named_modules())
    for name, layer in layers.items():
        if name.endswith(".wo") and not isinstance(layer, nn.Linear):
            stack.set_submodule(name, _Shield(layer))


def check_tokenizer(tokenizer: Tokenizer, config: UMT5Config, *, source: str) -> None:
    """Refuse a tokenizer that is not the encoder's.

    Args:
        source: the encoder's file, for the message.

    Raises:
        CheckpointError: if their vocabularies differ by more than what is unused.
    """
    unused = config.vocabulary - tokenizer.vocabulary
    if not (0 <= unused <= _MOST_UNUSED and tokenizer.end < config.vocabulary):
        raise CheckpointError(
            f"the tokenizer in {tokenizer.source} has {tokenizer.vocabulary} tokens, but the text "
            f"encoder {source} has {config.vocabulary}; use the tokenizer that belongs to it (of "
            "Wan's: spiece.model of google/umt5-xxl)."
        )


class UMT5Encoder(TextEncoder):
    """Embed a prompt with UMT5."""

    def __init__(self, config: UMT5Config, stack: nn.Module, tokenizer: Tokenizer) -> None:
        """Join an encoder and its tokenizer.

        Args:
            stack: of ``make_stack``, with its weights.
            tokenizer: checked by ``check_tokenizer``.
        """
        super().__init__()
        self.config = config
        self.stack = stack
        self.tokenizer = tokenizer

    def encode(self, prompt: str, *, max_tokens: int) -> Float[Tensor, "1 l d"]:
        """Embed a prompt, with the token that ends it; an empty one is that token alone."""
        ids = self.tokenizer.encode(prompt, max_tokens=max_tokens)
        device = next(self.stack.parameters()).device
        embedded: Any = self.stack(input_ids=torch.tensor([ids], device=device))
        return embedded.last_hidden_state

    def layers(self) -> Sequence[nn.Module]:
        """List the encoder's blocks."""
        return tuple(cast("Any", self.stack).block)
