"""How long a video file says it is, which FFmpeg does not check: it gives fewer frames instead.

Source: ISO/IEC 14496-12 §4.2 (boxes of MP4 and MOV); RFC 8794 §4-6 (EBML elements of MKV and WebM).
"""

from pathlib import Path
from typing import BinaryIO

_MP4_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"sidx")
)
_EBML_HEADER = bytes.fromhex("1a45dfa3")
_EBML_SEGMENT = bytes.fromhex("18538067")


def stated_nbytes(path: Path) -> int:
    """Give the number of bytes that the container claims; 0 if it claims none."""
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        if start[4:] in _MP4_BOXES:
            return _mp4_nbytes(file)
        if start[:4] == _EBML_HEADER:
            return _ebml_nbytes(file)
    return 0


def _mp4_nbytes(file: BinaryIO) -> int:
    """Walk the outermost boxes, as far as they are known ones."""
    end = 0
    while True:
        file.seek(end)
        head = file.read(16)
        if len(head) < 8 or head[4:8] not in _MP4_BOXES:
            return end
        nbytes = int.from_bytes(head[:4], "big")
        if nbytes == 1:  # the size follows in 64 bits
            nbytes = int.from_bytes(head[8:16], "big")
        if nbytes < 8:  # 0: up to the end of the file, wherever that is
            return end
        end += nbytes


def _ebml_nbytes(file: BinaryIO) -> int:
    """Skip the header, and read where the one segment after it ends."""
    file.seek(len(_EBML_HEADER))
    header_nbytes = _ebml_size(file)
    if header_nbytes is None:
        return 0
    file.seek(header_nbytes, 1)
    if file.read(4) != _EBML_SEGMENT:
        return 0
    segment_nbytes = _ebml_size(file)
    return 0 if segment_nbytes is None else file.tell() + segment_nbytes


def _ebml_size(file: BinaryIO) -> int | None:
    """Read a size of variable length; None if it is unknown (a live stream) or missing."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    rest = file.read(extra)
    value_bits = 7 * (extra + 1)
    value = int.from_bytes(first + rest, "big") & ((1 << value_bits) - 1)
    return None if value == (1 << value_bits) - 1 else value
