"""What may be read and written, in words, and files that are whole or absent."""

import os
from pathlib import Path

import pytest

from swift_core.errors import MediaError, OutputError
from swift_core.files import check_readable, check_writable, part_file


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_missing_file_a_folder_and_an_empty_file_are_told_apart(tmp_path):
    (tmp_path / "empty.png").touch()
    for name, words in (("no.png", "does not exist"), (".", "is a folder"), ("empty.png", "empty")):
        with pytest.raises(MediaError, match=words):
            check_readable(tmp_path / name, kind="picture")


@pytest.mark.parametrize("name", ["clip.mp4", "CLIP.MOV", "new/deep/clip.mkv", "picture.jpeg"])
def test_a_possible_target_leaves_nothing_behind(tmp_path, name):
    check_writable(tmp_path / name, overwrite=False)
    assert everything_in(tmp_path) == []


def test_every_obstacle_is_named(tmp_path):
    (tmp_path / "there.mp4").write_text("old")
    (tmp_path / "folder.mp4").mkdir()
    for name, words in (
        ("there.mp4", "exists already; choose another name or allow overwriting"),
        ("folder.mp4", r"is a folder; add a file name such as .*folder.mp4/clip.mp4"),
        ("clip.avi", r"ends in '.avi', which cannot be written; use one of .mp4, .mov, .mkv, .png"),
        ("clip", "ends in 'no suffix'"),
        ("there.mp4/clip.mp4", "there.mp4 is a file and not a folder"),
    ):
        with pytest.raises(OutputError, match=words):
            check_writable(tmp_path / name, overwrite=False)
    check_writable(tmp_path / "there.mp4", overwrite=True)
    with pytest.raises(OutputError, match=r"add a file name such as .*clip.json"):
        check_writable(tmp_path / "folder.mp4", overwrite=True, suffixes=(".json",))
    assert everything_in(tmp_path) == ["folder.mp4", "there.mp4"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_locked_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no file can be made in"):
        check_writable(tmp_path / "clip.mp4", overwrite=False)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_folder_where_nothing_can_be_made_is_named():
    """The kernel's own folder refuses files even from root."""
    with pytest.raises(OutputError, match=r"no file can be made in /proc.*choose another folder"):
        check_writable(Path("/proc/clip.mp4"), overwrite=False)


def interrupt_after_writing(part):
    part.write_text("newer")
    raise KeyboardInterrupt


def test_a_part_becomes_the_file_or_nothing(tmp_path):
    target = tmp_path / "new" / ("long" * 50 + ".mp4")
    with part_file(target) as part:
        part.write_text("new")
        assert part.suffix == ".mp4"
        assert part.name.startswith(".long")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(KeyboardInterrupt), part_file(target) as part:
        interrupt_after_writing(part)
    assert target.read_text() == "new"
    assert len(everything_in(tmp_path / "new")) == 1


def test_a_target_that_cannot_be_replaced_is_named(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with (
        pytest.raises(OutputError, match="cannot be replaced"),
        part_file(tmp_path / "clip.mp4") as part,
    ):
        part.write_text("new")
    assert everything_in(tmp_path) == ["clip.mp4"]


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="its folder cannot be made"),
        part_file(tmp_path / "file" / "clip.mp4"),
    ):
        pass
