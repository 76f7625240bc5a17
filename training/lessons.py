"""Steering lessons: Stage I's first feed-forwards learn where a named move takes the view.

The way from every place of a later frame to its source in frame 0 is known exactly, so it is taught
directly: the phases that the steering DiT blocks write are compared with the true ones. No picture
matters here, and no noise: the feed-forwards read cues, words and phases only, or they would know
places by the noise that is drawn there. So the tokens of one long clip, as they come out of the
first attention, serve for all lessons: words are added to some of them, and only the feed-forwards
are computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from swift_core.model.blocks import DiTBlock
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.shapes import Float, Tensor
from swift_core.text.words import WordEncoder
from swift_core.vae.config import Compression

from .chance import choose, generator, whole
from .copyfit import Features
from .copying import PHASE_SIZE, STEERING_BLOCKS, WORDS_SIZE
from .dits import WORD_SIZE
from .moves import SPEED_WORDS, draw_move
from .prompts import WORD_GROUPS, bucket_prompt
from .sizes import MASK_CHANNELS
from .steering import Grid, displacement, phases

FRAMES = 16
"""Latent frames of the clip whose tokens are learned from: 61 pixel frames."""

NOISES = 3
"""How many times it is drawn."""

MOVES = 32
TOKENS = 48
"""Moves in a lesson, and tokens for each."""

RATE = 2e-3
WARM_LESSONS = 50
FALL = 0.6
LOUDNESS_PRICE = 1e-4
"""Of free features, per unit of a token's sum of squares."""

FIRST_SHARE = 0.3
"""What the phases after the first DiT block count, beside those after the last."""


def phase_loss(
    written: Sequence[Float[Tensor, "*b d"]], ways: Float[Tensor, "*b 2"], config: DiTConfig
) -> Float[Tensor, ""]:
    """Compare what tokens hold as phases, after each steering block, with the true ones.

    An error counts less the longer the way is, or fast and long clips would be all that is learned.
    """
    features = Features(channels=config.out_channels)
    held = slice(features.phases, features.phases + features.phase_count)
    true = phases(ways, config)
    share = 1 / (1 + ways.norm(dim=-1))
    share = share / share.mean()
    errors = [
        ((tokens[..., held] / PHASE_SIZE - true).square().mean(-1) * share).mean()
        for tokens in written
    ]
    return FIRST_SHARE * torch.stack(errors[:-1]).sum() + errors[-1]


@contextmanager
def listening(dit: WanDiT) -> Iterator[list[Float[Tensor, "b t s d"]]]:
    """Collect what the steering blocks write, call after call."""
    written: list[Tensor] = []
    blocks = dit.blocks[:STEERING_BLOCKS]
    hooks = [
        block.register_forward_hook(lambda _b, _i, out: written.append(out[0])) for block in blocks
    ]
    try:
        yield written
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def cue_tokens(dit: WanDiT, given: Float[Tensor, "1 c 2 h w"], seed: int) -> Float[Tensor, "n k d"]:
    """Give the tokens that the first feed-forward meets without a prompt, drawn several times.

    Args:
        given: the latent of a picture, and of a grey frame behind it.
    """
    block = dit.blocks[0]
    assert isinstance(block, DiTBlock)
    made: list[Tensor] = []
    kept: list[Tensor] = []
    hook = block.ffn.register_forward_hook(lambda _b, _i, out: kept.append(out))
    shown = given[:, :, [0] + [1] * (FRAMES - 1)]
    mask = shown.new_zeros((1, MASK_CHANNELS, *shown.shape[2:]))
    mask[:, :, 0] = 1
    silence = dit.read_prompt(shown.new_zeros((1, 0, dit.config.text_dim)))
    for number in range(NOISES):
        noise = torch.randn(shown.shape, generator=generator(seed, 7, number)).to(shown.device)
        latent = torch.cat((noise, mask, shown), dim=1)
        with listening(dit) as written:
            dit(latent, torch.full((1, FRAMES), 1000.0), silence, positions=range(FRAMES))
        made.append((written[0] - kept[number]).flatten(0, 2))
    hook.remove()
    return torch.stack(made)


def teach_steering(
    dit: WanDiT,
    words: WordEncoder,
    given: Float[Tensor, "1 c 2 h w"],
    compression: Compression,
    *,
    seed: int,
    lessons: int,
) -> float:
    """Teach the steering feed-forwards, and give the loss of the last hundred lessons."""
    base = cue_tokens(dit, given, seed)
    grid = Grid(height=given.shape[3], width=given.shape[4], compression=compression)
    ffns = [block.ffn for block in dit.blocks[:STEERING_BLOCKS] if isinstance(block, DiTBlock)]
    optimizer = torch.optim.Adam([p for ffn in ffns for p in ffn.parameters()], betas=(0.9, 0.98))
    last: list[float] = []
    for lesson in range(lessons):
        tokens, ways = _draw_lesson(base, words, grid, dit.config, generator(seed, 8, lesson))
        written: list[Tensor] = []
        for ffn in ffns:
            tokens = tokens + _apply(ffn, tokens, dit.config.eps)
            written.append(tokens)
        loss = phase_loss(written, ways, dit.config) + _quiet(tokens, dit.config)
        rise = min(1.0, (lesson + 1) / WARM_LESSONS)
        for group in optimizer.param_groups:
            group["lr"] = RATE * rise * min(1.0, (1 - lesson / lessons) / FALL)
        optimizer.zero_grad()
        loss.backward()
        for ffn in ffns:
            _keep_to_steering(ffn, dit.config)
        optimizer.step()
        last = [*last[-99:], float(loss.detach())]
    return sum(last) / max(1, len(last))


def _quiet(tokens: Float[Tensor, "n d"], config: DiTConfig) -> Float[Tensor, ""]:
    """Price what is written to free features: a norm on the way to the answer feels it."""
    free = tokens[:, Features(channels=config.out_channels).layout.first_free :]
    return LOUDNESS_PRICE * free.square().sum(1).mean()


def _keep_to_steering(ffn: nn.Module, config: DiTConfig) -> None:
    """Let a feed-forward read what has a name, and write nothing but phases and free features."""
    features = Features(channels=config.out_channels)
    read = ffn.get_parameter("0.weight")
    if read.grad is not None:
        read.grad[:, : features.mask] = read.grad[:, features.layout.first_free :] = 0
    for parameter in ffn.get_submodule("2").parameters():
        if parameter.grad is not None:
            parameter.grad[: features.phases] = 0


def _apply(ffn: nn.Module, tokens: Float[Tensor, "n d"], eps: float) -> Float[Tensor, "n d"]:
    return ffn(F.layer_norm(tokens, tokens.shape[-1:], eps=eps))


@torch.no_grad()
def _draw_lesson(
    base: Float[Tensor, "n k d"],
    words: WordEncoder,
    grid: Grid,
    config: DiTConfig,
    draw: torch.Generator,
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m 2"]]:
    """Draw moves and tokens; tell the tokens the words, and find their ways."""
    features = Features(channels=config.out_channels)
    told = slice(features.words, features.words + len(WORD_GROUPS))
    speeds = tuple(SPEED_WORDS.values())
    tokens: list[Tensor] = []
    ways: list[Tensor] = []
    for _ in range(MOVES):
        move = draw_move(draw, speed=choose(draw, speeds))
        said = bucket_prompt(draw, words, move, max_tokens=config.text_tokens)
        counts = words.words(said).sum(0)[: len(WORD_GROUPS)] / WORD_SIZE
        # Frame 0 needs no way: its heads look away.
        chosen = torch.randint(grid.height * grid.width, base.shape[1], (TOKENS,), generator=draw)
        drawn = base[whole(draw, 0, len(base)), chosen]
        drawn[:, told] += WORDS_SIZE * counts
        tokens.append(drawn)
        way = displacement(move, torch.arange(FRAMES), grid).flatten(0, 2)
        ways.append(way[chosen].to(base.device))
    return torch.cat(tokens), torch.cat(ways)
