"""Fresh DiTs and word encoders, and what makes a DiT's first answer exact.

A fresh DiT keeps the noisy latent in its first features, the *answer*. All that a layer takes away
from them is its estimate of the clean latent; what is left, over sigma, is the velocity. Three
things make that hold through the norms on the way:

- **Lift.** Two constant features, far larger than the rest, hold the norm's deviation in place, so
  that it is a plain factor. The larger they are the more exactly, and the less branches see of all
  else.
- **A zero feature** next to the answer: its difference to the answer is free of the norm's mean.
- **1 / sigma** is the head's scale: the time embedding holds it, fitted by least squares.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.model.modulation import timestep_sinusoids
from swift_core.shapes import Float, Tensor
from swift_core.text.words import WordConfig, WordEncoder

from .prompts import WORD_GROUPS

SIDE_GAIN = 0.1
"""Size of the features that begin as a mixture of everything."""

LEAST_SIGMA = 0.25
"""Below this noise level the velocity is no longer scaled up: an error there hardly moves a
latent."""

WORD_SIZE = 4.0
"""Size of a camera word's feature."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which features of a token hold what, at first.

    Attributes:
        answer: how many hold the answer; they come first.
        named: how many after the lift, the zero and the answer have a meaning.
        lift: size of the two constant features.
    """

    answer: int
    named: int = 0
    lift: float = 40.0

    @property
    def zero(self) -> int:
        """Give the feature that stays zero."""
        return self.answer + 2

    @property
    def first_named(self) -> int:
        """Give the first feature with a meaning of its own."""
        return self.answer + 3

    @property
    def first_free(self) -> int:
        """Give the first feature that is a mixture of everything."""
        return self.first_named + self.named


def deviation(config: DiTConfig, layout: Layout, energy: float) -> float:
    """Give the deviation that the norm finds in a token.

    Args:
        energy: sum of squares of all features but the lift.
    """
    return ((2 * layout.lift**2 + energy) / config.dim) ** 0.5


def make_dit(config: DiTConfig, layout: Layout, *, energy: float, seed: int) -> WanDiT:
    """Build a DiT whose answer is the noisy latent: it takes the clean latent for zero.

    Branches end in zeros, so that tokens go straight from the embedding to the head.

    Args:
        energy: sum of squares of the features that are neither answer nor lift, about.
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
    _embed_answer(dit, layout)
    _answer_velocity(dit, layout, energy)
    return dit


@torch.no_grad()
def _embed_answer(dit: WanDiT, layout: Layout) -> None:
    """Embed the noisy latent as it is, the lift, and mixtures of everything."""
    config = dit.config
    embedding, bias = dit.patch_embedding.weight, dit.patch_embedding.bias
    assert bias is not None, "Wan's embedding has a bias"
    rows = torch.empty(config.dim - layout.first_free, embedding[0].numel())
    nn.init.zeros_(embedding)
    nn.init.zeros_(bias)
    embedding[layout.first_free :] = SIDE_GAIN * nn.init.orthogonal_(rows).view(
        -1, *embedding.shape[1:]
    )
    for feature in range(layout.answer):
        # The head's order is height, width, channel.
        place, channel = divmod(feature, config.out_channels)
        row, column = divmod(place, config.patch.width)
        embedding[feature, channel, 0, row, column] = 1
    bias[layout.answer] = layout.lift
    bias[layout.answer + 1] = -layout.lift


@torch.no_grad()
def _answer_velocity(dit: WanDiT, layout: Layout, energy: float) -> None:
    """Let the head give the answer over sigma."""
    size = deviation(dit.config, layout, energy + layout.answer)
    out = dit.head.head.weight
    nn.init.zeros_(out)
    out[:, : layout.answer] = size * torch.eye(layout.answer)
    # The head adds the time embedding to its shift as well; here it is taken away again.
    out[:, layout.zero] = -size
    hidden, readout = dit.time_embedding[0], dit.time_embedding[2]
    nn.init.normal_(hidden.bias)
    nn.init.orthogonal_(readout.weight, gain=0.02)

    def scale(sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        # The answer is about sigma times noise, and counts in the norm.
        noise = layout.answer * sigma.square()
        norm = (2 * layout.lift**2 + energy + noise) / dit.config.dim
        return norm.sqrt() / size / sigma.clamp(min=LEAST_SIGMA) - 1

    row, offset = fit_time(dit, scale)
    for feature in (*range(layout.answer), layout.zero):
        readout.weight[feature], readout.bias[feature] = row, offset


@torch.no_grad()
def fit_time(dit: WanDiT, wanted: Callable[[Tensor], Tensor]) -> tuple[Float[Tensor, " d"], float]:
    """Find weights that read a function of sigma off the time embedding's hidden features."""
    timesteps = torch.linspace(0, 1000, 4001)
    sinusoids = timestep_sinusoids(timesteps[None], dit.config.frequency_dim)[0]
    hidden = F.silu(dit.time_embedding[0](sinusoids)).double()
    columns = torch.cat((hidden, torch.ones_like(hidden[:, :1])), dim=1)
    square = columns.T @ columns
    ridge = 1e-7 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    found = torch.linalg.solve(square + ridge, columns.T @ wanted(timesteps / 1000).double())
    return found[:-1].float(), float(found[-1])


def make_words(config: WordConfig) -> WordEncoder:
    """Build a word encoder in which camera words have a feature each, and all others are nothing.

    Words that mean the same share a feature. A word that is nothing is what prompts are padded
    with, so it changes nothing, however training goes on.
    """
    words = WordEncoder(config)
    with torch.no_grad():
        words.words.weight.zero_()
        for feature, group in enumerate(WORD_GROUPS):
            for bucket in words.bucket(" ".join(group)).tolist():
                words.words.weight[bucket, feature] = WORD_SIZE
    return words
