"""Models from files: whatever their layout and format, or refused in one sentence."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from swift_core.errors import CheckpointError, OutputError
from swift_core.precision import BF16, FP32
from swift_core.weights import build
from swift_core.weights.build import (
    build_dit,
    build_vae,
    build_words,
    check_usable,
    save_checkpoint,
)
from swift_core.weights.detect import expected_shapes, look_into
from swift_core.weights.layouts import dit_to_diffusers, vae_to_diffusers
from swift_core.weights.notes import describe_metadata
from swift_core.weights.seeded import SEEDED_DETAIL, SEEDED_VAE, seeded_model_set
from tests.sparse import write_sparse

BUILDERS = {"detail": build_dit, "motion_high": build_dit, "detail_vae": build_vae}
BUILDERS["text"] = build_words


@pytest.fixture(scope="module")
def models():
    return seeded_model_set(1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def same(one, other):
    """Compare two modules' weights bit for bit, formats included."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("slot", BUILDERS)
@pytest.mark.parametrize("precision", [FP32, BF16])
def test_what_is_saved_is_built_again(models, path, slot, precision):
    saved = getattr(models, slot)
    save_checkpoint(saved.load(FP32), path)
    built = BUILDERS[slot](path, precision=precision)
    same(built, saved.load(precision))
    assert built.config == saved.config
    assert not built.training
    assert not any(parameter.requires_grad for parameter in built.parameters())
    assert not any(tensor.is_meta for tensor in built.state_dict().values())


def rename(names):
    return lambda weights: {names[name]: value for name, value in weights.items()}


LAYOUTS = {
    "prefixed": lambda weights: {f"model.diffusion_model.{n}": v for n, v in weights.items()},
    "diffusers": lambda weights: rename(dit_to_diffusers(weights))(weights),
    "diffusers, prefixed": lambda weights: {
        f"transformer.{n}": v for n, v in rename(dit_to_diffusers(weights))(weights).items()
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_dit_builds_the_same(models, path, layout):
    dit = models.detail.load(FP32)
    weights = LAYOUTS[layout](dit.state_dict())
    save_file(weights, path, metadata=describe_metadata(dit.config))
    same(build_dit(str(path), precision=FP32), dit)
    same(build_dit(look_into(path), precision=BF16), models.detail.load(BF16))


def test_a_vae_in_diffusers_names_builds_the_same(models, path):
    vae = models.detail_vae.load(FP32)
    weights = {name: value.contiguous() for name, value in vae.state_dict().items()}
    names = vae_to_diffusers(weights, vae.config)
    save_file(rename(names)(weights), path, metadata=describe_metadata(vae.config))
    same(build_vae(path, precision=FP32), vae)


def test_fp32_islands_stay_fp32(models):
    dit = models.detail.load(BF16).state_dict()
    assert dit["head.head.weight"].dtype == torch.float32
    assert dit["blocks.0.modulation"].dtype == torch.float32
    assert dit["blocks.0.self_attn.norm_q.weight"].dtype == torch.float32
    assert dit["blocks.0.self_attn.q.weight"].dtype == torch.bfloat16
    vae = models.detail_vae.load(BF16).state_dict()
    assert vae["decoder.head.0.gamma"].dtype == torch.float32
    assert vae["decoder.head.2.weight"].dtype == torch.bfloat16


def test_a_file_of_another_kind_is_refused_by_name(models, path):
    save_checkpoint(models.detail_vae.load(FP32), path)
    said = r"model\.safetensors is a custom Wan VAE, but a DiT is needed here; choose another file"
    with pytest.raises(CheckpointError, match=said):
        build_dit(path, precision=FP32)
    with pytest.raises(CheckpointError, match="but a word text encoder is needed here"):
        build_words(path, precision=FP32)
    write_sparse(path, {"a": (1,)})
    with pytest.raises(CheckpointError, match="is an unknown file, but a VAE is needed here"):
        build_vae(path, precision=FP32)


def test_a_file_that_is_not_whole_is_refused_before_it_is_read(path):
    shapes = dict(expected_shapes(SEEDED_DETAIL))
    del shapes["head.modulation"]
    shapes["more.weight"] = (3,)
    write_sparse(path, shapes, metadata=describe_metadata(SEEDED_DETAIL))
    said = (
        "is not whole: custom Wan DiT: .* 95 of 96 tensors found; first missing: head.modulation; "
        "1 that do not belong, the first: more.weight"
    )
    with pytest.raises(CheckpointError, match=said):
        build_dit(path, precision=FP32)


def test_packed_weights_that_are_not_read_are_refused(path):
    shapes = {name: ("I8", shape) for name, shape in expected_shapes(SEEDED_VAE).items()}
    write_sparse(path, shapes, metadata=describe_metadata(SEEDED_VAE))
    said = (
        "is a custom Wan VAE, which cannot be used: weights in int8 are not read here; in ComfyUI "
        "load it with its own loader node and connect that to a MODEL input, elsewhere choose it in"
    )
    with pytest.raises(CheckpointError, match=said):
        build_vae(path, precision=FP32)
    with pytest.raises(CheckpointError, match=said):
        check_usable(look_into(path))


@pytest.mark.parametrize("change", ["remove", "truncate", "other"])
def test_a_file_that_changes_after_its_header_was_read_is_refused(models, path, change):
    save_checkpoint(models.detail.load(FP32), path)
    checkpoint = look_into(path)
    if change == "remove":
        path.unlink()
    elif change == "truncate":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(
        CheckpointError, match=r"is not what it was a moment ago .*: it was moved or"
    ):
        build_dit(checkpoint, precision=FP32)


def test_a_file_changed_to_other_shapes_under_the_same_names_is_refused(models, path):
    save_checkpoint(models.detail.load(FP32), path)
    checkpoint = look_into(path)
    weights = load_file(path)
    weights["head.head.bias"] = torch.zeros(3)
    path.unlink()
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"ago .head.head.bias has another shape"):
        build_dit(checkpoint, precision=FP32)


def test_saving_replaces_the_file_as_a_whole(models, path):
    path.write_bytes(b"what was there")
    save_checkpoint(models.text.load(FP32), path)
    same(build_words(path, precision=FP32), models.text.load(FP32))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_saving_where_there_is_no_place_says_so(models, tmp_path, monkeypatch):
    words = models.text.load(FP32)
    taken = tmp_path / "taken.safetensors"
    taken.mkdir()
    with pytest.raises(OutputError, match=r"taken\.safetensors cannot be replaced"):
        save_checkpoint(words, taken)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "save_file", full)
    with pytest.raises(OutputError, match=r"cannot be written: .*No space left.*; choose another"):
        save_checkpoint(words, tmp_path / "model.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.safetensors"]
