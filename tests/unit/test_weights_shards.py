"""Models in several files: found by their index, its folder or any part; refused when not whole."""

import json

import pytest

from swift_core.errors import CheckpointError
from swift_core.weights import shards
from swift_core.weights.shards import read_model_header
from tests.sparse import write_sparse

PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
MAP = {"a": PARTS[0], "b": PARTS[0], "c": PARTS[1]}


def write_index(folder, entries=MAP, **more):
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": entries, **more}))
    return path


@pytest.fixture
def folder(tmp_path):
    write_sparse(tmp_path / PARTS[0], {"a": (3,), "b": (2, 2)}, metadata={"format": "pt"})
    write_sparse(tmp_path / PARTS[1], {"c": ("F32", (5,))}, metadata={"one": "two"})
    write_index(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [INDEX, PARTS[0], PARTS[1], "."])
def test_index_folder_and_every_part_mean_the_whole_model(folder, name):
    header = read_model_header(folder / name)
    assert header.path == folder / INDEX
    assert {name: entry.path.name for name, entry in header.tensors.items()} == MAP
    assert header.tensors["c"].shape == (5,)
    assert header.files == 2
    assert header.nbytes == sum((folder / part).stat().st_size for part in PARTS)
    assert header.metadata == {"format": "pt", "one": "two"}


def test_a_file_that_no_index_names_stands_for_itself(folder):
    path = write_sparse(folder / "other.safetensors", {"a": (3,)})
    header = read_model_header(path)
    assert (header.path, header.files) == (path, 1)
    assert header.tensors["a"].path == path


def test_an_index_that_cannot_be_read_hides_no_other_file(folder):
    (folder / "a.index.json").write_text("{")
    assert read_model_header(folder / PARTS[0]).files == 2
    (folder / INDEX).unlink()
    assert read_model_header(folder / PARTS[0]).files == 1


def test_parts_that_are_not_there_are_counted(folder):
    (folder / PARTS[1]).unlink()
    said = (
        r"lacks 1 of the 2 files that model\.safetensors\.index\.json names, the first is model-0"
    )
    with pytest.raises(CheckpointError, match=said):
        read_model_header(folder / PARTS[0])


def test_a_part_that_is_cut_short_is_named(folder):
    part = folder / PARTS[1]
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.*it looks half-downloaded"):
        read_model_header(folder)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({**MAP, "d": PARTS[1]}, "d is not in model-00002-of-00002.safetensors"),
        ({**MAP, "a": PARTS[1]}, "a is not in model-00002-of-00002.safetensors"),
        ({**MAP, "a": "../a.safetensors"}, "a is in no .safetensors file of the same folder"),
        ({**MAP, "a": "C:a.safetensors"}, "a is in no .safetensors file of the same folder"),
        ({**MAP, "a": "x\\a.safetensors"}, "a is in no .safetensors file of the same folder"),
        (
            {**MAP, "a": "ä" * 122 + ".safetensors"},
            "a is in no .safetensors file of the same folder",
        ),
        ({**MAP, "a": "model.pt"}, "a is in no .safetensors file of the same folder"),
        ({**MAP, "a": 3}, "a is in no .safetensors file of the same folder"),
        ({}, "it has no weight_map"),
        ([], "it has no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(folder, entries, said):
    index = write_index(folder, entries)
    with pytest.raises(CheckpointError) as refused:
        read_model_header(index)
    assert str(refused.value) == (
        f"{index} is no index of a model's files: {said}; download it again."
    )


@pytest.mark.parametrize("text", ["", "{", "3", "[]", '{"weight_map": 3}', "[" * 100_000])
def test_what_is_no_index_is_refused(folder, text):
    (folder / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="is no index of a model's files"):
        read_model_header(folder / INDEX)


def test_a_tensor_in_two_parts_is_refused(folder):
    write_sparse(folder / PARTS[1], {"c": ("F32", (5,)), "a": (3,)})
    with pytest.raises(CheckpointError, match="a is in two of its files"):
        read_model_header(folder)


def test_parts_that_note_different_models_are_refused(folder):
    for part, name in zip(PARTS, ("a", "c"), strict=True):
        write_sparse(folder / part, {name: (3,)}, metadata={"swift_i2v": part, "format": part})
    write_index(folder, {"a": PARTS[0], "c": PARTS[1]})
    with pytest.raises(CheckpointError, match="its files do not agree on swift_i2v in their meta"):
        read_model_header(folder)


def test_a_name_that_the_system_refuses_is_refused_in_a_sentence(folder):
    with pytest.raises(CheckpointError, match="File name too long; check the name"):
        read_model_header(folder / f"{'a' * 300}.safetensors")


def test_an_index_is_not_read_beyond_what_it_can_be(folder, monkeypatch):
    monkeypatch.setattr(shards, "_MAX_INDEX_NBYTES", 10)
    with pytest.raises(CheckpointError, match="it is longer than 10 bytes"):
        read_model_header(folder / INDEX)
    monkeypatch.setattr(shards, "_MAX_INDEX_NBYTES", 10_000)
    monkeypatch.setattr(shards, "_MAX_FILES", 1)
    with pytest.raises(CheckpointError, match="it names 2 files, and models have at most 1"):
        read_model_header(folder / INDEX)


def test_a_folder_must_have_one_index(folder):
    write_index(folder).rename(folder / "b.index.json")
    (folder / "c.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is a folder with 2 files named \*\.index\.json"):
        read_model_header(folder)
    with pytest.raises(CheckpointError, match=r"no\.index\.json does not exist"):
        read_model_header(folder / "no.index.json")
