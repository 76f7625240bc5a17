"""Fresh DiTs and word encoders, so begun that they know at once what is easy."""

import math

import torch
from torch import nn

from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.text.words import WordConfig, WordEncoder

SIDE_GAIN = 0.25
"""Size of the token features that do not belong to the first answer."""


def make_dit(config: DiTConfig, *, seed: int) -> WanDiT:
    """Build a DiT whose first answer is that the clean latent is what it is shown.

    Branches end in zeros, so that tokens go straight from the embedding to the head. The embedding
    gives the noisy latent minus the shown one (Stage II's reference, Stage I's picture and grey),
    and the head's norm brings that to the size of a velocity, whatever the noise level: noise
    minus shown. What is left to learn is the difference to the truth.
    """
    torch.manual_seed(seed)
    dit = WanDiT(config)
    for name, module in dit.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            if name.endswith((".o", "ffn.2")):
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
    # The head adds this to its shift and scale as it is; at full size it would be noise there.
    dit.time_embedding[2].weight.data *= 0.02
    _answer_with_shown(dit)
    return dit


@torch.no_grad()
def _answer_with_shown(dit: WanDiT) -> None:
    config = dit.config
    embedding, out = dit.patch_embedding.weight, dit.head.head.weight
    features, dim = out.shape
    assert features <= dim, "a token must hold a whole patch of velocity"
    nn.init.zeros_(dit.patch_embedding.bias)
    inputs = embedding[0].numel()
    rows = nn.init.orthogonal_(torch.empty(dim, inputs))
    embedding.copy_(SIDE_GAIN * rows.view(embedding.shape))
    embedding[:features] = 0
    shown = config.in_channels - config.out_channels
    for feature in range(features):
        # The head's order is height, width, channel.
        place, channel = divmod(feature, config.out_channels)
        row, column = divmod(place, config.patch.width)
        embedding[feature, channel, 0, row, column] = 1
        embedding[feature, shown + channel, 0, row, column] = -1
    # A velocity is a difference of two latents of deviation 1; a norm leaves deviation 1.
    nn.init.zeros_(out)
    out[:, :features] = math.sqrt(2 * features / dim) * torch.eye(features)


def make_words(config: WordConfig, *, seed: int) -> WordEncoder:
    """Build a word encoder."""
    torch.manual_seed(seed)
    return WordEncoder(config)
