"""Models in several files: an index says which tensor is in which.

Large models are published so, by Wan's authors and in diffusers' layout alike. Naming the index,
its folder or any one of the files means the whole model. The index is as untrusted as a header.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import CheckpointError
from .headers import Header, TensorEntry, read_header, shown
from .notes import NOTES_KEY

_INDEX_ENDING = ".index.json"
_MAX_INDEX_NBYTES = 25_000_000
_MAX_FILES = 512
_MAX_NAME_NBYTES = 255
"""Of a file, on every system."""


def read_model_header(path: Path | str) -> Header:
    """Read the header of a model: of one file, or of all files that an index names.

    Args:
        path: a file, an index, one of the files that an index beside it names, or a folder with
            one index.

    Raises:
        CheckpointError: if there is no such model, or not all of it.
    """
    path = Path(path)
    if _is_folder(path):
        return _read_indexed(_only_index(path))
    if path.name.endswith(_INDEX_ENDING):
        return _read_indexed(path)
    header = read_header(path)
    index = _index_of(path)
    return header if index is None else _read_indexed(index)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name too long, a folder that is not ours
        raise CheckpointError(
            f"{shown(str(path))} cannot be read: {error.strerror}; check the name."
        ) from error


def _index_of(path: Path) -> Path | None:
    """Find the index beside a file that names it; one that cannot be read is of other files."""
    for index in sorted(path.parent.glob(f"*{_INDEX_ENDING}")):
        with contextlib.suppress(CheckpointError):
            if path.name in _file_names(_read_map(index)):
                return index
    return None


def _only_index(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{_INDEX_ENDING}"))
    if len(found) != 1:
        raise CheckpointError(
            f"{folder} is a folder with {len(found)} files named *{_INDEX_ENDING}; name a "
            ".safetensors file in it, or the index of the model."
        )
    return found[0]


def _refusal(index: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{index} is no index of a model's files: {what}; download it again.")


def _read_map(index: Path) -> dict[str, str]:
    """Read which tensor is in which file; of the names only that they are names is checked."""
    try:
        with index.open("rb") as file:
            text = file.read(_MAX_INDEX_NBYTES + 1)
        if len(text) > _MAX_INDEX_NBYTES:
            raise _refusal(index, f"it is longer than {_MAX_INDEX_NBYTES} bytes")
        content: Any = json.loads(text)
    except FileNotFoundError as error:
        raise CheckpointError(f"{index} does not exist; check the name.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _refusal(index, f"it cannot be read as JSON ({shown(str(error))})") from error
    entries: Any = (
        cast("dict[str, Any]", content).get("weight_map") if _is_object(content) else None
    )
    if not _is_object(entries) or not entries:
        raise _refusal(index, "it has no weight_map")
    for name, file_name in cast("dict[str, Any]", entries).items():
        if not isinstance(file_name, str) or not _is_plain(file_name):
            raise _refusal(index, f"{shown(name)} is in no .safetensors file of the same folder")
    return entries


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_plain(name: str) -> bool:
    """Tell whether a name is one of a file in the same folder, on every system."""
    is_short = len(name.encode(errors="replace")) <= _MAX_NAME_NBYTES
    return is_short and name.endswith(".safetensors") and not any(sign in name for sign in "/\\:\0")


def _file_names(entries: Mapping[str, str]) -> list[str]:
    return sorted(set(entries.values()))


def _read_indexed(index: Path) -> Header:
    """Read the headers of all files, and check that together they are what the index says."""
    entries = _read_map(index)
    names = _file_names(entries)
    if len(names) > _MAX_FILES:
        raise _refusal(index, f"it names {len(names)} files, and models have at most {_MAX_FILES}")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {len(absent)} of the {len(names)} files that {index.name} "
            f"names, the first is {shown(absent[0])}; download it into the same folder."
        )
    headers = [read_header(index.parent / name) for name in names]
    tensors = _joined(index, headers)
    for name, file_name in entries.items():
        if name not in tensors or tensors[name].path.name != file_name:
            raise _refusal(index, f"{shown(name)} is not in {shown(file_name)}")
    return Header(
        path=index,
        tensors=tensors,
        metadata=_joined_metadata(index, headers),
        nbytes=sum(header.nbytes for header in headers),
        files=len(headers),
    )


def _joined_metadata(index: Path, headers: list[Header]) -> dict[str, str]:
    """Join the files' notes; only those that a model is built by must not differ."""
    metadata: dict[str, str] = {}
    for header in headers:
        for name, note in header.metadata.items():
            if metadata.setdefault(name, note) != note and name == NOTES_KEY:
                raise _refusal(index, f"its files do not agree on {NOTES_KEY} in their metadata")
    return metadata


def _joined(index: Path, headers: list[Header]) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for header in headers:
        for name, entry in header.tensors.items():
            if name in tensors:
                raise _refusal(index, f"{shown(name)} is in two of its files")
            tensors[name] = entry
    return tensors
