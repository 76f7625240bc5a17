"""The built-in set: the real classes, small, repeatable, and finite."""

import pytest
import torch

from swift_core.precision import BF16, FP32
from swift_core.weights.seeded import seeded_model_set

SLOTS = ("text", "motion_high", "motion_low", "motion_vae", "detail", "detail_vae")


@pytest.fixture(scope="module")
def models():
    return seeded_model_set()


def weights(models, slot, precision=FP32):
    return getattr(models, slot).load(precision).state_dict()


def test_it_says_that_it_has_learned_nothing(models):
    assert models.name == "seeded"
    assert "random weights" in models.description
    assert "the pictures are noise" in models.description
    assert {getattr(models, slot).source for slot in SLOTS} == {"seeded"}


def test_the_vae_is_shared_and_the_experts_are_two(models):
    assert models.motion_vae is models.detail_vae
    high, low = weights(models, "motion_high"), weights(models, "motion_low")
    assert not any(torch.equal(high[name], low[name]) for name in high)


def test_the_global_random_state_is_neither_read_nor_changed(models):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = {slot: weights(models, slot) for slot in SLOTS}
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    for slot in SLOTS:
        again = weights(seeded_model_set(0), slot)
        assert all(torch.equal(first[slot][name], again[name]) for name in again)


@pytest.mark.parametrize("seed", [1, -1, 10**30])
def test_another_seed_gives_other_weights(models, seed):
    usual, other = weights(models, "detail"), weights(seeded_model_set(seed), "detail")
    assert not any(torch.equal(usual[name], other[name]) for name in other)


@pytest.mark.parametrize("slot", ["motion_high", "motion_low", "detail"])
def test_velocities_are_of_order_one(models, slot):
    dit = getattr(models, slot).load(FP32)
    prompt = dit.read_prompt(models.text.load(FP32).encode("a cat runs", max_tokens=512))
    draw = torch.Generator().manual_seed(0)
    latent = torch.randn(1, dit.config.in_channels, 3, 6, 8, generator=draw)
    for timestep in (0.0, 700.0, 1000.0):
        velocity = dit(latent, torch.full((1, 3), timestep), prompt, positions=range(3))
        assert velocity.isfinite().all()
        assert 0.3 < velocity.std() < 3


def test_latents_and_pixels_are_of_order_one(models):
    vae = models.detail_vae.load(FP32)
    draw = torch.Generator().manual_seed(0)
    latent = vae.encode(2 * torch.rand(1, 3, 9, 32, 48, generator=draw) - 1)
    assert latent.shape == (1, 48, 3, 4, 6)
    assert 0.1 < latent.std() < 3
    pixels = vae.decode(latent)
    assert pixels.shape == (1, 3, 9, 32, 48)
    assert 0.1 < pixels.std() < 1


def test_bf16_differs_by_rounding_only(models):
    for slot in SLOTS:
        wide, narrow = weights(models, slot), weights(models, slot, BF16)
        assert all(torch.equal(narrow[n], wide[n].to(narrow[n].dtype)) for n in wide)
