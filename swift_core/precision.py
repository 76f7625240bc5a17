"""Which number formats a model's weights and its arithmetic use."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Number formats of one model.

    Attributes:
        weights: format in which parameters are held, but for the model's fp32 islands.
        compute: format of the activations.
    """

    weights: torch.dtype
    compute: torch.dtype


FP32 = Precision(weights=torch.float32, compute=torch.float32)
BF16 = Precision(weights=torch.bfloat16, compute=torch.bfloat16)
