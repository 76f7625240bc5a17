"""Ways through clips whose motion is known, and the picture's detail carried along them.

Pictures are sums of waves, so they can be looked at anywhere and need no interpolation.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from swift_core.errors import GeometryError
from swift_core.tracking.carry import DetailCarrier, check_carry
from swift_core.tracking.planes import blur, double, is_inside, look_up, places_of, resize
from swift_core.tracking.tracker import Tracker

HEIGHT, WIDTH = 192, 256
SCALE = 4
SMALL = {"height": HEIGHT // SCALE, "width": WIDTH // SCALE}
FRAMES = 6


class Waves:
    """A picture without pixels: waves of all lengths from 5 to 90 pixels."""

    def __init__(self, seed, *, shortest=5.0, count=60):
        draw = torch.Generator().manual_seed(seed)
        length = shortest * (90 / shortest) ** torch.rand(count, generator=draw)
        angle = torch.rand(count, generator=draw) * math.tau
        self.across = (angle.cos() / length * math.tau)[:, None, None]
        self.down = (angle.sin() / length * math.tau)[:, None, None]
        self.phase = (torch.rand((3, count), generator=draw) * math.tau)[:, :, None, None]
        self.size = 0.05 + 0.04 * (length / 90)[:, None, None]

    def at(self, places):
        """Look at places, ``1 2 h w``; gives ``h w 3``."""
        x, y = places[0]
        waves = (self.across * x + self.down * y + self.phase).sin() * self.size
        return (0.5 + waves.sum(1) / 2).clamp(0, 1).permute(1, 2, 0)


def own_places():
    return places_of(torch.empty((1, 1, HEIGHT, WIDTH)))


def middle():
    return torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])[None, :, None, None]


def panned(time):
    return own_places() + torch.tensor([3.0, -2.0])[None, :, None, None] * time


def zoomed(time):
    return middle() + (own_places() - middle()) * math.exp(-0.02 * time)


def turned(time):
    x, y = (own_places() - middle()).unbind(1)
    cos, sin = math.cos(0.02 * time), math.sin(0.02 * time)
    return middle() + torch.stack((cos * x + sin * y, cos * y - sin * x), dim=1)


def bent(time):
    x, y = own_places().unbind(1)
    waves = torch.stack(((y / 24).sin(), (x / 30).sin()), dim=1)
    return own_places() + 0.9 * waves * time


def planes(frame):
    return frame.permute(2, 0, 1)[None]


def shrunk(frame):
    return resize(planes(frame), **SMALL).clamp(0, 1)


def enlarged(small):
    return resize(small, height=HEIGHT, width=WIDTH).clamp(0, 1)[0].permute(1, 2, 0)


def decibels(one, two):
    return float(-10 * (one - two).square().mean().log10())


def ways_of(frames):
    """Follow frames, ``h w 3`` in large, and give the ways of the last."""
    tracker = Tracker(shrunk(frames[0]))
    for frame in frames[1:]:
        ways = tracker.follow(shrunk(frame))
    return ways


def carry_through(frames, **options):
    """Carry the first frame's detail into the others made small; give the last, and without."""
    carrier = DetailCarrier(frames[0], **SMALL, **options)
    for frame in frames[1:]:
        small = shrunk(frame)
        plain = enlarged(small)
        made = carrier.carry(small[0].permute(1, 2, 0), plain)
    return made, plain


def error_of(ways, places):
    """Give the mean error of ways in pixels of the small frame, where the first frame shows it."""
    true = F.avg_pool2d(places - own_places(), SCALE) / SCALE
    at = F.avg_pool2d(places, SCALE)
    inside = is_inside(at, height=HEIGHT, width=WIDTH)
    off = (ways - true).square().sum(1, keepdim=True).sqrt()
    return float((off * inside).sum() / inside.sum())


@pytest.mark.parametrize("moved", [panned, zoomed, turned])
def test_a_camera_is_followed_to_a_fortieth_of_a_pixel(moved):
    world = Waves(1)
    ways = ways_of([world.at(moved(time)) for time in range(FRAMES)])
    assert error_of(ways, moved(FRAMES - 1)) < 0.025
    assert float((moved(FRAMES - 1) - own_places()).abs().max()) > 10, "it did move"


def test_what_bends_is_followed():
    world = Waves(2)
    ways = ways_of([world.at(bent(time)) for time in range(FRAMES)])
    assert error_of(ways, bent(FRAMES - 1)) < 0.15
    assert error_of(torch.zeros_like(ways), bent(FRAMES - 1)) > 0.6


def test_a_thing_before_a_still_ground_goes_its_own_way():
    ground, thing = Waves(3), Waves(4)

    def film(time):
        places = own_places()
        x, y = places[0]
        inside = ((x - 90 - 3 * time).abs() < 40) & ((y - 96).abs() < 40)
        own = places - torch.tensor([3.0, 0.0])[None, :, None, None] * time
        return torch.where(inside[..., None], thing.at(own), ground.at(places))

    ways = ways_of([film(time) for time in range(FRAMES)])[0]
    last = FRAMES - 1
    on_thing = ways[:, 18:30, (90 + 3 * last) // SCALE - 4 : (90 + 3 * last) // SCALE + 4]
    assert (on_thing[0] + 3 * last / SCALE).abs().max() < 0.2
    assert on_thing[1].abs().max() < 0.2
    far = ways[:, :, -12:]
    assert far.abs().max() < 0.1


def test_nothing_is_read_out_of_flat_frames():
    flat = torch.full((HEIGHT, WIDTH, 3), 0.5)
    frames = [flat, flat * 0.9, flat]
    assert ways_of(frames).abs().max() < 1e-3
    made, plain = carry_through(frames)
    torch.testing.assert_close(made, plain, atol=1e-5, rtol=0)


def test_a_smallest_clip_can_be_followed():
    first = torch.rand((64, 64, 3), generator=torch.Generator().manual_seed(0))
    carrier = DetailCarrier(first, height=16, width=16)
    small = resize(planes(first), height=16, width=16).clamp(0, 1)[0].permute(1, 2, 0)
    made = carrier.carry(small, first)
    torch.testing.assert_close(made, first, atol=1e-2, rtol=0)


@pytest.mark.parametrize("moved", [panned, zoomed, turned, bent])
def test_detail_comes_with_the_motion(moved):
    world = Waves(5)
    frames = [world.at(moved(time)) for time in range(FRAMES)]
    made, plain = carry_through(frames)
    inside = is_inside(moved(FRAMES - 1), height=HEIGHT, width=WIDTH)[0, 0] > 0
    without = decibels(plain[inside], frames[-1][inside])
    assert decibels(made[inside], frames[-1][inside]) > without + 6


def test_what_comes_into_view_is_the_clips():
    world = Waves(6)
    frames = [world.at(panned(time)) for time in range(FRAMES)]
    made, plain = carry_through(frames)
    outside = is_inside(panned(FRAMES - 1), height=HEIGHT, width=WIDTH)[0, 0] == 0
    assert int(outside.sum()) > 2000
    # Sharper than enlarging leaves it, and made small it is the clip again.
    assert decibels(made[outside], frames[-1][outside]) > (
        decibels(plain[outside], frames[-1][outside]) + 0.5
    )
    small = shrunk(frames[-1])
    hidden = F.avg_pool2d(outside[None, None].float(), SCALE) == 1
    lacking = [(shrunk(frame) - small).abs().mul(hidden).sum() for frame in (made, plain)]
    assert lacking[0] < lacking[1] / 3


def test_where_the_clip_shows_something_else_so_does_the_frame():
    world, other = Waves(7), Waves(8)
    frames = [world.at(panned(time)) for time in range(FRAMES)]
    square = (slice(60, 140), slice(90, 170))
    for frame in frames[3:]:
        frame[square] = other.at(own_places())[square]
    made, plain = carry_through(frames)
    inner = (slice(76, 124), slice(106, 154))
    without = decibels(plain[inner], frames[-1][inner])
    assert decibels(made[inner], frames[-1][inner]) > without
    assert decibels(world.at(panned(FRAMES - 1))[inner], frames[-1][inner]) < without


def test_light_stays_that_of_the_clip():
    world = Waves(9)
    frames = [world.at(panned(time)) * (1 - 0.05 * time) for time in range(FRAMES)]
    made, plain = carry_through(frames)
    inside = is_inside(panned(FRAMES - 1), height=HEIGHT, width=WIDTH)[0, 0] > 0
    assert abs(float(made[inside].mean() - frames[-1][inside].mean())) < 2e-3
    without = decibels(plain[inside], frames[-1][inside])
    assert decibels(made[inside], frames[-1][inside]) > without + 3


def test_a_share_carries_its_share():
    world = Waves(10)
    frames = [world.at(zoomed(time)) for time in range(FRAMES)]
    whole, plain = carry_through(frames)
    half, _ = carry_through(frames, share=0.5)
    inner = (whole > 0.02) & (whole < 0.98) & (half > 0.02) & (half < 0.98)
    torch.testing.assert_close(half[inner], ((whole + plain) / 2)[inner], atol=1e-4, rtol=0)


def test_a_picture_shown_smaller_does_not_shimmer():
    # Waves of 3 pixels, zoomed out to 1.7: they cannot be shown any more, and must be gone.
    x = own_places()[0, 0]
    coarse = Waves(11, shortest=24)

    def film(time):
        places = middle() + (own_places() - middle()) * math.exp(0.09 * time)
        fine = 0.2 * (places[0, 0] * math.tau / 3).sin()[..., None] * (time == 0)
        return (0.8 * coarse.at(places) + 0.1 + fine).clamp(0, 1)

    assert x.shape == (HEIGHT, WIDTH)
    frames = [film(time) for time in range(FRAMES + 1)]
    made, _ = carry_through(frames)
    rest = made[64:128, 96:160] - frames[-1][64:128, 96:160]
    assert float(rest.square().mean().sqrt()) < 0.04
    sharp = look_up(planes(frames[0]), middle() + (own_places() - middle()) * math.exp(0.54))
    aliased = sharp[0].permute(1, 2, 0)[64:128, 96:160] - frames[-1][64:128, 96:160]
    assert float(aliased.square().mean().sqrt()) > 0.1


@pytest.mark.parametrize("carry", [-0.1, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(carry):
    with pytest.raises(GeometryError, match=r"^carry is .*from 0 \(none\) to 1 \(all\)"):
        check_carry(carry)


def test_it_works_in_one_thread_and_leaves_the_others_as_they_were(monkeypatch):
    """Also where a frame cannot be followed."""
    threads, follow = [], Tracker.follow

    def noting(self, frame):
        threads.append(torch.get_num_threads())
        if len(threads) == 2:
            raise ZeroDivisionError
        return follow(self, frame)

    monkeypatch.setattr(Tracker, "follow", noting)
    frames = [torch.full((HEIGHT, WIDTH, 3), 0.5)] * 2
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        carry_through(frames)
        with pytest.raises(ZeroDivisionError):
            carry_through(frames)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 1]


def test_looking_up_at_their_own_places_gives_pictures_back():
    noise = torch.rand((1, 3, 17, 23), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(look_up(noise, places_of(noise)), noise, atol=1e-5, rtol=0)


def test_a_picture_of_twice_the_pixels_is_looked_up_more_closely():
    def waves(x, y):
        return torch.sin(0.9 * x + 0.3) * torch.cos(1.1 * y)

    picture = waves(*places_of(torch.zeros(1, 1, 60, 80))[0])[None, None]
    assert torch.equal(double(picture)[..., ::2, ::2], picture)
    places = places_of(picture) + torch.tensor([0.37, 0.21]).view(1, 2, 1, 1)
    true = waves(*places[0])[None, None]
    plain, dense = (
        (found - true)[..., 8:-8, 8:-8].square().mean()
        for found in (look_up(picture, places), look_up(double(picture), 2 * places))
    )
    assert dense < plain / 2


def test_a_blur_keeps_what_is_straight():
    places = places_of(torch.empty((1, 1, 40, 50)))
    blurred = blur(places, 2.0)
    torch.testing.assert_close(blurred[:, :, 8:-8, 8:-8], places[:, :, 8:-8, 8:-8])
