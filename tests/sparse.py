"""Safetensors files of true sizes without their data."""

import json
import math
import os

BITS = {"F32": 32, "F16": 16, "BF16": 16, "I8": 8, "U8": 8, "F4": 4}
BITS |= dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0"), 8)


def write_sparse(path, shapes, *, dtype="BF16", metadata=None):
    """Write a file with true sizes and no data: a hole takes no room on disk.

    Args:
        shapes: of each tensor by name; or (dtype, shape), to differ from ``dtype``.
    """
    header, end = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, shape in shapes.items():
        kind, shape = shape if shape and isinstance(shape[0], str) else (dtype, shape)
        begin, end = end, end + math.prod(shape) * BITS[kind] // 8
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    return write_raw(path, json.dumps(header).encode(), data=end)


def write_raw(path, text, *, data=0):
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, path.stat().st_size + data)
    return path
