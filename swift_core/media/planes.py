"""The memory of a video frame's plane as an array."""

from typing import Any

import numpy as np
from av.video.plane import VideoPlane
from numpy.typing import NDArray


def plane_values(plane: VideoPlane, *, bits: int, channels: int = 1) -> NDArray[Any]:
    """View a plane's values, ``h (w channels)``; writing to them writes to the frame."""
    kind = np.uint8 if bits <= 8 else np.uint16
    # FFmpeg's rows may be longer than the picture is wide.
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width * channels]
