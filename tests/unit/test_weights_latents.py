"""Latents on disk: what was saved is loaded, and nothing else passes for one."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from safetensors import SafetensorError

from swift_core.errors import CheckpointError, OutputError
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights import latents
from swift_core.weights.latents import SavedLatent, load_latent, save_latent
from tests.sparse import write_sparse

SPACE = WAN22_VAE.latent_space
SHAPE = {"latent": (1, 48, 2, 3, 4)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "latent.safetensors"


def write_latent(path, rate="16", shapes=SHAPE, dtype="F32"):
    notes = {"frames_per_second": rate, "latent_space": SPACE}
    metadata = {"swift_i2v_latent": json.dumps(notes)}
    return write_sparse(path, shapes, dtype=dtype, metadata=metadata)


@pytest.mark.parametrize("rate", [Fraction(16), Fraction(24000, 1001)])
def test_what_is_saved_is_loaded(path, rate):
    latent = torch.randn(1, 48, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    saved = SavedLatent(latent=latent, frames_per_second=rate, latent_space=SPACE)
    save_latent(saved, path)
    loaded = load_latent(path)
    assert torch.equal(loaded.latent, latent)
    assert loaded.frames_per_second == rate
    assert loaded.latent_space == SPACE
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "changes",
    [
        {"shapes": {"other": (1, 48, 2, 3, 4)}},
        {"shapes": {"latent": (48, 2, 3, 4)}},
        {"shapes": {"latent": (2, 48, 2, 3, 4)}},
        {"shapes": {"latent": (1, 48, 0, 3, 4)}},
        {"dtype": "BF16"},
    ],
)
def test_other_tensors_are_no_latent(path, changes):
    with pytest.raises(CheckpointError, match="is no saved latent; pass a file written by gener"):
        load_latent(write_latent(path, **changes))


def test_a_file_without_our_notes_is_no_latent(path):
    with pytest.raises(CheckpointError, match="is no saved latent"):
        load_latent(write_sparse(path, SHAPE, dtype="F32"))


@pytest.mark.parametrize("rate", ["1e999999999", "0", "16/0", "-1", "inf", "1" * 30, "٣", 16, [16]])
def test_a_hostile_rate_is_refused_at_once(path, rate):
    with pytest.raises(CheckpointError, match=r"as its frames per second, which must be a number"):
        load_latent(write_latent(path, rate=rate))


@pytest.mark.parametrize(
    "notes", ["{}", '{"frames_per_second": "16"}', "{", "[]", "3", "[" * 100_000]
)
def test_notes_without_a_rate_are_refused(path, notes):
    write_sparse(path, SHAPE, dtype="F32", metadata={"swift_i2v_latent": notes})
    with pytest.raises(CheckpointError, match="does not say its frames per second"):
        load_latent(path)


def test_a_file_that_goes_away_is_refused(path, monkeypatch):
    def gone(_path):
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(latents, "load_file", gone)
    with pytest.raises(CheckpointError, match=r"can no longer be read: .*No such file"):
        load_latent(write_latent(path))


def test_a_disk_that_is_full_is_named(path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(latents, "save_file", full)
    saved = SavedLatent(
        latent=torch.zeros(1, 1, 1, 1, 1), frames_per_second=Fraction(16), latent_space=SPACE
    )
    with pytest.raises(OutputError, match=r"cannot be written: No space left .* make room"):
        save_latent(saved, path)
    assert list(path.parent.iterdir()) == []


def test_a_latent_space_is_named_by_size_and_statistics():
    other = replace(WAN22_VAE, latent_mean=WAN22_VAE.latent_mean[::-1])
    wider = replace(WAN22_VAE, decoder_dim=2 * WAN22_VAE.decoder_dim)
    assert SPACE.startswith("48 channels, 16x16x4 compression, statistics ")
    assert len({SPACE, other.latent_space, WAN21_VAE.latent_space}) == 3
    assert wider.latent_space == SPACE, "another decoder reads the same latents"


def test_a_saved_file_has_the_users_usual_mode(path):
    saved = SavedLatent(
        latent=torch.zeros(1, 1, 1, 1, 1), frames_per_second=Fraction(16), latent_space=SPACE
    )
    save_latent(saved, path)
    usual = path.with_name("usual")
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode
