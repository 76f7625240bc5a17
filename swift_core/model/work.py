"""How much arithmetic a DiT forward is, from its numbers alone."""

from .config import DiTConfig


def dit_flops(config: DiTConfig, *, tokens: int, context_tokens: int = 0) -> int:
    """Count the multiplications and additions of one forward of one clip.

    The prompt's keys and values are not counted: they are computed once per clip. Timesteps are
    per latent frame and cost next to nothing.

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
