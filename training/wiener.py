"""Stage II before its first step: a DiT that answers with the best linear estimate.

What a reference has lost of a patch can be told in part from the patch itself. The best linear
guess, by least squares over training clips, is built into the embedding: the answer begins as the
noisy latent minus that guess. Where clips say little, the guess is the reference as it is. Next to
it stands the reference in its own main components.

Heads know where to look from the start: at clean frames (the picture, finished neighbors) in the
same place, at the four sides in the own frame, at the frames next in time. What they are to do
with it is learned.
"""

from dataclasses import dataclass

import torch
from torch import nn

from swift_core.geometry import PixelShape
from swift_core.model.attention import SelfAttention
from swift_core.model.blocks import DiTBlock
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.model.patches import fold_patches
from swift_core.shapes import Float, Tensor
from swift_core.vae.autoencoder import WanVAE

from .data import ClipMaker, ClipStyle
from .dits import Layout, fit_time, make_dit
from .references import encode_batch, shrink
from .rotary import Rows

NATURAL_PARTS = ClipStyle(
    photographs=0.85, mixing=0.3, sprites=1, closeness=1.0, steady=False, view=512
)
"""For Stage II: parts of large views, as sharp and as fast as those."""

LIFT = 120.0
"""Size of the constant features. The estimate is to come out as it was built: with 40, as in Stage
I, norms bend it by a tenth of a decibel."""

RIDGE = 0.5
"""How strongly the estimate is held to the reference, beside the mean variance of its features."""

COMPONENTS = 110
"""Most features for the reference itself."""

COMPONENT_SIZE = 0.4
"""Their deviation: small, because patches differ much, and a norm feels that."""

CLEAN_SIZE = 6.0
"""Size of what tells clean frames, before and after its SiLU."""

CLEAN_SCORE = 8.0
NEAR_SCORES = (10.0, 10.0, 8.0)
WIDE_SCORES = (2.0, 4.0, 4.0)
"""What the three fastest frequencies of an axis add to a score at one place, or around it."""

OWN_FRAME = (16.0, 10.0, 6.0)
NEXT_FRAMES = (0.0, 6.0, 6.0)
LAST_FRAMES = (0.0, 0.0, 3.0)
"""The same over time."""

NOTE_SIZE = 0.15
BEND_SIZE = 0.8
"""Size of weights that note what heads saw, and of those that feed-forwards bend by."""

CONTENT = 0.3
"""Size of what tokens themselves add to queries and keys, at first."""


@dataclass(frozen=True, kw_only=True)
class ReferenceFit:
    """What can be said linearly of a patch's truth, features in the head's order.

    Attributes:
        weight: from the reference's patch to the best estimate of the true one.
        offset: of that estimate.
        mean: of the reference's patches.
        components: their main directions, scaled to ``COMPONENT_SIZE``.
    """

    weight: Float[Tensor, "f f"]
    offset: Float[Tensor, " f"]
    mean: Float[Tensor, " f"]
    components: Float[Tensor, "n f"]


def _patches(latent: Float[Tensor, "b c t h w"], config: DiTConfig) -> Float[Tensor, "n f"]:
    """Cut all frames but the first into patches, in the head's order: row, column, channel."""
    folded = fold_patches(latent[:, :, 1:].float().cpu(), config.patch).flatten(0, 2)
    sides = (config.out_channels, config.patch.height * config.patch.width)
    return folded.unflatten(1, sides).mT.flatten(1).double()


@torch.no_grad()
def fit_reference(
    config: DiTConfig, vae: WanVAE, clips: ClipMaker, shape: PixelShape, *, count: int
) -> ReferenceFit:
    """Find the best linear estimate of the truth from a reference as in use."""
    size = config.out_channels * config.patch.height * config.patch.width
    square, product = torch.zeros((2, size + 1, size + 1), dtype=torch.float64)
    tokens = 0
    for index in range(count):
        made = clips.make(3 * 10**8 + index, count=1, shape=shape, style=NATURAL_PARTS)
        batch = encode_batch(made.pixels, shrink(made.pixels), made.moves, vae)
        shown, true = _patches(batch.reference, config), _patches(batch.clean, config)
        columns = torch.cat((shown, torch.ones_like(shown[:, :1])), dim=1)
        square += columns.T @ columns
        product[:, :-1] += columns.T @ true
        tokens += len(shown)
    mean = square[-1, :-1] / tokens
    spread = square[:-1, :-1] / tokens - torch.outer(mean, mean)
    ridge = RIDGE * spread.diagonal().mean() * tokens * torch.eye(size)
    square[:-1, :-1] += ridge
    product[:-1, :-1] += ridge
    found = torch.linalg.solve(square, product[:, :-1])
    sizes, directions = torch.linalg.eigh(spread)
    kept = min(COMPONENTS, size)
    components = directions[:, -kept:] * (COMPONENT_SIZE / sizes[-kept:].clamp(min=1e-6).sqrt())
    return ReferenceFit(
        weight=found[:-1].T.float(),
        offset=found[-1].float(),
        mean=mean.float(),
        components=components.flip(1).T.float(),
    )


def make_refining_dit(config: DiTConfig, fit: ReferenceFit, *, seed: int) -> WanDiT:
    """Build a Stage II that answers with the best linear estimate, whatever the noise level."""
    layout = Layout(answer=len(fit.mean), named=len(fit.components), lift=LIFT)
    energy = COMPONENT_SIZE**2 * len(fit.components)
    dit = make_dit(config, layout, energy=energy, seed=seed)
    with torch.no_grad():
        _embed(dit, layout, fit)
        _tell_clean(dit, layout)
        for number, block in enumerate(dit.blocks):
            assert isinstance(block, DiTBlock)
            near = NEAR_SCORES if number == 0 else WIDE_SCORES
            _build_looks(block.self_attn, config, layout, near)
            _build_reading(block, config, layout)
    return dit


def _embed(dit: WanDiT, layout: Layout, fit: ReferenceFit) -> None:
    """Take the estimate off the answer, and embed the reference's components."""
    config = dit.config
    weight, bias = dit.patch_embedding.weight, dit.patch_embedding.bias
    assert bias is not None, "Wan's embedding has a bias"
    shown = slice(config.in_channels - config.out_channels, config.in_channels)
    sides = (config.patch.height, config.patch.width, config.out_channels)
    named = slice(layout.first_named, layout.first_free)
    for rows, map_, offset in (
        (slice(0, layout.answer), -fit.weight, -fit.offset),
        (named, fit.components, -fit.components @ fit.mean),
    ):
        laid_out = map_.unflatten(1, sides).permute(0, 3, 1, 2)
        weight[rows, shown, 0] += laid_out
        bias[rows] += offset


def _tell_clean(dit: WanDiT, layout: Layout) -> None:
    """Let the zero feature be 1 in clean frames, in what attention reads only."""
    feature = dit.config.dim - 1
    readout, projection = dit.time_embedding[2], dit.time_projection[1]
    row, offset = fit_time(dit, lambda sigma: CLEAN_SIZE * torch.where(sigma > 0, -1.0, 1.0))
    readout.weight[feature], readout.bias[feature] = row, offset
    projection.weight[layout.zero, feature] = 1 / CLEAN_SIZE


def _build_looks(
    attention: SelfAttention, config: DiTConfig, layout: Layout, near: tuple[float, ...]
) -> None:
    """Let heads look at clean frames, at the four sides, and along time."""
    attention.q.weight.mul_(CONTENT)
    attention.k.weight.mul_(CONTENT)
    sides = ((1, 0), (-1, 0), (0, 1), (0, -1))
    for head in range(config.heads):
        rows = Rows(config, head)
        kind = head % 6
        across, down = sides[kind - 1] if 1 <= kind <= 4 else (0, 0)
        time = {0: LAST_FRAMES, 5: NEXT_FRAMES}.get(kind, OWN_FRAME)
        rows.point(attention, "t", time)
        rows.point(attention, "w", near, at=across)
        rows.point(attention, "h", near, at=down)
        if kind == 0:
            row, size = rows.pair("t", rows.slowest), rows.size(CLEAN_SCORE)
            attention.q.bias[row] += size
            attention.k.weight[row, layout.zero] += 2 * size
    token = torch.zeros(config.dim)
    token[layout.answer] = (config.dim / 2) ** 0.5
    token[layout.answer + 1] = -token[layout.answer]
    for norm, layer in ((attention.norm_q, attention.q), (attention.norm_k, attention.k)):
        norm.weight.fill_(float(layer(token).square().mean().sqrt()))


def _build_reading(block: DiTBlock, config: DiTConfig, layout: Layout) -> None:
    """Let branches read what is no noise, and note for later what they saw.

    Values of clean frames are what the estimate would miss there, as far as a head can hold it;
    those of others are the reference's components. Feed-forwards bend components and notes.
    """
    values, out = block.self_attn.v, block.self_attn.o
    into = block.ffn.get_submodule("0")
    assert isinstance(into, nn.Linear)
    assert into.bias is not None
    free = slice(layout.first_free, config.dim)
    for head in range(config.heads):
        mine = slice(head * config.head_dim, (head + 1) * config.head_dim)
        values.weight[mine] = 0
        first, last = (0, layout.answer) if head % 6 == 0 else (layout.first_named, free.start)
        shape = (config.head_dim, last - first)
        values.weight[mine, first:last] = nn.init.orthogonal_(torch.empty(shape))
    nn.init.normal_(out.weight[free], std=NOTE_SIZE)
    named = slice(layout.first_named, config.dim)
    into.weight.zero_()
    nn.init.normal_(into.weight[:, named], std=BEND_SIZE)
    nn.init.normal_(into.bias, std=0.7)
