"""Headers: what is read from a file without its tensors, and every file that is refused."""

import json
import os
import pickle
import shlex
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from swift_core.errors import CheckpointError
from swift_core.weights.headers import read_header, shown
from tests.sparse import write_raw, write_sparse


def write_entry(path, **changes):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return write_raw(path, json.dumps({"a": entry}).encode(), data=8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_a_header_says_names_formats_shapes_and_places(path):
    tensors = {"b": torch.zeros(2, 3), "a": torch.zeros(5, dtype=torch.bfloat16)}
    save_file(tensors, path, metadata={"who": "me"})
    header = read_header(path)
    assert {n: (e.dtype, e.shape, e.parameters) for n, e in header.tensors.items()} == {
        "a": ("BF16", (5,), 5),
        "b": ("F32", (2, 3), 6),
    }
    assert sum(e.end - e.begin for e in header.tensors.values()) == 34
    assert header.metadata == {"who": "me"}
    assert header.nbytes == path.stat().st_size
    assert header.path == path


def test_a_huge_file_costs_no_more_than_its_header(path):
    write_sparse(path, {"a": (1 << 17, 1 << 18)})
    assert read_header(path).tensors["a"].parameters == 1 << 35


def test_a_file_may_have_no_tensors_and_empty_ones(path):
    assert read_header(write_sparse(path, {})).tensors == {}
    assert (
        read_header(write_sparse(path, {"a": (0, 3), "b": (2,), "c": ()})).tensors["c"].shape == ()
    )


def test_a_missing_file_and_a_folder_are_refused(path, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist; check the name"):
        read_header(path)
    with pytest.raises(CheckpointError, match=r"is a folder; name a \.safetensors file in it"):
        read_header(tmp_path)
    with pytest.raises(CheckpointError, match=r"a\\x00b cannot be read"):
        read_header(tmp_path / "a\0b")


def test_a_pipe_is_refused_and_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is no ordinary file"):
        read_header(path)


def test_an_unreadable_file_is_refused(path, monkeypatch):
    write_sparse(path, {})

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Permission denied"):
        read_header(path)


def test_pickles_are_refused_by_content_whatever_their_name(path, tmp_path):
    path.write_bytes(pickle.dumps({"a": list(range(1000))}, protocol=2))
    with pytest.raises(CheckpointError, match="pickles can run code: only safetensors"):
        read_header(path)
    path.write_bytes(pickle.dumps({"a": list(range(1000))}, protocol=4))
    with pytest.raises(CheckpointError, match="weights_only=True"):
        read_header(path)
    path.write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(CheckpointError, match="pickles can run code"):
        read_header(path)
    torch.save({"a": torch.zeros(3)}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match="pickles can run code"):
        read_header(path)
    named_like_one = tmp_path / "model.pt"
    save_file({"a": torch.zeros(3)}, named_like_one)
    assert list(read_header(named_like_one).tensors) == ["a"]


def test_the_command_in_a_pickles_refusal_converts_it(tmp_path):
    path = tmp_path / "Wan2.2 VAE.pth"
    weight = torch.arange(6.0).view(2, 3)
    torch.save({"state_dict": {"a": weight, "shares": weight.t()}}, path)
    with pytest.raises(CheckpointError) as refused:
        read_header(path)
    command = str(refused.value).partition("with: python ")[2].removesuffix(".")
    subprocess.run([sys.executable, *shlex.split(command)], cwd=tmp_path, check=True)
    converted = load_file(tmp_path / "Wan2.2 VAE.safetensors")
    assert torch.equal(converted["a"], weight)
    assert torch.equal(converted["shares"], weight.t())


@pytest.mark.parametrize("name", ["a'); import os #.pth", "$(reboot).pth", 'a"b.pth', "a`b`.pth"])
def test_the_command_holds_no_name_that_a_shell_would_obey(tmp_path, name):
    path = tmp_path / name
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(
        CheckpointError, match=r"torch\.load\('model\.pt', .*'model\.safetensors'\)"
    ):
        read_header(path)


@pytest.mark.parametrize("magic", [b"\x80\x02", b"<\x00", b"<!"])
def test_a_length_that_looks_like_other_files_is_still_a_length(path, magic):
    text = b'{"__metadata__":{"a":"b"}}'
    write_raw(path, text.ljust(int.from_bytes(magic, "little")))
    assert path.read_bytes()[:2] == magic
    assert read_header(path).metadata == {"a": "b"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGUF\x03\x00\x00\x00" + bytes(20), "is a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page, not a model"),
        (b"", r"is empty \(0 bytes\); download it again"),
        (b"abc", "the file ends at 3 of at least 10 bytes: it looks half-downloaded"),
        (b"\xff" * 30, "not a safetensors file: its first bytes announce a header of 18446744"),
        ((25_000_001).to_bytes(8, "little") + b'{"a":', "announce a header of 25000001 bytes"),
        ((1).to_bytes(8, "little") + b"{}", "announce a header of 1 bytes"),
        ((2).to_bytes(8, "little") + b"[]", "no such header follows"),
        ((100).to_bytes(8, "little") + b'{"a":', "ends at 13 of at least 108 bytes"),
    ],
)
def test_other_files_are_refused_with_what_they_are(path, content, said):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_header(path)


def test_a_truncated_file_is_told_from_a_damaged_one(path):
    save_file({"a": torch.zeros(100)}, path)
    whole = path.stat().st_size
    os.truncate(path, whole - 1)
    said = f"the file ends at {whole - 1} of {whole} bytes: it looks half-downloaded; download it"
    with pytest.raises(CheckpointError, match=said):
        read_header(path)
    os.truncate(path, whole + 1)
    with pytest.raises(
        CheckpointError, match=f"has {whole + 1} bytes, and it accounts for {whole}"
    ):
        read_header(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{not json}", "it is not JSON"),
        (b'{"\xff": 1}', "it is not JSON"),
        (b'{"a":' * 100_000, "it is not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "it is not JSON"),
        (b'{"__metadata__": {"a": "b", "a": "c"}}', "a name comes twice"),
        (b'{"__metadata__": 3}', "__metadata__ is no JSON object"),
        (b'{"__metadata__": {"a": 3}}', "the value of a in __metadata__ is no text"),
        (b'{"a": 3}', r"a lacks a dtype, a shape or two data_offsets"),
    ],
)
def test_a_damaged_header_is_refused(path, text, said):
    with pytest.raises(
        CheckpointError, match=f"has a damaged header: .*{said}.*; download it again"
    ):
        read_header(write_raw(path, text))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": 3},
        {"shape": "2"},
        {"shape": [-2]},
        {"shape": [2.0]},
        {"shape": [True]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 8, 8]},
        {"data_offsets": None},
    ],
)
def test_an_entry_must_be_of_the_right_form(path, changes):
    with pytest.raises(CheckpointError, match="a lacks a dtype, a shape or two data_offsets"):
        read_header(write_entry(path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3]},
        {"data_offsets": [0, 4]},
        {"data_offsets": [8, 0]},
        {"shape": [2**64, 0]},
        {"shape": [2] * 100_000},
    ],
)
def test_shape_and_bytes_must_agree(path, changes):
    with pytest.raises(CheckpointError, match=r"which is not what F32 of shape .* takes"):
        read_header(write_entry(path, **changes))


def test_an_unknown_number_format_is_named(path):
    with pytest.raises(CheckpointError, match="a has the unknown number format F7_X; the file is"):
        read_header(write_entry(path, dtype="F7_X"))


@pytest.mark.parametrize(
    ("begin", "said"), [(4, "overlaps the tensor before it"), (12, "leaves a gap")]
)
def test_tensors_must_lie_side_by_side(path, begin, said):
    first = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    second = {"dtype": "F32", "shape": [2], "data_offsets": [begin, begin + 8]}
    write_raw(path, json.dumps({"a": first, "b": second}).encode(), data=20)
    with pytest.raises(CheckpointError, match=f"b at offset {begin} {said}"):
        read_header(path)


def test_names_from_a_file_cannot_write_to_a_terminal():
    assert shown("a\x1b[31m\ud800é") == r"a\x1b[31m\ud800\xe9"
    assert len(shown("x" * 10_000)) == 120
