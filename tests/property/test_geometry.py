import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift_core.errors import GeometryError
from swift_core.geometry import (
    Compression,
    Patch,
    PixelShape,
    check_output_size,
    latent_frames_of,
    motion_shape,
    nearest_multiple,
    nearest_pixel_frames,
    pixel_frames_of,
)


@given(st.integers(1, 500), st.sampled_from([1, 2, 4, 8]))
def test_frames_there_and_back(latent_frames, time):
    pixel_frames = pixel_frames_of(latent_frames, time=time)
    assert latent_frames_of(pixel_frames, time=time) == latent_frames
    assert nearest_pixel_frames(pixel_frames, time=time) == pixel_frames


@given(st.integers(-5, 2000))
def test_the_nearest_frames_work_and_are_nearest(pixel_frames):
    nearest = nearest_pixel_frames(pixel_frames)
    latent_frames_of(nearest)
    if pixel_frames >= 1:
        assert abs(nearest - pixel_frames) <= 2


@given(st.integers(-5, 9000), st.integers(1, 256))
def test_the_nearest_multiple_is_nearest_and_positive(value, multiple):
    nearest = nearest_multiple(value, multiple)
    assert nearest > 0
    assert nearest % multiple == 0
    if value >= multiple:
        assert 2 * abs(nearest - value) <= multiple


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_size_that_passes_fits_both_vaes_and_the_patch(rows, columns):
    height, width = 64 * rows, 64 * columns
    check_output_size(height, width)
    output = PixelShape(pixel_frames=81, height=height, width=width)
    motion_shape(output).latent(Compression(time=4, space=8), channels=16)
    output.latent(Compression(time=4, space=16), channels=48)


def test_the_published_size():
    output = PixelShape(pixel_frames=81, height=1408, width=2560)
    latent = output.latent(Compression(time=4, space=16), channels=48)
    assert (latent.latent_frames, latent.height, latent.width) == (21, 88, 160)
    assert latent.tokens_per_frame(Patch(time=1, height=2, width=2)) == 3520
    assert str(motion_shape(output)) == "640x352, 81 frames"


def test_messages_name_the_nearest():
    with pytest.raises(GeometryError, match=r"size 1000x700 .* multiples of 64; .* 1024x704"):
        check_output_size(700, 1000)
    with pytest.raises(GeometryError, match=r"80 frames .* 4n\+1; the nearest is 81"):
        latent_frames_of(80)
    with pytest.raises(GeometryError, match=r"0 frames .* nearest is 1"):
        latent_frames_of(0)
    with pytest.raises(GeometryError, match=r"height 100 is not a multiple of 16.* nearest is 96"):
        PixelShape(pixel_frames=5, height=100, width=64).latent(
            Compression(time=4, space=16), channels=4
        )
