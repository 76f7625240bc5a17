"""Where pictures and videos lie on disk: what may be read, what may be written, and how.

Every file is written beside its target under another name and then moved over it. So a target is
always a whole file: the old one or the new one.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from .errors import MediaError, OutputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")


def check_readable(path: Path, *, kind: str) -> None:
    """Refuse a path that holds no bytes to read.

    Args:
        kind: what was expected there, for the message: ``picture`` or ``video``.

    Raises:
        MediaError: if nothing is there, or a folder, or an empty file.
    """
    if path.is_dir():
        raise MediaError(f"{path} is a folder; name the {kind} file inside it.")
    if path.exists() and not path.is_file():
        raise MediaError(f"{path} is no ordinary file; save the {kind} to disk first.")
    if not path.is_file():
        raise MediaError(f"{path} does not exist; check the name of the {kind}.")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is an empty file; save or copy the {kind} again.")


def check_writable(
    path: Path, *, overwrite: bool, suffixes: tuple[str, ...] = VIDEO_SUFFIXES + PICTURE_SUFFIXES
) -> None:
    """Refuse a target that could not be written, and leave nothing behind.

    Parent folders that do not exist are no obstacle: writing makes them.

    Args:
        suffixes: those that the writer understands, in small letters.

    Raises:
        OutputError: naming the obstacle and what to do.
    """
    if path.is_dir():
        raise OutputError(
            f"{path} is a folder; add a file name such as {path / ('clip' + suffixes[0])}."
        )
    if path.suffix.lower() not in suffixes:
        raise OutputError(
            f"{path} ends in {path.suffix or 'no suffix'!r}, which cannot be written; "
            f"use one of {', '.join(suffixes)}."
        )
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another name or allow overwriting.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise OutputError(f"{path} cannot be written: {folder} is a file and not a folder.")
    try:
        # Asking is not enough: os.access is wrong for root, for Windows and on network drives.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: no file can be made in {folder} ({error.strerror}); "
            f"choose another folder."
        ) from error


@contextmanager
def part_file(path: Path) -> Generator[Path, None, None]:
    """Give a name to write under; move the file to ``path`` if all goes well, else remove it.

    Missing parent folders are made. The part's name is new each time, so that two runs with one
    target do not write into each other.

    Raises:
        OutputError: if a folder cannot be made or the finished file cannot be moved.
    """
    # A cut stem keeps the part's name within 255 bytes whatever the target is called.
    part = path.with_name(f".{path.stem[:40]}.{uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: its folder cannot be made ({error.strerror}); "
            f"choose another folder."
        ) from error
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        try:
            # Some writers make files that only their owner may read, whatever the user's umask.
            part.chmod(mode)
            part.replace(path)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be replaced ({error.strerror}); close the program that has it "
                f"open or choose another name."
            ) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def reserved(path: Path, *, overwrite: bool) -> Generator[None, None, None]:
    """Hold a name while its file is being made, so that two runs cannot make the same one.

    Without ``overwrite`` an empty file stands under the name from now on; if the block fails and
    the file is still empty, it is removed.

    Raises:
        OutputError: if the name has been taken since it was checked.
    """
    if overwrite:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)
    except FileExistsError as error:
        raise OutputError(
            f"{path} exists already: another run makes it; choose another name."
        ) from error
    try:
        yield
    except BaseException:
        if path.stat().st_size == 0:
            path.unlink()
        raise
