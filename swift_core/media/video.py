"""Videos on disk: what the rest of the core uses of reading and writing them."""

from .clips import read_clip
from .codecs import VideoCodec, check_output, codecs_for
from .video_read import Clip, VideoInfo, iter_video, probe_video, read_video
from .video_write import VideoWriter

__all__ = [
    "Clip",
    "VideoCodec",
    "VideoInfo",
    "VideoWriter",
    "check_output",
    "codecs_for",
    "iter_video",
    "probe_video",
    "read_clip",
    "read_video",
]
