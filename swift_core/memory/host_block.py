"""A DiT block's weights in host memory, and how they lie in one piece of memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..locked import aligned
from ..shapes import Tensor


@dataclass(frozen=True, kw_only=True)
class HostBlock:
    """A block's weights in host memory, and where each has its place in a slot."""

    parameters: tuple[nn.Parameter, ...]
    tensors: tuple[Tensor, ...]
    offsets: tuple[int, ...]
    nbytes: int
    slab: Tensor | None = None

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Lay the block's tensors out in a buffer of bytes."""
        return [
            buffer[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for offset, tensor in zip(self.offsets, self.tensors, strict=True)
        ]

    def point_at(self, tensors: Sequence[Tensor]) -> None:
        """Let the block compute with these."""
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor

    def go_home(self) -> None:
        """Let the block have its weights in host memory again."""
        self.point_at(self.tensors)


def read_block(block: nn.Module, device: torch.device) -> HostBlock:
    """Take note of a block's weights, and bring what is no weight to the device for good."""
    for module in block.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    parameters = tuple(block.parameters())
    offsets: list[int] = []
    end = 0
    for parameter in parameters:
        offsets.append(end)
        end += aligned(parameter.nbytes)
    return HostBlock(
        parameters=parameters,
        tensors=tuple(parameter.data for parameter in parameters),
        offsets=tuple(offsets),
        nbytes=end,
    )
