"""The set that comes with the package is whole, small, and knows pictures."""

from pathlib import Path

import pytest
import torch

from swift_core.media.pictures import fit_picture, load_picture
from swift_core.precision import FP32
from swift_core.weights.bundled import BUNDLED_SET, open_bundled_set

SAMPLE = Path(__file__).parents[2] / "sample" / "coffee.jpg"
MOST_BYTES = 40_000_000


@pytest.fixture(scope="module")
def models():
    return open_bundled_set()


def test_it_is_the_trained_set_and_small(models):
    assert models.name == "swift-tiny"
    assert sum(path.stat().st_size for path in BUNDLED_SET.iterdir()) <= MOST_BYTES
    assert (BUNDLED_SET / "MODEL_CARD.md").is_file()


def test_every_model_of_it_is_whole(models):
    for slot in (models.text, models.motion_high, models.detail, models.detail_vae):
        module = slot.load(FP32)
        for name, parameter in module.named_parameters():
            assert parameter.isfinite().all(), name


def test_its_vae_keeps_a_picture_it_never_saw(models):
    """30 dB: finer than the eye sees at this size, in colours too."""
    vae = models.detail_vae.load(FP32)
    picture = fit_picture(load_picture(SAMPLE), height=160, width=256)
    pixels = (picture * 2 - 1).permute(2, 0, 1)[None, :, None]
    with torch.inference_mode():
        made = vae.decode(vae.encode(pixels))
    assert (made - pixels).square().mean() < 4 * 10 ** (-30 / 10)


def test_without_its_files_there_are_random_weights_that_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr("swift_core.weights.bundled.BUNDLED_SET", tmp_path / "nothing")
    models = open_bundled_set()
    assert models.name == "seeded"
    assert "random weights" in models.description
