"""Which codec goes where, and how it is asked for."""

from pathlib import Path

import pytest

from swift_core.errors import MediaError, OutputError
from swift_core.media.codecs import (
    CODECS,
    CONTAINERS,
    VideoCodec,
    check_output,
    check_size,
    codecs_for,
    quality_of,
)


def test_every_container_and_every_codec_is_of_use():
    assert set(CODECS) == set(VideoCodec)
    assert all(codecs_for(suffix) for suffix in CONTAINERS)
    assert {suffix for spec in CODECS.values() for suffix in spec.suffixes} == set(CONTAINERS)


def test_the_default_codec_comes_first():
    assert codecs_for(".MP4") == (VideoCodec.H264, VideoCodec.HEVC10)
    assert codecs_for(".gif") == ()


def test_an_impossible_pair_names_what_goes_together():
    check_output(Path("a.MOV"), VideoCodec.PRORES)
    with pytest.raises(
        OutputError, match=r"a.mp4: prores is stored in .mov, and '.mp4' holds h264, hevc10; change"
    ):
        check_output(Path("a.mp4"), VideoCodec.PRORES)
    with pytest.raises(OutputError, match=r".mp4 or .mov or .mkv, and '.gif' holds no codec here"):
        check_output(Path("a.gif"), VideoCodec.H264)
    with pytest.raises(OutputError, match="'a name without suffix' holds no codec"):
        check_output(Path("a"), VideoCodec.FFV1)


def test_quality_has_a_default_and_limits():
    assert quality_of(VideoCodec.H264, None) == CODECS[VideoCodec.H264].quality
    assert quality_of(VideoCodec.H264, 0) == 0
    assert quality_of(VideoCodec.FFV1, None) is None
    with pytest.raises(MediaError, match=r"quality 52 does not exist; choose 0 \(best\) to 51"):
        quality_of(VideoCodec.HEVC10, 52)
    with pytest.raises(MediaError, match="prores has one quality only; leave quality 16 out"):
        quality_of(VideoCodec.PRORES, 16)


def test_sizes_that_chroma_cannot_halve_are_refused():
    check_size(VideoCodec.FFV1, height=7, width=5)
    check_size(VideoCodec.PRORES, height=7, width=6)
    for codec, height, width in (
        (VideoCodec.H264, 7, 6),
        (VideoCodec.HEVC10, 66, 67),
        (VideoCodec.HEVC10, 64, 48),
        (VideoCodec.PRORES, 6, 7),
        (VideoCodec.FFV1, 0, 7),
    ):
        with pytest.raises(MediaError, match=rf"cannot store {width}x{height}: sides must be"):
            check_size(codec, height=height, width=width)
