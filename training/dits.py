"""Fresh DiTs and word encoders, so begun that they say nothing at first and learn at once."""

import torch
from torch import nn

from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.text.words import WordConfig, WordEncoder


def make_dit(config: DiTConfig, *, seed: int) -> WanDiT:
    """Build a DiT: linear layers orthogonal, the ways back into the stream and out at zero."""
    torch.manual_seed(seed)
    dit = WanDiT(config)
    for name, module in dit.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            if name.endswith((".o", "ffn.2")) or name == "head.head":
                nn.init.zeros_(module.weight)
            else:
                nn.init.orthogonal_(module.weight)
    for name, parameter in dit.named_parameters():
        if name.endswith("modulation"):
            nn.init.zeros_(parameter)
            if name != "head.modulation":
                # Gates of the two branches stand open; their last layers are zero instead.
                parameter.data[:, 2] = parameter.data[:, 5] = 1
    nn.init.zeros_(dit.time_projection[1].weight)
    return dit


def make_words(config: WordConfig, *, seed: int) -> WordEncoder:
    """Build a word encoder."""
    torch.manual_seed(seed)
    return WordEncoder(config)
