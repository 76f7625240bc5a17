"""What a safetensors file says about itself, read without reading a single tensor.

A checkpoint comes from the internet: every number in its header is checked against the file before
anything believes it. Nothing but safetensors is ever opened: pickles can run code.
"""

import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..errors import CheckpointError

_MAX_HEADER_NBYTES = 25_000_000
"""A hundred times a published model's: to parse JSON can take twenty times its length in memory."""

_PREFIX_NBYTES = 8

_DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E8M0": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
}

_PICKLE = (
    "is a PyTorch pickle, and pickles can run code: only safetensors files are read. Look for a "
    "safetensors version, or convert it in its folder, where torch and safetensors are, with: "
    "python -c \"import torch, safetensors.torch as s; m = torch.load('{name}', "
    "map_location='cpu', weights_only=True); m = m.get('state_dict', m); "
    "s.save_file({{k: v.contiguous().clone() for k, v in m.items()}}, '{stem}.safetensors')\""
)
_PLAIN_NAME = re.compile(r"[\w .+-]+", re.ASCII)
_ZIP = b"PK\x03\x04"
_FOREIGN = (
    (_ZIP, _PICKLE),
    *((bytes((0x80, protocol)), _PICKLE) for protocol in range(2, 6)),
    (
        b"GGUF",
        "is a GGUF file, and only safetensors files are read here; load it with a GGUF loader node "
        "and connect that, or get the model as safetensors",
    ),
    (
        b"version ",
        "is a Git LFS pointer, not the file that it stands for; run `git lfs pull`, or download "
        "the file itself",
    ),
    (b"<", "is a web page, not a model: the download went wrong; download it again"),
)
"""First bytes of files that people take for checkpoints, and what to say of them."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
        path: the file that holds it.
        dtype: in the words of safetensors: ``BF16``.
        shape: its sizes.
        begin: offset of its first byte in the data.
        end: offset behind its last byte.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def parameters(self) -> int:
        """Count its numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about itself, checked against its length.

    Attributes:
        path: the file; of a model in several files, their index.
        tensors: by name, in the order of the header.
        metadata: the file's own notes; as untrusted as the rest.
        nbytes: length of the file; of a model in several files, of all of them.
        files: how many files the tensors are in.
    """

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    nbytes: int
    files: int = 1

    @property
    def paths(self) -> tuple[Path, ...]:
        """List the files that the tensors are in."""
        return tuple(sorted({entry.path for entry in self.tensors.values()}))


def shown(text: str) -> str:
    """Make a string from a file fit for a message: short, and without control characters."""
    return ascii(text if len(text) <= 120 else f"{text[:117]}...")[1:-1]


def read_header(path: Path | str) -> Header:
    """Read a safetensors file's header, and check it.

    Raises:
        CheckpointError: if there is no such file, or it is no whole safetensors file.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise CheckpointError(f"{path} is a folder; name a .safetensors file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is no ordinary file; name a .safetensors file.")
        with path.open("rb") as file:
            first = file.read(_PREFIX_NBYTES + 1)
            length = _header_length(path, first, nbytes=status.st_size)
            file.seek(_PREFIX_NBYTES)
            text = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; check the name.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown(str(path))} cannot be read: {error}.") from error
    return _parse(path, text, nbytes=status.st_size)


def _header_length(path: Path, first: bytes, *, nbytes: int) -> int:
    """Give the length of the JSON part, or say what the file is instead of safetensors."""
    if nbytes == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); download it again.")
    length = int.from_bytes(first[:_PREFIX_NBYTES], "little")
    # Only where it cannot be a length: one of 60 bytes begins like a web page.
    absurd = length > _MAX_HEADER_NBYTES
    for magic, sentence in _FOREIGN:
        if first.startswith(magic) and (absurd or magic == _ZIP):
            # It is there to be pasted into a shell, so no name gets in that a shell would obey.
            name = path.name if _PLAIN_NAME.fullmatch(path.name) else "model.pt"
            said = sentence.format(name=name, stem=Path(name).stem)
            raise CheckpointError(f"{path} {said}.")
    if len(first) <= _PREFIX_NBYTES:
        raise _half_downloaded(path, nbytes=nbytes, expected=f"at least {_PREFIX_NBYTES + 2}")
    if absurd or length < 2 or first[_PREFIX_NBYTES:] != b"{":
        raise CheckpointError(
            f"{path} is not a safetensors file: its first bytes announce a header of {length} "
            "bytes, and no such header follows; if it should be one, download it again."
        )
    if nbytes < _PREFIX_NBYTES + length:
        expected = f"at least {_PREFIX_NBYTES + length}"
        raise _half_downloaded(path, nbytes=nbytes, expected=expected)
    return length


def _half_downloaded(path: Path, *, nbytes: int, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the file ends at {nbytes} of {expected} bytes: it looks half-downloaded; "
        "download it again."
    )


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} has a damaged header: {what}; download it again.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, but refuse a name that comes twice: readers would disagree on it."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name comes twice")
    return made


def _parse(path: Path, text: bytes, *, nbytes: int) -> Header:
    try:
        # It begins with a brace, so it is an object if it is JSON at all.
        content: dict[str, Any] = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    metadata = _metadata(path, content.pop("__metadata__", {}))
    tensors = {name: _entry(path, name, value) for name, value in content.items()}
    begin = _PREFIX_NBYTES + len(text)
    _check_offsets(path, tensors)
    expected = begin + max((entry.end for entry in tensors.values()), default=0)
    if nbytes < expected:
        raise _half_downloaded(path, nbytes=nbytes, expected=str(expected))
    if nbytes > expected:
        raise _damaged(path, f"the file has {nbytes} bytes, and it accounts for {expected}")
    return Header(path=path, tensors=tensors, metadata=metadata, nbytes=nbytes)


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _damaged(path, "__metadata__ is no JSON object")
    notes = cast("dict[str, Any]", value)
    for name, note in notes.items():
        if not isinstance(note, str):
            raise _damaged(path, f"the value of {shown(name)} in __metadata__ is no text")
    return notes


def _sizes(value: Any) -> tuple[int, ...] | None:
    """Read a list of whole numbers, none negative; None if it is anything else."""
    if not isinstance(value, list):
        return None
    numbers = cast("list[Any]", value)
    if any(type(number) is not int or number < 0 for number in numbers):
        return None
    return tuple(numbers)


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    entry = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    dtype: Any = entry.get("dtype")
    shape = _sizes(entry.get("shape"))
    offsets = _sizes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise _damaged(path, f"{shown(name)} lacks a dtype, a shape or two data_offsets")
    if dtype not in _DTYPE_BITS:
        raise CheckpointError(
            f"{path}: {shown(name)} has the unknown number format {shown(dtype)}; the file is "
            "damaged or newer than this version."
        )
    begin, end = offsets
    made = TensorEntry(path=path, dtype=dtype, shape=shape, begin=begin, end=end)
    # Sizes are untrusted: a long product of large ones is a number that takes minutes to compute.
    small = len(shape) <= 64 and max(shape, default=0) < 2**63
    if not small or 8 * (made.end - made.begin) != made.parameters * _DTYPE_BITS[dtype]:
        raise _damaged(
            path,
            f"{shown(name)} has {made.end - made.begin} bytes, which is not what {dtype} of shape "
            f"{shown(str(list(shape)))} takes",
        )
    return made


def _check_offsets(path: Path, tensors: Mapping[str, TensorEntry]) -> None:
    """Refuse tensors that overlap or leave gaps: each must begin where the one before ends."""
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            kind = "overlaps the tensor before it" if entry.begin < end else "leaves a gap"
            raise _damaged(path, f"{shown(name)} at offset {entry.begin} {kind}")
        end = entry.end
