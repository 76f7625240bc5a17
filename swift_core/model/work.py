"""How large a DiT is, and how much arithmetic its forward is, from its numbers alone."""

from .config import DiTConfig


def dit_flops(config: DiTConfig, *, tokens: int, context_tokens: int = 0) -> int:
    """Count the multiplications and additions of one forward of one clip.

    The prompt's keys and values are not counted: they are computed once per clip. Timesteps are
    per latent frame and cost next to nothing. Factors of LoRAs beside its layers are not counted
    either: at rank 64 they add about 2 %.

    Args:
        tokens: that go through the DiT blocks.
        context_tokens: that are only attended to, with keys and values already known.

    Oracle: torch's FlopCounterMode, tests/unit/test_dit_work.py.
    """
    dim, patch = config.dim, config.patch
    patch_size = patch.time * patch.height * patch.width
    projections = 6 * dim * dim + 2 * dim * config.ffn_dim
    attention = 2 * dim * (tokens + context_tokens + config.text_tokens)
    ends = patch_size * dim * (config.in_channels + config.out_channels)
    return 2 * tokens * (config.layers * (projections + attention) + ends)


def dit_parameters(config: DiTConfig) -> int:
    """Count a DiT's parameters.

    Oracle: the module itself, tests/unit/test_dit_work.py.
    """
    dim, patch = config.dim, config.patch
    patch_size = patch.time * patch.height * patch.width
    embeddings = (
        _linear(patch_size * config.in_channels, dim)
        + _linear(config.text_dim, dim)
        + _linear(config.frequency_dim, dim)
        + 2 * _linear(dim, dim)
        + _linear(dim, 6 * dim)
    )
    head = _linear(dim, patch_size * config.out_channels) + 2 * dim
    return embeddings + config.layers * block_parameters(config) + head


def block_parameters(config: DiTConfig) -> int:
    """Count the parameters of one DiT block."""
    dim = config.dim
    attention = 4 * _linear(dim, dim) + 2 * dim  # and the norms of queries and keys
    feed_forward = _linear(dim, config.ffn_dim) + _linear(config.ffn_dim, dim)
    return 2 * attention + feed_forward + 2 * dim + 6 * dim  # and a norm, and the modulation


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
