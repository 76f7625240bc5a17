"""A model whose layers come to the device one after the other, and leave again.

For models that work once or twice in a run, such as text encoders: nothing is kept ready, because
nothing would wait for it again. Weights in host memory stay as they were loaded.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def visit_by_layer(model: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> None:
    """Put all of a model but its layers onto a device; each layer is there only while it works.

    Args:
        model: on the CPU.
        layers: of the model, none within another, called one after the other.
    """
    apart = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if id(module) not in apart:
            _move_own(module, device)
    for layer in layers:
        _Visit(layer, device)


def _move_own(module: nn.Module, device: torch.device) -> None:
    """Move what belongs to a module itself, not to those within."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))


class _Visit:
    """A layer that is on the device from the beginning of its call to the end."""

    def __init__(self, layer: nn.Module, device: torch.device) -> None:
        for module in layer.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        self._parameters = tuple(layer.parameters())
        self._home = tuple(parameter.data for parameter in self._parameters)
        self._device = device
        layer.register_forward_pre_hook(self._arrive)
        layer.register_forward_hook(self._leave, always_call=True)

    def _arrive(self, *_: Any) -> None:
        for parameter, tensor in zip(self._parameters, self._home, strict=True):
            parameter.data = tensor.to(self._device)

    def _leave(self, *_: Any) -> None:
        for parameter, tensor in zip(self._parameters, self._home, strict=True):
            parameter.data = tensor
