"""Deterministic weights for tests: every part of a module matters to what comes out of it."""

import math

import torch


def fill_(module, seed=0):
    """Draw every parameter from a seed of its own: norms around 1, the rest by fan-in."""
    for index, (name, parameter) in enumerate(module.named_parameters()):
        draw = torch.Generator().manual_seed(1000 * seed + index)
        values = torch.randn(parameter.shape, generator=draw)
        if "gamma" in name or ("norm" in name and name.endswith("weight")):
            values = 1 + 0.3 * values
        elif "modulation" in name:
            values = 0.5 * values
        elif parameter.dim() > 1:
            values = values / math.sqrt(parameter[0].numel())
        else:
            values = 0.1 * values
        parameter.data = values
    return module
