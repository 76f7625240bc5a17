"""A clip from a video, from a folder of pictures and from an animation."""

from fractions import Fraction

import pytest
import torch
from PIL import Image

from swift_core.errors import MediaError
from swift_core.media.clips import read_clip
from swift_core.media.codecs import VideoCodec
from swift_core.media.pictures import save_picture
from swift_core.media.video_write import VideoWriter


def flat(level, *, height=4, width=6):
    return torch.full((height, width, 3), level / 255)


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for number in (10, 9, 1):
        save_picture(flat(number), tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    clip = read_clip(tmp_path)
    assert (clip.frames[:, 0, 0, 0] * 255).round().tolist() == [1, 9, 10]
    assert clip.frames_per_second == 16
    assert len(read_clip(tmp_path, most_frames=2).frames) == 2


def test_a_folder_without_pictures_or_with_several_sizes_is_refused(tmp_path):
    with pytest.raises(MediaError, match="holds no pictures; name a video or a folder of PNG"):
        read_clip(tmp_path)
    save_picture(flat(1), tmp_path / "a.png")
    save_picture(flat(1, width=8), tmp_path / "b.png")
    with pytest.raises(MediaError, match=r"b.png is 8x4, but a.png is 6x4; give all pictures one"):
        read_clip(tmp_path)


@pytest.mark.parametrize(("milliseconds", "rate"), [(40, 25), (0, 16)])
def test_an_animation_has_the_rate_of_its_times(tmp_path, milliseconds, rate):
    frames = [Image.new("RGB", (6, 4), (90 * index, 0, 0)) for index in (1, 2)]
    options = {"duration": milliseconds} if milliseconds else {}
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], **options)
    clip = read_clip(tmp_path / "a.gif")
    assert clip.frames.shape == (2, 4, 6, 3)
    assert clip.frames_per_second == rate


def test_a_video_is_read_as_one(tmp_path):
    clip = torch.rand(3, 16, 32, 3).mul(255).round().div(255)
    with VideoWriter(
        tmp_path / "a.mkv",
        codec=VideoCodec.FFV1,
        frames_per_second=Fraction(24),
        height=16,
        width=32,
    ) as writer:
        writer.write(clip)
    read = read_clip(tmp_path / "a.mkv", most_frames=2)
    assert torch.equal(read.frames, clip[:2])
    assert read.frames_per_second == 24
