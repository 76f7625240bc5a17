"""Which number formats a model's weights and its arithmetic use."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Number formats of one model.

    Attributes:
        weights: format in which parameters are held, but for the model's fp32 islands.
        compute: format of the activations.
        fp8_products: multiply 8-bit weights with activations rounded to 8 bits as well, which is
            faster on cards that can, and off by about 2.5 % in each product; otherwise they are
            unpacked as each layer runs, and off by nothing but the compute format.
    """

    weights: torch.dtype
    compute: torch.dtype
    fp8_products: bool = False


FP32 = Precision(weights=torch.float32, compute=torch.float32)
BF16 = Precision(weights=torch.bfloat16, compute=torch.bfloat16)


def is_island(name: str, islands: tuple[str, ...]) -> bool:
    """Tell whether a parameter must be fp32 whatever the rest is."""
    return any(part in name for part in islands)


def dtype_of(name: str, precision: Precision, islands: tuple[str, ...]) -> torch.dtype:
    """Give the format in which a parameter is held."""
    return torch.float32 if is_island(name, islands) else precision.weights
