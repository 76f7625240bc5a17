"""Whatever a file holds, reading it ends in a value or in a ``CheckpointError``."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swift_core.errors import CheckpointError, SwiftError
from swift_core.precision import FP32
from swift_core.weights.build import build_words, save_checkpoint
from swift_core.weights.detect import detect, expected_shapes, look_into
from swift_core.weights.headers import read_header
from swift_core.weights.layouts import dit_to_diffusers, vae_to_diffusers
from swift_core.weights.model_set import open_model_set
from swift_core.weights.notes import describe_metadata
from swift_core.weights.seeded import (
    SEEDED_DETAIL,
    SEEDED_VAE,
    SEEDED_WORDS,
    seeded_model_set,
)
from tests.sparse import write_raw, write_sparse

# One file is written again and again.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def survives(path):
    """Read a file as far as it goes; anything but a CheckpointError fails the test."""
    refusal = None
    try:
        checkpoint = detect(read_header(path))
        said = checkpoint.sentence
        json.dumps(checkpoint.as_data())
    except CheckpointError as error:
        refusal = said = str(error)
    assert said.isprintable()
    assert refusal is None or str(path) in refusal


@same_folder
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    survives(path)


@same_folder
@given(value=json_values, data=st.integers(0, 100))
def test_any_json_as_a_header(tmp_path, value, data):
    survives(write_raw(tmp_path / "a.safetensors", json.dumps(value).encode(), data=data))


@same_folder
@given(
    entries=st.dictionaries(
        st.sampled_from(["a", "words.weight", "__metadata__", "head.modulation"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "X"]) | json_values,
                "shape": st.lists(st.integers(-2, 5), max_size=3) | json_values,
                "data_offsets": st.lists(st.integers(-2, 60), max_size=3) | json_values,
            }
        )
        | json_values,
    ),
    data=st.integers(0, 100),
)
def test_any_entries(tmp_path, entries, data):
    survives(write_raw(tmp_path / "a.safetensors", json.dumps(entries).encode(), data=data))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "text.safetensors"
    save_checkpoint(seeded_model_set().text.load(FP32), path)
    return path.read_bytes()


@same_folder
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_refused(tmp_path, whole, fraction):
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(CheckpointError, match=r"half-downloaded|is empty"):
        build_words(path, precision=FP32)


@same_folder
@given(place=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_changed_byte_in_the_header_never_crashes(tmp_path, whole, place, byte):
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    with contextlib.suppress(CheckpointError):
        build_words(path, precision=FP32)


DIT, VAE, WORDS = (dict(expected_shapes(c)) for c in (SEEDED_DETAIL, SEEDED_VAE, SEEDED_WORDS))
MODELS = [
    (DIT, SEEDED_DETAIL),
    ({dit_to_diffusers(DIT)[name]: shape for name, shape in DIT.items()}, SEEDED_DETAIL),
    (VAE, SEEDED_VAE),
    ({vae_to_diffusers(VAE, SEEDED_VAE)[n]: s for n, s in VAE.items()}, SEEDED_VAE),
    (WORDS, SEEDED_WORDS),
]
sizes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 48, 128, 192]), max_size=5).map(tuple)


@same_folder
@given(data=st.data(), model=st.sampled_from(MODELS), noted=st.booleans())
def test_models_with_tensors_lost_added_and_misshapen(tmp_path, data, model, noted):
    shapes, config = model
    names = st.sampled_from(sorted(shapes))
    changed = {**shapes, **data.draw(st.dictionaries(names, sizes, max_size=3))}
    extra = st.text(st.sampled_from("blocks.0123attnqw"), max_size=20)
    changed |= data.draw(st.dictionaries(names.map(lambda n: f"{n}.0") | extra, sizes, max_size=2))
    lost = data.draw(st.sets(names, max_size=3))
    kept = {name: shape for name, shape in changed.items() if name not in lost}
    metadata = describe_metadata(config) if noted else None
    survives(write_sparse(tmp_path / "a.safetensors", kept, metadata=metadata))


@same_folder
@given(value=json_values)
def test_any_notes(tmp_path, value):
    metadata = {"swift_i2v": json.dumps(value)}
    survives(write_sparse(tmp_path / "a.safetensors", WORDS, metadata=metadata))


@same_folder
@given(
    value=json_values
    | st.dictionaries(
        st.sampled_from(["name", "description", "slots", "motion", "detail", "boundary"]),
        json_values
        | st.dictionaries(
            st.sampled_from(["text", "detail", "motion_high", "motion_vae", "steps", "solver"]),
            json_values,
        ),
    )
)
def test_any_set_json(tmp_path, value):
    (tmp_path / "set.json").write_text(json.dumps(value))
    with pytest.raises(SwiftError):
        open_model_set(tmp_path)


@same_folder
@given(value=json_values | st.fixed_dictionaries({"weight_map": json_values}))
def test_any_index(tmp_path, value):
    write_sparse(tmp_path / "a.safetensors", {"words.weight": (4, 2)})
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps(value))
    with contextlib.suppress(CheckpointError):
        look_into(index)
    # What lies beside a file never hides it.
    assert look_into(tmp_path / "a.safetensors").name == "word text encoder"


names = st.sampled_from(
    ["a.safetensors", "b.safetensors", "../a.safetensors", "a\x00.safetensors", ""]
)


@same_folder
@given(st.dictionaries(st.sampled_from(["words.weight", "x", "y"]), names | json_values))
def test_any_map_of_tensors_to_files(tmp_path, entries):
    write_sparse(tmp_path / "a.safetensors", {"words.weight": (4, 2)})
    write_sparse(tmp_path / "b.safetensors", {"x": (3,)})
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": entries}))
    said, found = "", None
    try:
        found = look_into(index)
    except CheckpointError as refusal:
        said = str(refusal)
    assert said.isprintable()
    if found is None:
        assert str(tmp_path) in said
    else:
        assert {name: entry.path.name for name, entry in found.header.tensors.items()} == entries


SCALES = ("scale_weight", "weight_scale", "weight_scale_2", "comfy_quant", "scale_input")
formats = st.sampled_from(["F32", "F8_E4M3", "F8_E8M0", "U8", "I8", "BF16"])


@same_folder
@given(
    scales=st.dictionaries(
        st.tuples(
            st.sampled_from(["blocks.0.ffn.0", "head", "nowhere", ""]), st.sampled_from(SCALES)
        ),
        st.tuples(formats, st.lists(st.integers(0, 3), max_size=3).map(tuple)),
        max_size=4,
    ),
    metadata=st.none() | st.text(max_size=20) | json_values.map(json.dumps),
)
def test_any_scales(tmp_path, scales, metadata):
    shapes = dict(expected_shapes(SEEDED_DETAIL))
    for (layer, part), entry in scales.items():
        shapes[f"{layer}.{part}"] = entry
    notes = describe_metadata(SEEDED_DETAIL)
    if metadata is not None:
        notes["_quantization_metadata"] = metadata
    survives(write_sparse(tmp_path / "a.safetensors", shapes, metadata=notes))
