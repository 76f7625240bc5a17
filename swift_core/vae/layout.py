"""How tensors lie in memory: channels last, as convolutions read them fastest."""

from typing import TypeVar

import torch
from torch import nn

from ..shapes import Tensor

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def prepare(vae: ModuleT) -> ModuleT:
    """Lay the weights out channels-last, as the convolutions read them, and give the VAE back.

    Worth it once after loading: convolutions then need not reorder weights in every call. Values
    and results stay the same. ``Module.to(memory_format=...)`` cannot do it, because it takes one
    format for pictures' and videos' convolutions alike.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = channels_last(module.weight.data)
        elif isinstance(module, nn.Conv2d):
            weight = module.weight.data
            module.weight.data = weight.contiguous(memory_format=torch.channels_last)
    return vae


def channels_last(features: Tensor) -> Tensor:
    """Lay features or weights of three dimensions out as convolutions read them."""
    return features.contiguous(memory_format=torch.channels_last_3d)
