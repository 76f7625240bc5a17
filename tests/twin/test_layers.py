"""Layers that come to the device in turn, against all of them there."""

from dataclasses import replace

import pytest
import torch

from swift_core.memory.layers import visit_by_layer
from swift_core.precision import BF16, FP32
from swift_core.stages.fit import text_nbytes
from swift_core.stages.prompt import encode_prompt
from swift_core.text.umt5 import UMT5_XXL
from swift_core.weights.build_text import build_umt5
from swift_core.weights.slots import Slot
from tests.models import RUNTIME
from tests.umt5 import SMALL_UMT5
from tests.unit.test_text_umt5 import umt5_file

CPU = torch.device("cpu")
PROMPT = "slow zoom in on a cup of coffee"


@pytest.fixture
def encoder_slot(tmp_path):
    checkpoint = umt5_file(tmp_path)
    return Slot(
        config=SMALL_UMT5,
        source="test",
        load=lambda precision: build_umt5(checkpoint, None, precision=precision),
    )


@pytest.mark.parametrize("precision", [FP32, replace(BF16, weights=torch.bfloat16)])
def test_the_embedding_is_the_same_and_weights_go_home(encoder_slot, precision):
    encoder = encoder_slot.load(precision)
    whole = encoder.encode(PROMPT, max_tokens=20)
    visitor = encoder_slot.load(precision)
    home = [parameter.data_ptr() for parameter in visitor.parameters()]
    visit_by_layer(visitor, visitor.layers(), CPU)
    for _ in range(2):
        assert torch.equal(visitor.encode(PROMPT, max_tokens=20), whole)
    assert [parameter.data_ptr() for parameter in visitor.parameters()] == home


def test_a_layer_is_there_only_while_it_works(encoder_slot):
    encoder = encoder_slot.load(FP32)
    layers = encoder.layers()
    at_work = []

    def arriving(layer):
        return [parameter.data_ptr() for parameter in layer.parameters()]

    home = [arriving(layer) for layer in layers]
    visit_by_layer(encoder, layers, CPU)
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda *_: at_work.append(
                [arriving(one) != there for one, there in zip(layers, home, strict=True)]
            )
        )
    to = torch.Tensor.to
    try:
        torch.Tensor.to = lambda tensor, *given: (
            tensor.clone() if given == (CPU,) else to(tensor, *given)
        )
        encoder.encode(PROMPT, max_tokens=20)
    finally:
        torch.Tensor.to = to
    assert at_work == [[True, False], [False, True]]


def test_an_error_within_a_layer_sends_it_home(encoder_slot):
    encoder = encoder_slot.load(FP32)
    first = encoder.layers()[0]
    home = [parameter.data_ptr() for parameter in first.parameters()]
    visit_by_layer(encoder, encoder.layers(), CPU)
    handle = first.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder.encode(PROMPT, max_tokens=20)
    handle.remove()
    encoder.encode(PROMPT, max_tokens=20)
    assert [parameter.data_ptr() for parameter in first.parameters()] == home


def test_a_runtime_visits_only_what_does_not_fit(encoder_slot):
    nbytes = sum(parameter.nbytes for parameter in encoder_slot.load(FP32).parameters())
    for budget, hooks in ((nbytes, 0), (nbytes - 1, 1)):
        runtime = replace(RUNTIME, budget_nbytes=lambda budget=budget: budget)
        loaded = runtime.load_text(encoder_slot)
        assert all(len(layer._forward_pre_hooks) == hooks for layer in loaded.layers())


@pytest.mark.parametrize("budget", [None, 10**9])
@pytest.mark.parametrize("where", ["weights", "work"])
def test_out_of_memory_its_layers_come_in_turn(encoder_slot, monkeypatch, caplog, budget, where):
    """Whether it is found out as they come, or as they work."""

    def load(precision):
        encoder = encoder_slot.load(precision)
        if not loaded:
            breaks = {"weights": "to", "work": "encode"}[where]
            monkeypatch.setattr(encoder, breaks, no_memory)
        loaded.append(encoder)
        return encoder

    def no_memory(*_given, **_more):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    loaded = []
    bound = None if budget is None else lambda: budget
    runtime, whole = replace(RUNTIME, budget_nbytes=bound), encoder_slot.load(FP32)
    words = {"negative": "blurred", "max_tokens": 20, "runtime": runtime}
    made = encode_prompt(replace(encoder_slot, load=load), PROMPT, **words)
    assert torch.equal(made.positive, whole.encode(PROMPT, max_tokens=20))
    assert torch.equal(made.negative, whole.encode("blurred", max_tokens=20))
    assert [len(encoder.layers()[0]._forward_pre_hooks) for encoder in loaded] == [0, 1]
    assert "layers one after the other" in caplog.text


def test_weights_are_counted_as_the_module_has_them(encoder_slot):
    encoder = encoder_slot.load(FP32)
    total, visiting = text_nbytes(SMALL_UMT5, compute=torch.float32)
    assert total == sum(parameter.nbytes for parameter in encoder.parameters())
    layers = [sum(p.nbytes for p in layer.parameters()) for layer in encoder.layers()]
    assert visiting == total - sum(layers) + 2 * layers[0]
    total, visiting = text_nbytes(UMT5_XXL, compute=torch.bfloat16)
    assert total == pytest.approx(11.36e9, rel=0.01)
    assert visiting == pytest.approx(2.9e9, rel=0.05)
