"""Linear layers in 8 bits against the same layer in float64."""

import pytest
import torch

from swift_core.errors import DeviceError
from swift_core.model.scaled import FP8_FORMATS, ScaledLinear, check_products

OUTPUTS, INPUTS = 48, 64


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(dtype, *, by_row, shape=(OUTPUTS, INPUTS)):
    """Give an 8-bit weight, its scale, and what both stand for, in float64."""
    full = draw(*shape, seed=1)
    largest = full.abs().amax(1, keepdim=True) if by_row else full.abs().amax()
    scale = largest / torch.finfo(dtype).max
    weight = (full / scale).to(dtype)
    return weight, scale, weight.double() * scale.double()


def distance(got, wanted):
    return ((got.double() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("dtype", FP8_FORMATS)
def test_in_fp32_it_is_the_layer_that_the_file_means(dtype, by_row):
    weight, scale, full = packed(dtype, by_row=by_row)
    tokens, bias = draw(2, 5, INPUTS, seed=2), draw(OUTPUTS, seed=3)
    got = ScaledLinear(weight, scale=scale, bias=bias)(tokens)
    assert got.shape == (2, 5, OUTPUTS)
    assert got.dtype == torch.float32
    assert distance(got, tokens.double() @ full.t() + bias.double()) < 1e-6


@pytest.mark.parametrize("by_row", [False, True])
def test_an_unpacked_weight_is_rounded_once(by_row):
    weight, scale, full = packed(torch.float8_e4m3fn, by_row=by_row)
    layer = ScaledLinear(weight, scale=scale, bias=None)
    assert torch.equal(layer.unpacked_weight(torch.bfloat16), full.to(torch.bfloat16))
    assert torch.equal(layer.unpacked_weight(torch.float32), full.float())
    assert layer.weight.dtype == torch.float8_e4m3fn


def test_in_bf16_the_error_is_that_of_bf16():
    weight, scale, full = packed(torch.float8_e4m3fn, by_row=False)
    tokens = draw(30, INPUTS, seed=2).bfloat16()
    got = ScaledLinear(weight, scale=scale, bias=None)(tokens)
    assert got.dtype == torch.bfloat16
    assert distance(got, tokens.double() @ full.t()) < 4e-3


@pytest.mark.parametrize(
    ("dtype", "by_row"),
    [(torch.float8_e4m3fn, False), (torch.float8_e4m3fn, True), (torch.float8_e5m2, False)],
)
def test_8_bit_products_stay_within_the_stated_error(dtype, by_row):
    weight, scale, full = packed(dtype, by_row=by_row)
    tokens, bias = draw(2, 40, INPUTS, seed=2), draw(OUTPUTS, seed=3)
    layer = ScaledLinear(weight, scale=scale, bias=bias, products=True)
    assert layer.products
    error = distance(layer(tokens), tokens.double() @ full.t() + bias.double())
    # Activations of 3 mantissa bits are off by 2.7 % (root mean square); 0 would be another way.
    assert 1e-3 < error < 0.04


def test_a_product_of_nothing_is_nothing():
    weight, scale, _ = packed(torch.float8_e4m3fn, by_row=False)
    layer = ScaledLinear(weight, scale=scale, bias=None, products=True)
    assert torch.equal(layer(torch.zeros(16, INPUTS)), torch.zeros(16, OUTPUTS))


def test_sides_that_the_hardware_does_not_take_are_unpacked():
    weight, scale, full = packed(torch.float8_e4m3fn, by_row=False, shape=(20, 33))
    layer = ScaledLinear(weight, scale=scale, bias=None, products=True)
    tokens = draw(7, 33, seed=2)
    assert not layer.products
    assert distance(layer(tokens), tokens.double() @ full.t()) < 1e-6


def test_an_ordinary_layer_can_be_made_of_it():
    weight, scale, full = packed(torch.float8_e5m2, by_row=True)
    bias = draw(OUTPUTS, seed=3)
    layer = ScaledLinear(weight, scale=scale, bias=bias).eval().unpacked(torch.bfloat16)
    assert type(layer) is torch.nn.Linear
    assert torch.equal(layer.weight, full.to(torch.bfloat16))
    assert torch.equal(layer.bias, bias.bfloat16())
    assert not layer.training
    assert not layer.weight.requires_grad


def test_moving_it_keeps_weight_and_scale():
    weight, scale, _ = packed(torch.float8_e4m3fn, by_row=True)
    layer = ScaledLinear(weight, scale=scale, bias=None).to("cpu")
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert torch.equal(layer.row_scale, scale)
    assert set(layer.state_dict()) == {"weight"}


def test_a_card_without_8_bit_products_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "GeForce RTX 3090")
    with pytest.raises(DeviceError, match=r"RTX 3090 has no 8-bit matrix products.*RTX 40 series"):
        check_products(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    check_products(torch.device("cuda"))
    check_products(torch.device("cpu"))
