"""Deterministic weights for tests: nothing is zero, nothing is equal, nothing explodes."""

import math

import torch


def sine_ramp_(module):
    """Fill every parameter with a sine of its own frequency, scaled by its fan-in."""
    for index, (name, parameter) in enumerate(module.named_parameters()):
        ramp = torch.arange(parameter.numel(), dtype=torch.float64)
        wave = torch.sin(ramp * (0.37 + 0.011 * (index % 97)) + index)
        if "gamma" in name or ("norm" in name and name.endswith("weight")):
            wave = 1 + 0.3 * wave
        elif parameter.dim() > 1:
            wave = wave * math.sqrt(2 / parameter[0].numel())
        else:
            wave = 0.1 * wave
        parameter.data = wave.reshape(parameter.shape).float()
    return module
