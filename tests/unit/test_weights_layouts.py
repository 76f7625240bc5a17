"""Key tables: each name of a published model has its place, and every other name is refused."""

from dataclasses import replace

import pytest
import torch

from swift_core.errors import CheckpointError
from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B, WAN22_TI2V_5B
from swift_core.vae.config import WAN21_VAE, WAN22_VAE
from swift_core.weights.detect import expected_shapes
from swift_core.weights.layouts import (
    Layout,
    dit_to_diffusers,
    to_wan_keys,
    vae_to_diffusers,
)
from swift_core.weights.seeded import SEEDED_DETAIL, SEEDED_MOTION, SEEDED_VAE

DITS = (WAN22_TI2V_5B, WAN22_REFERENCE_5B, WAN22_I2V_A14B, SEEDED_MOTION, SEEDED_DETAIL)
FLAT_SMALL_VAE = replace(SEEDED_VAE, residual=False, dim_mult=(1, 2, 2), residual_blocks=3)
VAES = (WAN22_VAE, WAN21_VAE, SEEDED_VAE, FLAT_SMALL_VAE)


def in_diffusers(config):
    """Names and shapes of diffusers' model with these numbers."""
    pytest.importorskip("diffusers")
    from tests.oracles import empty_oracle_dit, empty_oracle_vae

    make = empty_oracle_dit if hasattr(config, "heads") else empty_oracle_vae
    with torch.device("meta"):
        oracle = make(config)
    return {name: tuple(value.shape) for name, value in oracle.state_dict().items()}


@pytest.mark.oracle
@pytest.mark.parametrize("config", DITS, ids=lambda config: f"{config.in_channels}-{config.dim}")
def test_a_dits_names_and_shapes_are_those_of_diffusers_and_back(config):
    ours, theirs = expected_shapes(config), in_diffusers(config)
    there = dit_to_diffusers(ours)
    assert {there[name]: shape for name, shape in ours.items()} == theirs
    back = to_wan_keys(theirs, Layout.DIFFUSERS_DIT)
    assert {back[there[name]] for name in ours} == set(ours)
    assert all(back[there[name]] == name for name in ours)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "config", VAES, ids=lambda config: f"{config.latent_channels}-{config.encoder_dim}"
)
def test_a_vaes_names_and_shapes_are_those_of_diffusers_and_back(config):
    ours, theirs = expected_shapes(config), in_diffusers(config)
    there = vae_to_diffusers(ours, config)
    assert {there[name]: shape for name, shape in ours.items()} == theirs
    back = to_wan_keys(theirs, Layout.DIFFUSERS_VAE)
    assert all(back[there[name]] == name for name in ours)


def test_half_a_vae_is_translated_too():
    for config in (WAN22_VAE, WAN21_VAE):
        there = vae_to_diffusers(expected_shapes(config), config)
        decoder = {name: there[name] for name in there if name.startswith("decoder.")}
        back = to_wan_keys(decoder.values(), Layout.DIFFUSERS_VAE)
        assert all(back[theirs] == ours for ours, theirs in decoder.items())


@pytest.mark.parametrize("layout", [Layout.WAN, Layout.OWN])
def test_original_names_are_their_own(layout):
    assert to_wan_keys(["a", "b"], layout) == {"a": "a", "b": "b"}


def test_an_unknown_name_is_refused_by_name():
    with pytest.raises(CheckpointError, match="1 of 1 tensors do not belong to diffusers DiT keys"):
        to_wan_keys(["blocks.0.attn3.to_q.weight"], Layout.DIFFUSERS_DIT)
    with pytest.raises(CheckpointError, match=r"the first being blocks\.00\.attn1\.to_q\.weight"):
        to_wan_keys(["blocks.00.attn1.to_q.weight"], Layout.DIFFUSERS_DIT)
    with pytest.raises(CheckpointError, match="to our DiT's keys, the first being a"):
        dit_to_diffusers(["a"])
    with pytest.raises(CheckpointError, match="to our VAE's keys, the first being a"):
        vae_to_diffusers(["a"], WAN22_VAE)


@pytest.mark.parametrize("number", ["256", "9999999999999999999999"])
def test_a_header_cannot_ask_for_tables_without_end(number):
    with pytest.raises(CheckpointError, match="no known model has more than 256 of a kind"):
        to_wan_keys([f"blocks.{number}.attn1.to_q.weight"], Layout.DIFFUSERS_DIT)


def test_a_header_cannot_ask_for_a_vae_of_many_levels_with_many_layers():
    names = ["encoder.down_blocks.8.resnets.255.conv1.weight"]
    with pytest.raises(CheckpointError, match="no known model has more than 8 of a kind"):
        to_wan_keys(names, Layout.DIFFUSERS_VAE)
