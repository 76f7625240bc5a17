"""How near one picture is to another."""

import math

from ..shapes import Float, Tensor


def psnr(picture: Float[Tensor, "*axes"], truth: Float[Tensor, "*axes"]) -> float:
    """Give the peak signal-to-noise ratio in dB, for values in [0, 1]; infinite if equal."""
    error = (picture.double() - truth.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)
