"""The clips that the tiny set learns from: repeatable, and moving as their names say."""

from dataclasses import replace

import pytest
import torch

from swift_core.geometry import PixelShape
from swift_core.text.words import WordEncoder
from tests.pictures import write_picture_cache
from training.chance import generator
from training.data import PLAIN, STEADY, VARIED, ClipMaker
from training.dits import make_words
from training.measure import content_shift, luma, measure_motion, psnr
from training.moves import PAN_RATE, SINGLE_MOVES, TURN_RATE, ZOOM_RATE, Move, draw_move, follow
from training.pictures import PHOTOGRAPHS, load_photographs
from training.prompts import CAMERA_WORDS, WORD_GROUPS, bucket_prompt, write_prompt
from training.scenes import Sprite, extent_of, render
from training.sizes import TINY_WORDS
from training.textures import KINDS, draw_textures

SHAPE = PixelShape(pixel_frames=5, height=64, width=96)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_picture_cache(tmp_path_factory.mktemp("pictures"), side=160)


@pytest.fixture(scope="module")
def clips(cache):
    return ClipMaker(seed=3, device=CPU, textures=10, cache=cache)


@pytest.mark.parametrize("style", [VARIED, STEADY, PLAIN], ids=["varied", "steady", "plain"])
def test_a_batch_depends_on_its_number_alone(clips, cache, style):
    twin = ClipMaker(seed=3, device=CPU, textures=10, cache=cache)
    twin.make(0, count=1, shape=SHAPE, style=style)
    made, again = (maker.make(5, count=2, shape=SHAPE, style=style) for maker in (clips, twin))
    assert torch.equal(made.pixels, again.pixels)
    assert made.moves == again.moves
    assert made.pixels.shape == (2, 5, 64, 96, 3)
    assert made.pixels.min() >= 0
    assert made.pixels.max() <= 1
    other = clips.make(6, count=2, shape=SHAPE, style=style)
    assert not torch.equal(made.pixels, other.pixels)


def test_the_split_is_by_picture(clips, cache):
    held_out = ClipMaker(seed=3, device=CPU, held_out=True, cache=cache)
    assert not set(clips.names) & set(held_out.names)
    assert "coffee" in held_out.names  # the demo's picture
    assert held_out.textures == []


def test_every_photograph_has_a_licence_and_an_author():
    assert len({photograph.name for photograph in PHOTOGRAPHS}) == len(PHOTOGRAPHS)
    for photograph in PHOTOGRAPHS:
        assert photograph.licence
        assert photograph.author


def test_photographs_come_from_packages_and_go_into_the_cache(tmp_path):
    for package in ("skimage", "sklearn", "matplotlib"):
        pytest.importorskip(package)
    path = tmp_path / "cache.safetensors"
    pictures = load_photographs(held_out=True, cache=path)
    again = load_photographs(held_out=True, cache=path)
    assert list(pictures) == list(again)
    for name, picture in pictures.items():
        assert picture.shape[2] == 3
        assert (picture - again[name]).abs().max() <= 0.5 / 255 + 1e-6


def test_textures_differ_by_kind_and_seed():
    first, second = (draw_textures(len(KINDS), side=48, seed=seed) for seed in (0, 1))
    for picture, other in zip(first, second, strict=True):
        assert picture.shape == (48, 48, 3)
        assert torch.isfinite(picture).all()
        assert not torch.equal(picture, other)
        assert picture.std() > 0.005


@pytest.fixture(scope="module")
def filmed():
    """A picture with much to hold on to, and a maker that films it."""
    grid = torch.randn((1, 3, 24, 24), generator=generator(1))
    smooth = torch.nn.functional.interpolate(grid, (320, 320), mode="bicubic")
    picture = (0.5 + 0.15 * smooth[0].permute(1, 2, 0)).clamp(0, 1)
    maker = ClipMaker.__new__(ClipMaker)
    maker.photographs = [picture]
    return maker


@pytest.mark.parametrize("move", SINGLE_MOVES, ids=lambda move: move.words)
def test_moves_do_what_their_names_say(filmed, move):
    shape = PixelShape(pixel_frames=9, height=80, width=128)
    clip = filmed.film(0, move, shape=shape)
    found = measure_motion(clip)
    # The camera goes left: the content runs right.
    run = 8 * PAN_RATE * shape.width
    expected = {
        "right": -move.pan_x * run,
        "down": -move.pan_y * run,
        "grow": move.zoom * 8 * ZOOM_RATE,
        "turn": move.turn * 8 * TURN_RATE,
    }
    scale = {"right": run, "down": run, "grow": 8 * ZOOM_RATE, "turn": 8 * TURN_RATE}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.08 * scale[name]), (name, found)


@pytest.mark.parametrize("move", SINGLE_MOVES[2:6], ids=lambda move: move.words)
def test_pans_measured_another_way(filmed, move):
    clip = filmed.film(0, replace(move, speed=2.0), shape=replace(SHAPE, pixel_frames=9))
    right, down = content_shift(luma(clip[0]), luma(clip[-1]))
    run = 2 * 8 * PAN_RATE * SHAPE.width
    assert right == pytest.approx(-move.pan_x * run, abs=0.7)
    assert down == pytest.approx(-move.pan_y * run, abs=0.7)


def test_motion_is_exact_to_a_fraction_of_a_pixel():
    """A wave, panned by 0.4 pixels a frame, is the shifted wave."""
    shape = PixelShape(pixel_frames=4, height=40, width=100)
    path = follow(Move(pan_x=1), pixel_frames=4, width=100)
    extent = extent_of(path, height=40, width=100)
    places = ((torch.arange(400) + 0.5) / 400 * 2 - 1) * extent.half[0] + extent.center[0]
    canvas = (0.5 + 0.4 * torch.sin(places / 3)).expand(3, 200, 400)
    film = render(canvas, extent, [], path, height=shape.height, width=shape.width)
    columns = torch.arange(100) + 0.5 - 50
    for frame in range(4):
        wave = 0.5 + 0.4 * torch.sin((columns + 0.4 * frame) / 3)
        assert psnr(film[frame], wave.expand(3, 40, 100)) > 45


def test_sprites_move_and_occlude():
    path = follow(Move(), pixel_frames=3, width=64)
    extent = extent_of(path, height=64, width=64)
    sprite = Sprite(
        pixels=torch.ones((4, 32, 32)),
        place=torch.tensor([[-16.0, 0.0], [0.0, 0.0], [16.0, 0.0]]),
        angle=torch.zeros(3),
        radius=8.0,
    )
    film = render(torch.zeros((3, 80, 80)), extent, [sprite], path, height=64, width=64)
    for frame, column in enumerate((16, 32, 48)):
        assert film[frame, :, 30:34, column - 4 : column + 4].min() > 0.99
        assert film[frame].mean(0).sum() == pytest.approx(16 * 16, rel=0.05)


def test_moves_are_drawn_of_every_kind():
    moves = [draw_move(generator(0, number)) for number in range(400)]
    assert {move.words for move in SINGLE_MOVES} <= {move.words for move in moves}
    assert any(len(move.parts) == 3 for move in moves)
    assert Move() in moves


def test_camera_words_have_buckets_of_their_own():
    words = WordEncoder(TINY_WORDS)
    assert len(set(words.bucket(CAMERA_WORDS).tolist())) == len(CAMERA_WORDS.split())


def test_prompts_name_the_move_and_at_times_a_word_that_stands_for_none():
    words = WordEncoder(TINY_WORDS)
    fillers = words.bucket("the camera and still static").tolist()
    known = {*words.bucket(CAMERA_WORDS).tolist(), *fillers}
    strays = set()
    for number in range(120):
        move = draw_move(generator(9, number), speed=2.0)
        said = words.bucket(write_prompt(generator(8, number), move)).tolist()
        assert set(said) <= known
        buckets = bucket_prompt(generator(8, number), words, move, max_tokens=64).tolist()
        assert buckets[: len(said)] == said
        strays.update((bucket, move.words) for bucket in buckets[len(said) :])
    zoom = set(words.bucket("in out").tolist())
    assert strays
    for bucket, move_words in strays:
        assert ("zoom" if bucket in zoom else "pan") not in move_words


def test_fresh_words_are_camera_words_and_nothing_else():
    words = make_words(TINY_WORDS)
    same = words.encode("zooming slowly", max_tokens=8)
    assert torch.equal(words.encode("zoom slow", max_tokens=8), same)
    assert same.abs().sum() > 0
    assert words.encode("a banana dreams", max_tokens=8).abs().sum() == 0
    apart = words.encode(" ".join(group[0] for group in WORD_GROUPS), max_tokens=64)[0]
    assert torch.linalg.matrix_rank(apart) == len(WORD_GROUPS)
