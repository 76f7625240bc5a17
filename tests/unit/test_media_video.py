"""Videos written and read back: frames, colours, rates, tags; and what happens when it fails."""

from fractions import Fraction
from itertools import pairwise

import av
import pytest
import torch

from swift_core.errors import MediaError, OutputError
from swift_core.media.codecs import VideoCodec
from swift_core.media.fidelity import psnr
from swift_core.media.video_read import iter_video, probe_video, read_video
from swift_core.media.video_write import VideoWriter

try:
    import resource
except ImportError:  # Windows
    resource = None

HEIGHT, WIDTH = 96, 160
FORMS = [
    (VideoCodec.H264, ".mp4"),
    (VideoCodec.H264, ".mov"),
    (VideoCodec.H264, ".mkv"),
    (VideoCodec.HEVC10, ".mp4"),
    (VideoCodec.HEVC10, ".mkv"),
    (VideoCodec.PRORES, ".mov"),
    (VideoCodec.FFV1, ".mkv"),
]
LOSSY = [form for form in FORMS if form[0] is not VideoCodec.FFV1]


def waves(pixel_frames):
    """Smooth colours that move."""
    down, right = torch.meshgrid(
        torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij"
    )
    frames = [
        torch.stack(
            (
                0.5 + 0.4 * torch.sin(4 * right + 0.3 * index),
                0.5 + 0.4 * torch.cos(3 * down - 0.2 * index),
                0.3 + 0.4 * down * right,
            ),
            dim=-1,
        )
        for index in range(pixel_frames)
    ]
    return torch.stack(frames)


def writer_of(
    path, codec=VideoCodec.FFV1, *, rate=Fraction(24), quality=None, size=(HEIGHT, WIDTH)
):
    height, width = size
    return VideoWriter(
        path, codec=codec, frames_per_second=rate, height=height, width=width, quality=quality
    )


def write(clip, path, codec=VideoCodec.FFV1, **options):
    with writer_of(path, codec, size=tuple(clip.shape[1:3]), **options) as writer:
        writer.write(clip)
    return path


@pytest.mark.parametrize(
    ("codec", "suffix", "least"),
    [(*form, {"h264": 40, "hevc10": 44, "prores": 46}[form[0].value]) for form in LOSSY],
)
def test_smooth_frames_survive(tmp_path, codec, suffix, least):
    clip = waves(7)
    read = read_video(write(clip, tmp_path / f"a{suffix}", codec)).frames
    assert read.shape == clip.shape
    assert psnr(read, clip) > least
    assert (read.mean((1, 2)) - clip.mean((1, 2))).abs().max() < 1 / 255


@pytest.mark.parametrize(("codec", "suffix"), LOSSY)
def test_solid_colours_survive(tmp_path, codec, suffix):
    """Within the rounding of 8-bit (1.2 levels; blue amplifies it) and 10-bit YUV (0.6)."""
    colours = torch.tensor(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], [0.2, 0.7, 0.9]]
    )
    clip = colours[:, None, None].expand(-1, 64, 80, -1)
    read = read_video(write(clip, tmp_path / f"a{suffix}", codec)).frames
    bound = 1.2 if codec is VideoCodec.H264 else 0.6
    assert (read - clip).abs().max() < bound / 255


def test_ffv1_is_lossless_for_eight_bits_and_takes_odd_sizes(tmp_path):
    clip = torch.randint(0, 256, (5, 33, 47, 3)) / 255
    assert torch.equal(read_video(write(clip, tmp_path / "a.mkv")).frames, clip)


def test_ten_bits_hold_what_eight_cannot(tmp_path):
    """A ramp over 8 levels has about 32 steps in 10 bits."""
    ramp = torch.linspace(0.4, 0.4 + 8 / 255, WIDTH)[:, None].expand(2, HEIGHT, -1, 3)
    eight = read_video(write(ramp, tmp_path / "a.mp4", VideoCodec.H264, quality=0)).frames
    ten = read_video(write(ramp, tmp_path / "b.mp4", VideoCodec.HEVC10, quality=0)).frames
    assert len(eight[0, 8, :, 1].unique()) <= 9
    assert len(ten[0, 8, :, 1].unique()) > 24


@pytest.mark.parametrize(("codec", "suffix"), FORMS)
@pytest.mark.parametrize("rate", [Fraction(16), Fraction(24), Fraction(30000, 1001)])
def test_the_file_says_what_it_holds(tmp_path, codec, suffix, rate):
    path = write(waves(6), tmp_path / f"a{suffix}", codec, rate=rate)
    info = probe_video(path)
    assert (info.pixel_frames, info.height, info.width) == (6, HEIGHT, WIDTH)
    assert info.frames_per_second == rate
    assert read_video(path).frames_per_second == rate
    assert info.bits == (10 if codec in (VideoCodec.HEVC10, VideoCodec.PRORES) else 8)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        context = stream.codec_context
        assert (context.color_primaries, context.color_trc) == (1, 1)
        if codec is VideoCodec.FFV1:
            assert context.colorspace == 0
        else:
            assert (frame.colorspace, frame.color_range) == (1, 1)
        if codec is VideoCodec.HEVC10 and suffix == ".mp4":
            assert context.codec_tag == "hvc1"
        if codec is VideoCodec.PRORES:
            assert context.codec_tag == "apch"
    if suffix in (".mp4", ".mov"):
        head = path.read_bytes()
        assert head.index(b"moov") < head.index(b"mdat")


def test_a_long_clip_is_written_while_one_chunk_exists(tmp_path):
    path = tmp_path / "a.mkv"
    with writer_of(path, size=(16, 32)) as writer:
        for start in range(0, 300, 7):
            count = min(7, 300 - start)
            levels = (torch.arange(start, start + count) % 256) / 255
            writer.write(levels[:, None, None, None].expand(-1, 16, 32, 3))
        assert writer.pixel_frames == 300
    chunks = [len(chunk) for chunk in iter_video(path, chunk=11)]
    assert chunks == [11] * 27 + [3]
    first_values = torch.cat([chunk[:, 0, 0, 0] for chunk in iter_video(path)])
    assert (first_values * 255).round().tolist() == [index % 256 for index in range(300)]
    assert probe_video(path).pixel_frames == 300


def test_quality_makes_files_smaller(tmp_path):
    clip = torch.rand(3, HEIGHT, WIDTH, 3)
    sizes = [
        write(clip, tmp_path / f"{q}.mp4", VideoCodec.H264, quality=q).stat().st_size
        for q in (0, 20, 51)
    ]
    assert all(larger > 2 * smaller for larger, smaller in pairwise(sizes))


def test_any_device_and_dtype_is_taken(tmp_path):
    clip = waves(2)
    read = read_video(write(clip.bfloat16(), tmp_path / "a.mkv")).frames
    assert (read - clip).abs().max() < 3 / 255


class StopError(Exception):
    pass


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize(("codec", "suffix"), [FORMS[0], FORMS[-1]])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, codec, suffix, error):
    path = tmp_path / f"a{suffix}"
    path.write_text("old")

    def interrupted():
        with writer_of(path, codec) as writer:
            writer.write(waves(3))
            assert len(list(tmp_path.iterdir())) == 2
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "a.mkv"
    write(waves(1), path)
    write(waves(2), path)
    assert probe_video(path).pixel_frames == 2
    assert list(path.parent.iterdir()) == [path]


def written(path, *clips):
    with writer_of(path) as writer:
        for clip in clips:
            writer.write(clip)


def test_frames_that_do_not_fit_are_refused_and_leave_no_file(tmp_path):
    path = tmp_path / "a.mkv"
    with pytest.raises(
        MediaError, match=r"frames of 80x96 do not fit a.mkv, which has 160x96; scale them first"
    ):
        written(path, waves(1), waves(1)[:, :, :80])
    with pytest.raises(MediaError, match="not numbers"):
        written(path, waves(1) * torch.nan)
    with pytest.raises(MediaError, match=r"a.mkv was not written: no frames were given"):
        written(path)
    with pytest.raises(MediaError, match="no frames were given"):
        written(path, waves(1)[:0])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_the_disk_is_touched(tmp_path):
    path = tmp_path / "new" / "a.mp4"
    with pytest.raises(OutputError, match=r"ffv1 is stored in .mkv"):
        writer_of(path, VideoCodec.FFV1)
    with pytest.raises(MediaError, match="h264 cannot store 161x96"):
        writer_of(path, VideoCodec.H264, size=(96, 161))
    with pytest.raises(MediaError, match="0 frames per second is no rate"):
        writer_of(path, VideoCodec.H264, rate=Fraction(0))
    with pytest.raises(MediaError, match="quality 99 does not exist"):
        writer_of(path, VideoCodec.H264, quality=99)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_works_only_inside_with(tmp_path):
    with pytest.raises(RuntimeError, match="only inside a with statement"):
        writer_of(tmp_path / "a.mkv").write(waves(1))


def test_ffmpegs_refusal_is_told_and_leaves_nothing(tmp_path):
    too_wide = writer_of(tmp_path / "a.mp4", VideoCodec.H264, size=(2, 40_000))
    with (
        pytest.raises(OutputError, match=r"a.mp4 could not be written \(.+\); see whether"),
        too_wide,
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(resource is None, reason="needs a limit on the size of files")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    noise = torch.rand(30, HEIGHT, WIDTH, 3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"could not be written \(File too large\)"):
            written(tmp_path / "a.mkv", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_only_as_many_frames_are_read_as_asked_for(tmp_path):
    path = write(waves(20), tmp_path / "a.mkv")
    for most, count in ((1, 1), (17, 17), (99, 20), (None, 20)):
        assert len(read_video(path, most_frames=most).frames) == count


@pytest.mark.parametrize(("codec", "suffix"), FORMS)
@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("read", [read_video, probe_video])
def test_a_truncated_video_is_refused(tmp_path, codec, suffix, part, read):
    path = write(waves(6), tmp_path / f"a{suffix}", codec)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(
        MediaError, match=r"is cut short: it has \d+ of \d+ bytes|damaged, cut short"
    ):
        read(path)


def test_what_is_no_video_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(MediaError, match="does not exist; check the name of the video"):
        read_video(path)
    path.touch()
    with pytest.raises(MediaError, match="is an empty file; save or copy the video again"):
        probe_video(path)
    path.write_bytes(b"no video" * 99)
    with pytest.raises(MediaError, match=r"cannot be read as a video .*export it again as MP4"):
        read_video(path)
    text = tmp_path / "a.txt"
    text.write_text("FFmpeg would draw these words as a video.\n" * 20)
    with pytest.raises(MediaError, match="holds no video that can be read here; name an MP4"):
        read_video(text)


def test_a_title_in_another_alphabet_is_no_obstacle(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Title"
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(yuv_frames(64, 64)[0]))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"Title", b"T\xeftle"))
    assert len(read_video(path).frames) == 1


def test_a_codec_that_nobody_knows_is_refused(tmp_path):
    path = write(waves(1), tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes().replace(b"V_FFV1", b"V_XXV1"))
    with pytest.raises(MediaError, match="holds no video that can be read here"):
        read_video(path)


def test_a_file_with_sound_only_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="holds no video"):
        read_video(tmp_path / "a.mkv")


def foreign(path, frames, *, times=None, turned=0, **attributes):
    """A file as another program might write it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].height, frames[0].width
        stream.pix_fmt = frames[0].format.name
        stream.codec_context.options = {"crf": "1"}
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        if turned:
            stream.set_display_rotation(turned)
        for index, frame in enumerate(frames):
            frame.pts = times[index] if times else index
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def yuv_frames(height, width, red_luma=63, count=3):
    """Red as BT.709 stores it."""
    frames = []
    for _ in range(count):
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, value in zip(frame.planes, (red_luma, 102, 240), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frames.append(frame)
    return frames


def test_untagged_files_are_taken_as_players_take_them(tmp_path):
    tall = read_video(foreign(tmp_path / "tall.mp4", yuv_frames(720, 64))).frames
    low = read_video(foreign(tmp_path / "low.mp4", yuv_frames(64, 64))).frames
    tagged = read_video(foreign(tmp_path / "t.mp4", yuv_frames(64, 64), colorspace=1)).frames
    red = torch.tensor([1.0, 0, 0])
    assert (tall[0, 9, 9] - red).abs().max() < 2 / 255
    assert (tagged[0, 9, 9] - red).abs().max() < 2 / 255
    assert (low[0, 9, 9] - red).abs().max() > 5 / 255


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV cannot write a rotation"
)
@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, -1), (180, 2)])
def test_rotation_is_applied(tmp_path, degrees, turns):
    clip = waves(1)[0, :32, :64]
    frame = av.VideoFrame.from_ndarray((clip * 255).byte().numpy(), format="rgb24")
    path = foreign(
        tmp_path / "a.mp4",
        [frame.reformat(format="yuv420p")],
        turned=degrees,
    )
    read = read_video(path).frames[0]
    info = probe_video(path)
    assert read.shape == ((64, 32, 3) if turns % 2 else (32, 64, 3))
    assert (info.height, info.width) == tuple(read.shape[:2])
    assert psnr(read, clip.rot90(turns)) > 28


def test_a_variable_rate_is_averaged(tmp_path):
    path = foreign(tmp_path / "a.mp4", yuv_frames(32, 32, count=4), times=[0, 1, 5, 6])
    clip = read_video(path)
    assert len(clip.frames) == 4
    assert 12 < clip.frames_per_second < 18


def test_a_playlist_cannot_lead_elsewhere(tmp_path):
    inner = write(waves(1), tmp_path / "inner.mkv")
    playlist = tmp_path / "a.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/{inner.name}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match=r"cannot be read as a video|holds no video"):
        read_video(playlist)
