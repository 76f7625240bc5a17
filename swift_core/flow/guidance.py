"""Classifier-free guidance."""

from ..shapes import Float, Tensor


def guide(
    conditional: Float[Tensor, "b c t h w"],
    unconditional: Float[Tensor, "b c t h w"],
    *,
    cfg: float,
) -> Float[Tensor, "b c t h w"]:
    """Push the velocity away from what the negative prompt gives; ``cfg`` 1 leaves it alone."""
    return unconditional + cfg * (conditional - unconditional)
