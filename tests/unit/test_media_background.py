"""A video encoded beside the work: the same file, and nothing lost of what goes wrong."""

import threading
from fractions import Fraction

import pytest
import torch

from swift_core.errors import MediaError, OutputError
from swift_core.media.background import MOST_WAITING, BackgroundWriter
from swift_core.media.clips import read_clip
from swift_core.media.codecs import VideoCodec
from swift_core.media.video_write import VideoWriter

FRAMES = torch.rand(9, 16, 32, 3, generator=torch.Generator().manual_seed(0))


def writer(path):
    return VideoWriter(
        path, codec=VideoCodec.FFV1, frames_per_second=Fraction(16), height=16, width=32
    )


def test_the_frames_are_the_same(tmp_path):
    with writer(tmp_path / "a.mkv") as plain:
        for chunk in FRAMES.split(2):
            plain.write(chunk)
    write_all(tmp_path / "b.mkv", FRAMES.split(2))
    one, other = (read_clip(tmp_path / name).frames for name in ("a.mkv", "b.mkv"))
    assert one.shape == FRAMES.shape
    assert torch.equal(one, other)


def test_only_so_many_chunks_wait(tmp_path, monkeypatch):
    may_write, written = threading.Semaphore(0), []
    plain = writer(tmp_path / "a.mkv")
    write = plain.write

    def slowly(frames):
        may_write.acquire()
        written.append(len(frames))
        write(frames)

    monkeypatch.setattr(plain, "write", slowly)
    with BackgroundWriter(plain) as background:
        for index in range(MOST_WAITING + 1):
            background.write(FRAMES[index : index + 1])
        assert not written  # one is at the encoder, the others wait
        more = threading.Thread(target=background.write, args=(FRAMES[8:],))
        more.start()
        more.join(0.05)
        assert more.is_alive()
        for _ in range(MOST_WAITING + 2):
            may_write.release()
        more.join()
    assert len(written) == MOST_WAITING + 2


def write_all(path, chunks, then=None):
    with BackgroundWriter(writer(path)) as background:
        for chunk in chunks:
            background.write(chunk)
        if then is not None:
            raise then


def nothing_is_left(folder):
    running = [thread.name for thread in threading.enumerate()]
    return not list(folder.iterdir()) and "video writer" not in running


@pytest.mark.parametrize("bad", [0, 3, 8])
def test_what_goes_wrong_is_told_and_no_file_stays(tmp_path, bad):
    frames = FRAMES.clone()
    frames[bad, 0, 0, 0] = float("nan")
    with pytest.raises(MediaError, match="not numbers"):
        write_all(tmp_path / "a.mkv", frames.split(1))
    assert nothing_is_left(tmp_path)


def test_a_block_that_breaks_leaves_no_file_and_no_thread(tmp_path):
    with pytest.raises(OutputError, match="stop"):
        write_all(tmp_path / "a.mkv", FRAMES.split(1), then=OutputError("stop"))
    assert nothing_is_left(tmp_path)


def test_an_interrupt_while_the_rest_is_encoded_leaves_nothing(tmp_path, monkeypatch):
    """It comes out of the wait for the thread, when the block is over."""
    may_write = threading.Semaphore(0)
    plain = writer(tmp_path / "a.mkv")
    write = plain.write

    def slowly(frames):
        may_write.acquire()
        write(frames)

    monkeypatch.setattr(plain, "write", slowly)
    background = BackgroundWriter(plain)
    join, waits = background._thread.join, []

    def interrupted(*given):
        waits.append(given)
        if len(waits) == 1:
            may_write.release(9)
            raise KeyboardInterrupt
        join(*given)

    monkeypatch.setattr(background._thread, "join", interrupted)

    def run():
        with background:
            for chunk in FRAMES[:3].split(1):
                background.write(chunk)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert nothing_is_left(tmp_path)
