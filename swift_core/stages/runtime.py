"""Where a run computes, in which number formats, and who is told."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from ..model.attention_backends import FastAttention, use_attention
from ..precision import Precision
from ..progress import Observer, ignore
from ..shapes import Float, Tensor
from ..weights.model_set import Slot

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What every stage of a run needs beside its data.

    Attributes:
        device: where models and latents are.
        precision: number formats of the models; latents are fp32 between steps.
        observe: told of every step and chunk; what it raises passes through every stage.
        free_nbytes: asked how much memory a VAE may take beside its weights; None: as it wants.
        attention: what computes the self-attention of DiTs; None is PyTorch's own.
    """

    device: torch.device
    precision: Precision
    observe: Observer = ignore
    free_nbytes: Callable[[], int] | None = None
    attention: FastAttention | None = None

    def load(self, slot: Slot[ConfigT, ModuleT]) -> ModuleT:
        """Load a model of a set onto the device; it is gone when the caller lets go of it."""
        model = slot.load(self.precision).to(self.device)
        use_attention(model, self.attention)
        return model

    def place(self, tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Bring a tensor to the device, in the compute format."""
        return tensor.to(self.device, self.precision.compute)
