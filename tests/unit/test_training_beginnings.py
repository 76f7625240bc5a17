"""What both DiTs answer before their first step: the picture, moved as told; a linear estimate."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from swift_core.geometry import Patch, PixelShape
from swift_core.vae.config import Compression
from tests.models import SMALL_DIT
from tests.pictures import write_picture_cache
from training import references
from training.chance import generator
from training.closed_form import make_vae
from training.copyfit import CopyFit, Features, copying_heads, fit_copies
from training.copying import CUE_SIZE, PHASE_SIZE, STEERING_BLOCKS, make_copying_dit
from training.data import STEADY, VARIED, ClipMaker
from training.dits import make_words
from training.lessons import cue_tokens, listening, teach_steering
from training.moves import Move
from training.prompts import WORD_GROUPS
from training.references import encode_batch, shrink
from training.refit import Refit
from training.sizes import TINY_DETAIL, TINY_MOTION, TINY_VAE, TINY_WORDS
from training.steering import Grid, displacement, looks, offsets, phases
from training.vae import to_model
from training.wiener import NATURAL_PARTS, ReferenceFit, fit_reference, make_refining_dit

CPU = torch.device("cpu")
CELLS = Compression(time=4, space=8)
MOTION = replace(
    SMALL_DIT,
    in_channels=20,
    dim=96,
    heads=3,
    layers=2,
    text_tokens=16,
    patch=Patch(time=1, height=1, width=1),
)
DETAIL = replace(SMALL_DIT, in_channels=16, dim=96, heads=3, layers=2)
SIGMAS = (1.0, 0.9375, 0.8333, 0.625)


def random_copies(config, seed=0):
    channels = config.out_channels
    draw = generator(seed, 1)
    maps = torch.randn((copying_heads(config), channels, channels), generator=draw)
    # A head can hold no more than its width.
    maps[:, config.head_dim :] = 0
    return CopyFit(grey=torch.randn(channels, generator=draw), maps=maps / len(maps))


def patches(latent):
    """Cut 2x2 patches, features in the head's order: row, column, channel."""
    return latent.unfold(3, 2, 2).unfold(4, 2, 2).permute(0, 2, 3, 4, 5, 6, 1).flatten(4)


def shown_to_stage1(config, fit, picture, frames, *, noise):
    """Lay out what Stage I is shown of a picture, as its recipe and the shipped stage do."""
    channels, height, width = picture.shape
    given = fit.grey[:, None, None, None].expand(-1, frames, height, width).clone()
    given[:, 0] = picture
    mask = torch.zeros((config.in_channels - 2 * channels, frames, height, width))
    mask[:, 0] = 1
    return torch.cat((noise, mask, given))[None]


@pytest.mark.parametrize(
    ("config", "most"), [(MOTION, 0.03), (TINY_MOTION, 5e-3)], ids=["small", "tiny"]
)
def test_a_fresh_stage1_copies_the_picture_whatever_the_noise(config, most):
    fit = random_copies(config)
    dit = make_copying_dit(config, fit, seed=0).requires_grad_(False)
    draw = generator(2)
    picture = torch.randn((config.out_channels, 3, 5), generator=draw)
    noise = torch.randn((config.out_channels, 4, 3, 5), generator=draw)
    places = offsets(copying_heads(config))
    at = [looks(torch.zeros((1, 3, 5, 2)), place, config)[0] for place in places]
    still = sum(
        torch.einsum("hwij,cij,dc->dhw", look, picture, map_)
        for look, map_ in zip(at, fit.maps, strict=True)
    )
    words = dit.read_prompt(torch.zeros((1, 0, config.text_dim)))
    for sigma in SIGMAS:
        noisy = sigma * noise
        shown = shown_to_stage1(config, fit, picture, 4, noise=noisy)
        timestep = torch.full((1, 4), 1000 * sigma)
        velocity = dit(shown, timestep, words, positions=range(4))[0]
        clean = noisy - sigma * velocity
        assert (clean[:, 0] - picture).square().mean() < most
        for frame in (1, 2, 3):
            assert (clean[:, frame] - still).square().mean() < most
    assert still.square().mean() > 0.05


def test_copying_heads_follow_the_phases():
    fit = random_copies(TINY_MOTION)
    dit = make_copying_dit(TINY_MOTION, fit, seed=0).requires_grad_(False)
    features = Features(channels=48)
    held = slice(features.phases, features.phases + features.phase_count)
    way = torch.tensor([2.0, -1.0])
    dit.patch_embedding.bias[held] = PHASE_SIZE * phases(way, TINY_MOTION)
    draw = generator(3)
    picture = torch.randn((48, 6, 8), generator=draw)
    noise = torch.randn((48, 2, 6, 8), generator=draw)
    shown = shown_to_stage1(TINY_MOTION, fit, picture, 2, noise=noise)
    words = dit.read_prompt(torch.zeros((1, 0, TINY_MOTION.text_dim)))
    velocity = dit(shown, torch.full((1, 2), 1000.0), words, positions=range(2))[0]
    ways = way.expand(1, 6, 8, 2)
    moved = sum(
        torch.einsum("hwij,cij,dc->dhw", looks(ways, place, TINY_MOTION)[0], picture, map_)
        for place, map_ in zip(offsets(copying_heads(TINY_MOTION)), fit.maps, strict=True)
    )
    assert (noise[:, 1] - velocity[:, 1] - moved).square().mean() < 2e-3


@pytest.mark.parametrize("size", [(10, 16), (16, 10), (6, 12)])
def test_cues_tell_the_place_from_the_middle_at_any_size(size):
    height, width = size
    fit = random_copies(TINY_MOTION)
    dit = make_copying_dit(TINY_MOTION, fit, seed=0).requires_grad_(False)
    given = shown_to_stage1(
        TINY_MOTION,
        fit,
        torch.randn((48, height, width), generator=generator(4)),
        2,
        noise=torch.zeros((48, 2, height, width)),
    )[:, 52:]
    first = Features(channels=48).cues
    tokens = cue_tokens(dit, given, seed=0)[0].view(16, height, width, -1)[1:, :, :, first:]
    across, down, time = tokens[..., 0], tokens[..., 1], tokens[..., 2]
    assert (across.diff(dim=2) < 0).all()
    assert (down.diff(dim=1) < 0).all()
    assert (time.diff(dim=0) < 0).all()
    # A logistic function of the distance from the middle: mirrored logits add up to a constant.
    for cue, axis in ((across, 2), (down, 1)):
        logit = torch.logit(cue / CUE_SIZE)
        assert (logit + logit.flip(axis)).std(axis).max() < 0.05
        assert logit.std() > 0.3


def test_prompts_are_summed_up_by_word_group():
    dit = make_copying_dit(TINY_MOTION, random_copies(TINY_MOTION), seed=0).requires_grad_(False)
    features = Features(channels=48)
    words = make_words(TINY_WORDS)
    prompt = dit.read_prompt(words.encode("slowly zoom in on a cat", max_tokens=64))
    latent = torch.zeros((1, TINY_MOTION.in_channels, 2, 4, 4))
    with listening(dit) as written:
        dit(latent, torch.full((1, 2), 1000.0), prompt, positions=range(2))
    sums = written[0][0, 1, 0, features.words : features.words + len(WORD_GROUPS)]
    said = {group for group, value in zip(WORD_GROUPS, sums, strict=True) if value > 2}
    assert said == {("in",), ("slow", "slowly"), ("zoom", "zooms", "zooming")}
    assert sums[sums < 2].abs().max() < 1e-4


def test_ways_lead_to_where_frame_0_shows_a_place():
    grid = Grid(height=10, width=16, compression=CELLS)
    frames = torch.tensor([0, 2, 6])
    right = displacement(Move(pan_x=1), frames, grid)
    assert right[0].abs().max() == 0
    # Frames 5 to 8 have gone 3.25 pixels and the width's share more: half a pixel each.
    expected = 6.5 * 0.004 * 128 / 8
    torch.testing.assert_close(right[1, :, :10, 0], torch.full((10, 10), expected))
    assert right[..., 1].abs().max() == 0
    assert (right[2, :, 15, 0] == 0).all(), "what comes in at the edge is not in frame 0"
    closer = displacement(Move(zoom=1), frames, grid)
    assert (closer[2, :, 8:, 0] < 0).all()
    assert (closer[2, :, :8, 0] > 0).all()


def test_lessons_teach_where_moves_lead():
    config = replace(MOTION, in_channels=20)
    fit = random_copies(config)
    dit = make_copying_dit(config, fit, seed=0)
    words = make_words(replace(TINY_WORDS, text_dim=config.text_dim))
    picture = torch.randn((8, 5, 6), generator=generator(5))
    given = shown_to_stage1(config, fit, picture, 2, noise=torch.zeros((8, 2, 5, 6)))[:, 12:]
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    first = teach_steering(dit, words, given, CELLS, seed=1, lessons=10)
    later = teach_steering(dit, words, given, CELLS, seed=2, lessons=60)
    last = teach_steering(dit, words, given, CELLS, seed=1, lessons=10)
    assert last < 0.8 * first
    assert later < first
    changed = {name for name, value in dit.state_dict().items() if not value.equal(before[name])}
    assert changed
    assert all(".ffn." in name for name in changed)
    features = Features(channels=8)
    for block in dit.blocks:
        changed = block.ffn[2].weight[: features.phases]
        assert changed.abs().max() == 0, "the answer is none of their business"
    for block in dit.blocks[:STEERING_BLOCKS]:
        read = block.ffn[0].weight
        assert read[:, : features.mask].abs().max() == 0, "nor are picture and noise"
        assert read[:, features.layout.first_free :].abs().max() == 0


@pytest.mark.parametrize(
    ("config", "most"), [(DETAIL, 0.015), (TINY_DETAIL, 0.001)], ids=["small", "tiny"]
)
def test_a_fresh_stage2_answers_with_the_linear_estimate(config, most):
    """As far as so few features can tell the noise level."""
    size = config.out_channels * 4
    draw = generator(6)
    fit = ReferenceFit(
        weight=torch.randn((size, size), generator=draw) / size**0.5,
        offset=torch.randn(size, generator=draw),
        mean=torch.zeros(size),
        components=0.4 * torch.randn((min(size, 32), size), generator=draw) / size**0.5,
    )
    dit = make_refining_dit(config, fit, seed=0).requires_grad_(False)
    shape = (1, config.out_channels, 3, 4, 6)
    reference, noise = torch.randn((2, *shape), generator=draw)
    estimate = (patches(reference) @ fit.weight.T + fit.offset).unflatten(4, (2, 2, -1))
    estimate = estimate.permute(0, 6, 1, 2, 4, 3, 5).reshape(shape)
    words = dit.read_prompt(torch.zeros((1, 0, config.text_dim)))
    for sigma in SIGMAS:
        noisy = (1 - sigma) * estimate + sigma * noise
        timestep = torch.tensor([[0.0, 1000 * sigma, 1000 * sigma]])
        velocity = dit(torch.cat((noisy, reference), 1), timestep, words, positions=range(3))
        clean = noisy - sigma * velocity
        assert (clean - estimate)[:, :, 1:].square().mean() < most
    assert (estimate - reference).square().mean() > 0.5


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    cache = write_picture_cache(tmp_path_factory.mktemp("pictures"), side=96)
    return ClipMaker(seed=3, device=CPU, textures=4, cache=cache)


@pytest.fixture(scope="module")
def vae(clips):
    shape = PixelShape(pixel_frames=5, height=64, width=64)
    made = [clips.make(n, count=2, shape=shape, style=VARIED).pixels for n in range(12)]
    config = replace(
        TINY_VAE,
        latent_channels=8,
        encoder_dim=16,
        decoder_dim=16,
        latent_mean=(0.0,) * 8,
        latent_std=(1.0,) * 8,
    )
    return make_vae(config, [to_model(pixels) for pixels in made], seed=0).requires_grad_(False)


def test_the_linear_estimate_is_nearer_to_the_truth_than_the_reference(clips, vae, monkeypatch):
    """Where detail is missing: carried, there would be little left to estimate."""
    plain = partial(references.hybrid_reference, carry=0.0)
    monkeypatch.setattr(references, "hybrid_reference", plain)
    shape = PixelShape(pixel_frames=5, height=64, width=64)
    fit = fit_reference(DETAIL, vae, clips, shape, count=8)
    made = clips.make(77, count=2, shape=shape, style=NATURAL_PARTS)
    batch = encode_batch(made.pixels, shrink(made.pixels), made.moves, vae)
    shown, true = (
        patches(latent[:, :, 1:]).flatten(0, -2) for latent in (batch.reference, batch.clean)
    )
    estimate = shown @ fit.weight.T + fit.offset
    assert (estimate - true).square().mean() < 0.97 * (shown - true).square().mean()
    components = (shown - fit.mean) @ fit.components.T
    assert components.shape[1] == 32


def test_where_clips_say_little_the_reference_is_passed_on(clips, vae, monkeypatch):
    monkeypatch.setattr("training.wiener.RIDGE", 1e6)
    shape = PixelShape(pixel_frames=5, height=64, width=64)
    fit = fit_reference(DETAIL, vae, clips, shape, count=1)
    torch.testing.assert_close(fit.weight, torch.eye(32), atol=1e-3, rtol=0)


def test_copies_are_fitted_to_moving_clips(clips, vae):
    shape = PixelShape(pixel_frames=9, height=40, width=64)
    fit = fit_copies(MOTION, vae, clips, shape, count=8)
    made = clips.make(78, count=1, shape=shape, style=STEADY)
    clean = vae.encode(to_model(made.pixels))[0]
    way = displacement(
        made.moves[0], torch.arange(1, 3), Grid(height=5, width=8, compression=CELLS)
    )
    moved = sum(
        torch.einsum("thwij,cij,dc->dthw", looks(way, place, MOTION), clean[:, 0], map_)
        for place, map_ in zip(offsets(copying_heads(MOTION)), fit.maps, strict=True)
    )
    nothing = clean[:, 1:].square().mean()
    assert (moved - clean[:, 1:]).square().mean() < 0.9 * nothing


def test_another_fit_finds_what_branches_hold():
    """A layer that could answer exactly, but was never told to, is told to."""
    draw = generator(7)
    dit = make_refining_dit(
        DETAIL,
        ReferenceFit(
            weight=torch.zeros((32, 32)),
            offset=torch.zeros(32),
            mean=torch.zeros(32),
            components=0.1 * torch.randn((32, 32), generator=draw),
        ),
        seed=0,
    ).requires_grad_(False)
    name = "blocks.1.ffn.2"
    wanted = 0.05 * torch.randn((32, DETAIL.ffn_dim), generator=draw)
    refit = Refit(dit, [name], answer=32)
    words = dit.read_prompt(torch.zeros((1, 0, DETAIL.text_dim)))
    inputs = []
    hook = dit.get_submodule(name).register_forward_pre_hook(lambda _m, given: inputs.append(given))
    for number in range(12):
        latent = torch.randn((1, 16, 2, 8, 8), generator=generator(7, number))
        with refit.listening():
            dit(latent, torch.full((1, 2), 1000.0), words, positions=range(2))
        hidden = inputs[-1][0].view(1, 2, 16, -1)
        refit.add(hidden[:, 1:] @ wanted.T, slice(1, None))
    hook.remove()
    before = dit.get_submodule(name).weight.clone()
    assert refit.solve(ridge=1e-6) < 0.01
    change = dit.get_submodule(name).weight - before
    assert (change[:32] - wanted).square().mean() < 0.05 * wanted.square().mean()
    assert change[32:].abs().max() == 0
