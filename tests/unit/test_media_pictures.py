"""Every kind of picture file arrives as h w 3, fp32 in [0, 1], sRGB."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from swift_core.errors import MediaError, OutputError
from swift_core.media import pictures
from swift_core.media.pictures import (
    fit_clip,
    fit_picture,
    load_frames,
    load_picture,
    save_picture,
)

SIZE = (6, 4)  # width, height


def colours():
    """A picture in which every pixel differs from every other."""
    height, width = SIZE[1], SIZE[0]
    levels = np.arange(height * width * 3).reshape(height, width, 3) * 3
    return Image.fromarray(levels.astype(np.uint8))


def levels(picture):
    return (picture * 255).round().to(torch.uint8).numpy()


def load(image, path, **options):
    image.save(path, **options)
    return load_picture(path)


def test_rgb_comes_bit_for_bit(tmp_path):
    picture = load(colours(), tmp_path / "a.png")
    assert picture.dtype == torch.float32
    assert picture.shape == (4, 6, 3)
    assert torch.equal(picture, torch.from_numpy(np.array(colours())).float() / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation](np.array(colours()))
    picture = load(colours(), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(levels(picture), turned)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_transparency_is_laid_over_white(tmp_path, suffix):
    image = Image.new("RGBA", SIZE, (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 2, 4))
    image.paste((200, 0, 0, 128), (2, 0, 4, 4))
    picture = load(image, tmp_path / f"a{suffix}", **({"lossless": True} if "w" in suffix else {}))
    half = 128 / 255
    expected = torch.tensor([200 / 255, 0, 0]) * half + (1 - half)
    torch.testing.assert_close(picture[0, 2], expected)
    assert levels(picture)[0, 0].tolist() == [200, 0, 0]
    assert levels(picture)[0, 5].tolist() == [255, 255, 255]


def test_grey_with_alpha_is_laid_over_white(tmp_path):
    picture = load(Image.new("LA", SIZE, (100, 0)), tmp_path / "a.png")
    assert (picture == 1).all()
    picture = load(Image.new("LA", SIZE, (100, 255)), tmp_path / "b.png")
    assert (levels(picture) == 100).all()


def test_palettes_are_resolved_with_and_without_a_transparent_colour(tmp_path):
    image = colours().quantize(8)
    expected = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(levels(load(image, tmp_path / "a.png")), expected)
    np.testing.assert_array_equal(levels(load(image, tmp_path / "a.gif")), expected)
    index = image.getpixel((0, 0))
    clear = load(image, tmp_path / "b.png", transparency=index)
    chosen = np.array(image) == index
    assert (levels(clear)[chosen] == 255).all()
    np.testing.assert_array_equal(levels(clear)[~chosen], expected[~chosen])


def test_a_transparent_colour_key_is_white(tmp_path):
    image = Image.new("RGB", SIZE, (1, 2, 3))
    assert (load(image, tmp_path / "a.png", transparency=(1, 2, 3)) == 1).all()


def test_one_bit_and_eight_bit_grey(tmp_path):
    image = Image.new("1", SIZE)
    image.putpixel((1, 0), 1)
    picture = load(image, tmp_path / "a.png")
    assert picture[0, 1].tolist() == [1, 1, 1]
    assert picture.sum() == 3
    assert (levels(load(Image.new("L", SIZE, 77), tmp_path / "b.png")) == 77).all()


def test_sixteen_bit_grey_keeps_its_depth(tmp_path):
    deep = np.array([[0, 1, 256, 40000, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        picture = load(Image.fromarray(deep), tmp_path / name)
        expected = torch.from_numpy(deep.astype(np.float32) / 65535)
        torch.testing.assert_close(picture[..., 0], expected, rtol=0, atol=1e-7)
        assert torch.equal(picture[..., 0], picture[..., 2])


@pytest.mark.parametrize(
    ("values", "white"),
    [([0.0, 0.25, 1.0], 1), ([0, 128, 255], 255), ([0, 300, 65535], 65535), ([0, 5e5, 1e6], 1e6)],
)
def test_float_grey_is_scaled_to_its_likely_white(tmp_path, values, white):
    image = Image.fromarray(np.array([values], np.float32))
    picture = load(image, tmp_path / "a.tif")
    torch.testing.assert_close(picture[0, :, 1], torch.tensor(values) / white)


def test_whole_number_grey_beyond_sixteen_bits_and_negative_floats_are_not_clipped(tmp_path):
    whole = np.array([[0, 70_000, 140_000]], np.int32)
    picture = load(Image.fromarray(whole), tmp_path / "a.tif")
    torch.testing.assert_close(picture[0, :, 0], torch.tensor([0, 0.5, 1]))
    signed = np.array([[-1, 0, 1]], np.float32)
    picture = load(Image.fromarray(signed), tmp_path / "b.tif")
    torch.testing.assert_close(picture[0, :, 0], torch.tensor([0, 0.5, 1]))


def test_float_grey_that_holds_no_numbers_is_refused(tmp_path):
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match="values that are not numbers"):
        load_picture(tmp_path / "a.tif")


def test_cmyk_without_a_profile(tmp_path):
    picture = load(Image.new("CMYK", SIZE, (0, 255, 255, 0)), tmp_path / "a.tif")
    assert levels(picture)[0, 0].tolist() == [255, 0, 0]


def swapped_profile():
    """A colour profile in which red and green have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for start in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        tag = bytes(profile[start : start + 4])
        if tag in (b"rXYZ", b"gXYZ"):
            profile[start : start + 4] = b"gXYZ" if tag == b"rXYZ" else b"rXYZ"
    # Its description must not pass for sRGB's.
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_an_embedded_profile_is_converted(tmp_path, mode):
    image = Image.new("RGB", SIZE, (255, 0, 0)).convert(mode)
    picture = load(image, tmp_path / "a.png", icc_profile=swapped_profile())
    np.testing.assert_allclose(levels(picture)[0, 0], [0, 255, 0], atol=1)


def test_an_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = load(colours(), tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(levels(picture), np.array(colours()))


def test_a_profile_that_is_broken_or_of_another_kind_is_ignored_with_a_word(tmp_path, caplog):
    for name, image, profile in (
        ("a.png", colours(), b"no profile at all"),
        ("b.png", Image.new("L", SIZE, 9), swapped_profile()),
    ):
        caplog.clear()
        picture = load(image, tmp_path / name, icc_profile=profile)
        np.testing.assert_array_equal(levels(picture), np.array(image.convert("RGB")))
        assert "colour profile cannot be used" in caplog.text


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", SIZE, (40 * index, 0, 0)) for index in (1, 2, 3)]
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, **options)
    assert (levels(load_picture(path))[..., 0] == 40).all()
    every, milliseconds = load_frames(path)
    assert [levels(frame)[0, 0, 0] for frame in every] == [40, 80, 120]
    assert milliseconds == 40
    assert len(load_frames(path, most_frames=2)[0]) == 2


def test_one_pixel_is_a_picture(tmp_path):
    picture = load(Image.new("RGB", (1, 1), (255, 0, 51)), tmp_path / "a.png")
    assert picture.tolist() == [[[1, 0, pytest.approx(0.2)]]]
    assert fit_picture(picture, height=64, width=128).shape == (64, 128, 3)


def test_a_picture_above_the_limit_is_refused_and_below_it_there_is_no_warning(
    tmp_path, monkeypatch, recwarn
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    assert load(colours(), tmp_path / "a.png").shape == (4, 6, 3)
    assert not recwarn
    assert Image.MAX_IMAGE_PIXELS == 5
    monkeypatch.setattr(pictures, "MOST_PIXELS", 23)
    with pytest.raises(MediaError, match=r"6x4 pixels, more than 0 million; scale it down first"):
        load_picture(tmp_path / "a.png")


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(MediaError, match="is not a picture that can be read here; save it as PNG"):
        load_picture(tmp_path / "a.png")
    with pytest.raises(MediaError, match="check the name of the picture"):
        load_picture(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_truncated_picture_is_refused(tmp_path, suffix, part):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(MediaError, match=r"a\.\w+ (is damaged|is not a picture|cannot be read)"):
        load_picture(path)


def test_a_truncated_animation_names_the_frame(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(whole[: len(whole) * 5 // 6])
    with pytest.raises(MediaError, match="damaged at frame 3"):
        load_frames(tmp_path / "a.gif")


def test_saving_rounds_to_the_nearest_level_and_never_wraps(tmp_path):
    picture = torch.tensor([-1.0, 0, 0.5 / 255, 0.4 / 255, 1, 1.001, 9, 254.6 / 255])
    save_picture(picture[None, :, None].expand(-1, -1, 3), tmp_path / "new" / "a.png")
    saved = load_picture(tmp_path / "new" / "a.png")
    assert levels(saved)[0, :, 0].tolist() == [0, 0, 1, 0, 255, 255, 255, 255]


def test_saving_jpeg_keeps_colours(tmp_path):
    picture = torch.tensor([0.9, 0.1, 0.3]).expand(32, 48, 3)
    save_picture(picture, tmp_path / "a.JPG")
    assert (load_picture(tmp_path / "a.JPG") - picture).abs().max() < 3 / 255


def test_saving_refuses_what_it_cannot_do_and_keeps_what_is_there(tmp_path):
    with pytest.raises(OutputError, match=r"ends in '.gif', which is no picture; use one of .png"):
        save_picture(torch.zeros(2, 2, 3), tmp_path / "a.gif")
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(MediaError, match="not numbers"):
        save_picture(torch.full((2, 2, 3), torch.nan), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "old"
    with pytest.raises(OutputError, match="cannot be written"):
        save_picture(torch.zeros(2, 70_000, 3), tmp_path / "wide.jpg")  # JPEG ends at 65,500
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_fitting_takes_the_centre():
    picture = torch.zeros(100, 300, 3)
    picture[:, 100:200] = 1
    for source in (picture, picture.transpose(0, 1)):
        fitted = fit_picture(source, height=64, width=64)
        torch.testing.assert_close(fitted, torch.ones(64, 64, 3))


def test_fitting_is_antialiased_and_stays_in_range():
    stripes = (torch.arange(400) % 2).float()[None, :, None].expand(400, -1, 3)
    fitted = fit_picture(stripes, height=50, width=50)
    assert (fitted[5:-5, 5:-5] - 0.5).abs().max() < 0.02
    edge = (torch.arange(20) >= 10).float()[None, :, None].expand(20, -1, 3)
    fitted = fit_picture(edge, height=80, width=80)
    assert fitted.min() == 0
    assert fitted.max() == 1


def test_a_fitting_size_is_left_alone_bit_for_bit():
    clip = torch.rand(2, 8, 12, 3)
    assert fit_clip(clip, height=8, width=12) is clip
    assert torch.equal(fit_picture(clip[0], height=8, width=12), clip[0])


def test_a_clip_is_fitted_frame_by_frame():
    clip = torch.rand(3, 20, 30, 3)
    fitted = fit_clip(clip, height=16, width=16)
    for frame, source in zip(fitted, clip, strict=True):
        assert torch.equal(frame, fit_picture(source, height=16, width=16))


def test_a_size_that_is_none_is_refused():
    with pytest.raises(MediaError, match="size 16x0 is no size"):
        fit_picture(torch.zeros(4, 4, 3), height=0, width=16)
