"""Clips read as they are needed: equal to those read whole, as often as wanted, checked at once."""

from fractions import Fraction

import pytest
import torch
from PIL import Image

import swift_core.media.sources as sources
from swift_core.errors import MediaError
from swift_core.geometry import PixelShape
from swift_core.media.clips import read_clip
from swift_core.media.codecs import VideoCodec
from swift_core.media.pictures import save_picture
from swift_core.media.sources import ClipInMemory, as_source, chunks_of, open_clip
from swift_core.media.video_write import VideoWriter

FRAMES = torch.rand(9, 16, 32, 3, generator=torch.Generator().manual_seed(0))
FRAMES = FRAMES.mul(255).round().div(255)


def write_video(path, frames=FRAMES):
    with VideoWriter(
        path, codec=VideoCodec.FFV1, frames_per_second=Fraction(16), height=16, width=32
    ) as writer:
        writer.write(frames)
    return path


def write_folder(path):
    path.mkdir()
    for index, picture in enumerate(FRAMES):
        save_picture(picture, path / f"{index}.png")
    return path


def write_animation(path):
    pictures = [Image.fromarray(frame.mul(255).byte().numpy()) for frame in FRAMES]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_video, "a.mkv"), (write_folder, "folder"), (write_animation, "a.png")],
)
def test_every_kind_is_the_clip_again_and_again(tmp_path, write, name):
    source = open_clip(write(tmp_path / name), most_frames=100)
    whole = read_clip(tmp_path / name).frames
    assert source.shape == PixelShape(pixel_frames=9, height=16, width=32)
    for _ in range(2):
        assert torch.equal(torch.cat(list(source.frames())), whole)
    assert torch.equal(whole, FRAMES)


@pytest.mark.parametrize(("write", "name"), [(write_video, "a.mkv"), (write_folder, "folder")])
def test_no_more_is_looked_at_than_asked_for(tmp_path, write, name):
    source = open_clip(write(tmp_path / name), most_frames=5)
    assert source.shape.pixel_frames == 5
    assert torch.equal(torch.cat(list(source.frames())), FRAMES[:5])


def test_chunks_are_those_of_a_causal_vae():
    for pieces in ((9,), (1, 2, 6), (4, 5), (9 * (1,))):
        parts = FRAMES.split(list(pieces))

        class Pieces(ClipInMemory):
            def frames(self, parts=parts):
                return iter(parts)

        chunks = list(chunks_of(Pieces(FRAMES), time=4))
        assert [len(chunk) for chunk in chunks] == [1, 4, 4]
        assert torch.equal(torch.cat(chunks), FRAMES)


def test_a_video_is_read_no_further_than_it_is_needed(tmp_path, monkeypatch):
    source = open_clip(write_video(tmp_path / "a.mkv"), most_frames=9)
    read, iter_video = [], sources.iter_video

    def counting(path):
        for frames in iter_video(path, chunk=2):
            read.append(len(frames))
            yield frames

    monkeypatch.setattr(sources, "iter_video", counting)
    chunks = chunks_of(source, time=4)
    assert [(len(next(chunks)), sum(read)) for _ in range(3)] == [(1, 2), (4, 6), (4, 9)]


def test_a_clip_in_memory_is_its_own_source():
    assert as_source(FRAMES).shape == PixelShape(pixel_frames=9, height=16, width=32)
    source = ClipInMemory(FRAMES)
    assert as_source(source) is source


def test_damage_is_found_when_it_is_opened(tmp_path):
    path = write_video(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(MediaError):
        open_clip(path, most_frames=9)
    folder = write_folder(tmp_path / "folder")
    save_picture(torch.zeros(4, 4, 3), folder / "5.png")
    with pytest.raises(MediaError, match=r"5.png is 4x4, but 0.png is 32x16"):
        open_clip(folder, most_frames=9)
