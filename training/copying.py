"""Stage I before its first step: a DiT that answers with the picture (see ``steering``)."""

import math

import torch
from torch import nn

from swift_core.model.attention import Attention, CrossAttention, SelfAttention
from swift_core.model.blocks import DiTBlock
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.shapes import Float, Tensor

from .copyfit import CopyFit, Features, copying_heads
from .dits import WORD_SIZE, deviation, make_dit
from .prompts import WORD_GROUPS
from .rotary import Rows
from .steering import (
    FREQUENCIES,
    SHARPNESS,
    axis_frequencies,
    offsets,
)

STEERING_BLOCKS = 2
"""How many DiT blocks steer: the feed-forwards that write phases."""

MASK_SIZE = 6.0
CUE_SIZE = 6.0
WORDS_SIZE = 4.0
PHASE_SIZE = 4.0
"""Sizes of the named features."""

ENERGY = 112.0
"""What the named features add to a token's sum of squares, about."""

OWN_FRAME = (16.0, 10.0, 6.0)
"""What the three fastest frequencies of time add to a score within a frame: others fall behind."""

SLOPE = 3.2
TIME_SLOPE = 8.0
TIME_START = 1.5
"""Scores that the cues' heads weigh frame 0 and their own frame with."""

APART = 7.0
"""Score by which copying heads tell frame 0 from all others, twice."""

SPARE = 0.5
"""Size of queries and keys of heads that have no task yet."""

EVEN = 0.03
"""Size of queries to the prompt that look at all words about alike."""


def make_copying_dit(config: DiTConfig, fit: CopyFit, *, seed: int) -> WanDiT:
    """Build a Stage I that answers with the picture standing still, whatever the noise level."""
    features = Features(channels=config.out_channels)
    dit = make_dit(config, features.layout, energy=ENERGY, seed=seed)
    with torch.no_grad():
        _embed(dit, features, fit.grey)
        first, *rest = dit.blocks
        assert isinstance(first, DiTBlock)
        _build_cues(first.self_attn, config, features)
        _build_words(dit, first.cross_attn, features)
        for number, block in enumerate(rest):
            assert isinstance(block, DiTBlock)
            chosen = slice(number * config.heads, (number + 1) * config.heads)
            places = offsets(copying_heads(config))[chosen]
            _build_copies(block.self_attn, config, features, places, fit.maps[chosen])
        for block in dit.blocks[:STEERING_BLOCKS]:
            assert isinstance(block, DiTBlock)
            _prepare_steering(block.ffn, features)
    return dit


def _unit(config: DiTConfig) -> float:
    """Give the deviation that norms find in tokens."""
    layout = Features(channels=config.out_channels).layout
    return deviation(config, layout, ENERGY + config.out_channels)


def _embed(dit: WanDiT, features: Features, grey: Float[Tensor, " c"]) -> None:
    """Embed picture and mask; take the picture off the answer, and grey off the picture."""
    weight, bias = dit.patch_embedding.weight, dit.patch_embedding.bias
    assert bias is not None, "Wan's embedding has a bias"
    channels = features.channels
    masks = slice(channels, weight.shape[1] - channels)
    share = 1 / (masks.stop - masks.start)
    for channel in range(channels):
        for feature, sign in ((features.picture + channel, 1.0), (channel, -1.0)):
            weight[feature, masks.stop + channel] += sign
            weight[feature, masks] += sign * share * grey[channel]
            bias[feature] -= sign * grey[channel]
    weight[features.mask, masks] = 2 * MASK_SIZE * share
    bias[features.mask] = -MASK_SIZE
    bias[features.phases : features.phases + features.phase_count : 2] = PHASE_SIZE


def _look(attention: Attention, row: int, size: float, *, mask: float, features: Features) -> None:
    """Let a head add to its score in frame 0 (a positive mask) or in all others (a negative)."""
    attention.q.bias[row] = size
    attention.k.weight[row, features.mask] = size / 2 * mask
    attention.k.bias[row] = size / 2


def _nominal(config: DiTConfig, features: Features) -> Float[Tensor, " d"]:
    """Give a token of a later frame as the norm leaves it, without noise and content."""
    token = torch.zeros(config.dim)
    token[features.mask] = -MASK_SIZE
    token[features.phases : features.phases + features.phase_count : 2] = PHASE_SIZE
    return token / _unit(config)


def _set_norms(attention: Attention, token: Float[Tensor, " d"]) -> None:
    """Let the norms of queries and keys leave their size as it was built."""
    for norm, layer in ((attention.norm_q, attention.q), (attention.norm_k, attention.k)):
        norm.weight.fill_(float(layer(token).square().mean().sqrt()))


def _build_cues(attention: SelfAttention, config: DiTConfig, features: Features) -> None:
    """Let three heads tell a token's place: across, down, in time."""
    query, key = attention.q, attention.k
    unit = _unit(config) / MASK_SIZE
    own = sum(OWN_FRAME)
    # The other heads look everywhere, about evenly.
    query.weight.zero_()
    query.bias.copy_(SPARE * torch.randn(config.dim))
    key.weight.mul_(SPARE)
    for head, axis in enumerate("wht"):
        rows = Rows(config, head)
        mine = slice(rows.first, rows.first + config.head_dim)
        for part in (query.bias, key.weight, key.bias, attention.v.weight):
            part[mine] = 0
        for frequency, score in enumerate(OWN_FRAME):
            row, size = rows.pair("t", frequency), rows.size(score)
            _look(attention, row, size, mask=-unit, features=features)
        constant = own + (TIME_START if axis == "t" else 0.0)
        row, size = rows.pair("t", rows.slowest), rows.size(constant)
        _look(attention, row, size, mask=unit, features=features)
        frequency, score = (3, TIME_SLOPE) if axis == "t" else (2, SLOPE)
        row, size = rows.pair(axis, frequency), rows.size(score)
        _look(attention, row, size, mask=unit, features=features)
        if axis != "t":
            # Against each other: frame 0 with the slope, the others down it.
            key.weight[row, features.mask] *= 2
            key.bias[row] = 0
        # A quarter turn makes a cosine, flat at its top, a slope.
        query.bias[row + 1] = query.bias[row]
        query.bias[row] = 0
        attention.v.weight[rows.first, features.mask] = 0.5 * unit
        attention.v.bias[rows.first] = 0.5
        attention.o.weight[features.cues + head, rows.first] = CUE_SIZE
    _set_norms(attention, _nominal(config, features))


def _build_words(dit: WanDiT, attention: CrossAttention, features: Features) -> None:
    """Sum the prompt's words up, by group, in every token."""
    groups = len(WORD_GROUPS)
    into, out = dit.text_embedding[0], dit.text_embedding[2]
    for layer in (into, out):
        layer.weight[:groups] = 0
        layer.weight[:, :groups] = 0
    # GELU lets pass what is large.
    into.weight[:groups, :groups] = 2 * torch.eye(groups)
    out.weight[:groups, :groups] = torch.eye(groups)
    attention.norm_q.weight.fill_(EVEN)
    attention.v.weight[:groups] = 0
    attention.v.weight[:groups, :groups] = torch.eye(groups)
    counted = WORDS_SIZE * dit.config.text_tokens / (2 * WORD_SIZE)
    rows = slice(features.words, features.words + groups)
    attention.o.weight[rows, :groups] = counted * torch.eye(groups)


def _build_copies(
    attention: SelfAttention,
    config: DiTConfig,
    features: Features,
    places: tuple[tuple[float, float], ...],
    maps: Float[Tensor, "heads c c"],
) -> None:
    """Let every head fetch frame 0 around the source, and take its share off the answer."""
    query, key = attention.q, attention.k
    unit = _unit(config)
    for layer in (query, key, attention.v, attention.o):
        nn.init.zeros_(layer.weight)
    for head, place in enumerate(places):
        rows = Rows(config, head)
        for axis, name in enumerate("wh"):
            for index, frequency in enumerate(axis_frequencies(config)):
                row, size = rows.pair(name, FREQUENCIES[index]), rows.size(SHARPNESS[index])
                feature = features.phases + 2 * (axis * len(FREQUENCIES) + index)
                turn = frequency * place[axis]
                cos, sin = math.cos(turn), math.sin(turn)
                rotation = torch.tensor([[cos, -sin], [sin, cos]]) * size * unit / PHASE_SIZE
                query.weight[row : row + 2, feature : feature + 2] = rotation
                key.bias[row] = size
        row, size = rows.pair("t", rows.slowest), rows.size(APART)
        # Frame 0 itself looks away, and finds nothing: the embedding has it already.
        query.weight[row, features.mask] = -size * unit / MASK_SIZE
        key.weight[row, features.mask] = size * unit / MASK_SIZE
        u, values, v = torch.linalg.svd(maps[head])
        rank = min(config.head_dim, features.channels)
        root = values[:rank].sqrt()
        mine = slice(rows.first, rows.first + rank)
        picture = slice(features.picture, features.picture + features.channels)
        into = unit * root[:, None] * v[:rank]
        attention.v.weight[mine, picture] = into
        # Next to the zero feature a norm's mean falls out.
        attention.v.weight[mine, features.layout.zero] = -into.sum(1)
        attention.o.weight[: features.channels, mine] = -u[:, :rank] * root
    _set_norms(attention, _nominal(config, features))


def _prepare_steering(ffn: nn.Sequential, features: Features) -> None:
    """Let a feed-forward begin with cues, words and phases only, bent at many places."""
    into, out = ffn[0], ffn[2]
    assert isinstance(into, nn.Linear)
    assert isinstance(out, nn.Linear)
    named = slice(features.mask, features.layout.first_free)
    into.weight.zero_()
    into.weight[:, named] = torch.randn_like(into.weight[:, named])
    nn.init.normal_(into.bias)
    nn.init.zeros_(out.weight)
