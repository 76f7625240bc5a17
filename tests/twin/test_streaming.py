"""DiT blocks that pass through a device, against the same DiT with everything resident.

On the CPU both ends are host memory and a copy is done when its call returns: what is tried here is
who is where when. A lane of its own makes copies late, as a device does, to show that the order of
marks alone keeps work and copies apart.
"""

import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from swift_core import lanes
from swift_core.memory import streaming
from swift_core.memory.residency import Residency
from swift_core.memory.streaming import BlockStream, block_nbytes, run_steadily, stream_blocks
from swift_core.model.low_rank import LowRankLinear
from swift_core.model.scaled import ScaledLinear
from swift_core.precision import BF16
from swift_core.slabs import Slabs
from swift_core.weights.build import build_dit
from swift_core.weights.lora import Lora, read_lora
from swift_core.weights.notes import describe_metadata
from tests.loras import make_factors, spelled
from tests.models import small_dit
from tests.weights import fill_

CPU = torch.device("cpu")
LAYERS = 7


def residency(dit, resident):
    largest, fixed = block_nbytes(dit)
    return Residency(
        blocks=LAYERS,
        resident=resident,
        block_nbytes=largest,
        fixed_nbytes=fixed,
        working_nbytes=0,
    )


def run(dit, seed=3, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    latent = torch.randn((1, 8, 3, 4, 6), generator=draw).to(dtype)
    text = torch.randn((1, 5, 16), generator=draw).to(dtype)
    timestep = torch.tensor([[0.0, 700.0, 700.0]])
    with torch.inference_mode():
        prompt = dit.read_prompt(text)
        context = dit.read_context(latent[:, :, :1], prompt, positions=(0,))
        alone = dit(latent, timestep, prompt, positions=(0, 1, 2))
        seeing = dit(latent[:, :, 1:], timestep[:, 1:], prompt, positions=(1, 2), context=context)
    return torch.cat((alone.flatten(), seeing.flatten()))


class LateLane(lanes.DirectLane):
    """Copies are done when somebody must wait for them, and not before."""

    def __init__(self):
        super().__init__()
        self.waiting = []
        self.done = 0
        self.order = []

    def copy(self, target, source):
        self.waiting.append((target, source))
        target.fill_(255)  # whoever reads too soon reads nonsense

    def after_copies(self):
        return self.done + len(self.waiting)

    @torch.inference_mode()
    def hold_work(self, mark):
        self.order.append(("work waits", mark))
        while self.done < mark:
            target, source = self.waiting.pop(0)
            target.copy_(source)
            self.done += 1

    def hold_copies(self, mark):
        self.order.append(("copies wait", mark))


@pytest.fixture(params=["direct", "late"])
def lane(request, monkeypatch):
    made = []

    def open_lane(_device):
        made.append(LateLane() if request.param == "late" else lanes.DirectLane())
        return made[-1]

    monkeypatch.setattr(streaming, "open_lane", open_lane)
    return made


@pytest.mark.parametrize("resident", range(LAYERS + 1))
@pytest.mark.usefixtures("lane")
def test_every_residency_computes_the_same(resident):
    whole, dit = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    stream = stream_blocks(dit, residency(dit, resident), device=CPU)
    expected = run(whole)
    assert torch.equal(run(dit), expected)
    assert torch.equal(run(dit), expected)
    copies = stream.report().copied_nbytes
    streamed = LAYERS - resident
    passes = 8  # of 4 walks each, twice
    if streamed <= 2:
        assert copies == streamed * block_nbytes(whole)[0]
    else:
        ahead = 2  # the next pass's first two are on their way
        assert copies == (passes * streamed + ahead) * block_nbytes(whole)[0]


def test_a_block_is_sent_for_when_the_next_one_has_work(monkeypatch):
    """Its copy may hold up the host, while the device has that work to do."""
    order = []

    class Telling(lanes.DirectLane):
        def copy(self, target, source):
            order.append("copy")
            super().copy(target, source)

    monkeypatch.setattr(streaming, "open_lane", lambda _device: Telling())
    dit = small_dit(layers=LAYERS)
    slabs = Slabs(10**9)  # a block is one copy
    monkeypatch.setattr(Telling, "pin", lambda *_: True)
    stream = stream_blocks(dit, residency(dit, 0), device=CPU, slabs=slabs)
    assert order == ["copy", "copy"]
    order.clear()
    for index, _ in enumerate(stream.walk()):
        order.append(index)
    assert order == [0, 1, "copy", 2, "copy", 3, "copy", 4, "copy", 5, "copy", 6, "copy", "copy"]


@pytest.mark.usefixtures("lane")
def test_weights_never_change_and_come_home():
    dit, whole = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    stream_blocks(dit, residency(dit, 2), device=CPU)
    run(dit)
    for name, value in whole.state_dict().items():
        assert torch.equal(dit.state_dict()[name], value), name


@pytest.mark.usefixtures("lane")
def test_packed_weights_stream_as_they_are():
    def packed():
        dit = small_dit(layers=LAYERS)
        for block in dit.blocks:
            layer = block.ffn[0]
            scale = layer.weight.abs().amax(1, keepdim=True) / 448
            weight = (layer.weight / scale).to(torch.float8_e4m3fn)
            block.ffn[0] = ScaledLinear(weight, scale=scale, bias=layer.bias.data)
        return dit

    dit = packed()
    stream_blocks(dit, residency(dit, 1), device=CPU)
    assert torch.equal(run(dit), run(packed()))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model in 16 bits, and two LoRAs whose ranks differ from block to block."""
    folder = tmp_path_factory.mktemp("loras")
    dit = small_dit(layers=LAYERS)
    weights = {name: value.bfloat16() for name, value in dit.state_dict().items()}
    save_file(weights, folder / "model", metadata=describe_metadata(dit.config))
    for seed, layers in ((1, ("self_attn.q", "ffn.0", "ffn.2")), (2, ("cross_attn.k", "ffn.0"))):
        tensors = {"text_embedding.2.diff_b": torch.ones(48)}
        for index in range(LAYERS - seed):  # not every block has one
            names = [f"blocks.{index}.{layer}" for layer in layers]
            tensors |= spelled(make_factors(dit, 2 + index, names, seed=10 * seed + index))
        save_file(tensors, folder / f"lora {seed}")
    return folder


@pytest.mark.parametrize("resident", range(LAYERS + 1))
@pytest.mark.usefixtures("lane")
def test_loras_beside_16_bit_weights_stream_with_them(files, resident):
    def loaded():
        loras = [Lora(file=read_lora(files / f"lora {seed}"), strength=0.5) for seed in (1, 2)]
        return build_dit(files / "model", precision=BF16, loras=loras)

    whole, dit = loaded(), loaded()
    assert isinstance(dit.blocks[0].ffn[0], LowRankLinear)
    assert len({sum(p.nbytes for p in block.parameters()) for block in dit.blocks}) == LAYERS
    home = {name: value.clone() for name, value in dit.state_dict().items()}
    stream = stream_blocks(dit, residency(dit, resident), device=CPU)
    expected = run(whole, dtype=torch.bfloat16)
    for _ in range(2):
        assert torch.equal(run(dit, dtype=torch.bfloat16), expected)
    without = run(build_dit(files / "model", precision=BF16), dtype=torch.bfloat16)
    assert not torch.allclose(expected, without, rtol=0.1, atol=0.1)
    stream.shrink()
    assert torch.equal(run(dit, dtype=torch.bfloat16), expected)
    assert all(torch.equal(dit.state_dict()[name], value) for name, value in home.items())


@pytest.mark.usefixtures("lane")
def test_blocks_of_different_sizes_share_the_slots():
    def uneven():
        dit = small_dit(layers=LAYERS)
        dit.blocks[2].ffn[0].weight.data = dit.blocks[2].ffn[0].weight.data.double()
        dit.blocks[2].ffn[0].bias.data = dit.blocks[2].ffn[0].bias.data.double()
        dit.blocks[2].ffn[2].double()
        dit.blocks[2].ffn.register_forward_pre_hook(lambda _module, given: (given[0].double(),))
        dit.blocks[2].ffn.register_forward_hook(lambda _module, _given, made: made.float())
        return dit

    dit = uneven()
    stream_blocks(dit, residency(dit, 0), device=CPU)
    assert torch.equal(run(dit), run(uneven()))


@pytest.mark.usefixtures("lane")
def test_a_pass_that_is_broken_off_harms_nothing():
    whole, dit = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    stream = stream_blocks(dit, residency(dit, 1), device=CPU)
    for stop in range(LAYERS):
        for index, _ in enumerate(stream.walk()):
            if index == stop:
                break
        assert torch.equal(run(dit), run(whole))
        assert torch.equal(dit.blocks[0].ffn[0].weight, whole.blocks[0].ffn[0].weight)


@pytest.mark.usefixtures("lane")
def test_an_error_in_a_block_leaves_its_weights_at_home():
    whole, dit = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    stream_blocks(dit, residency(dit, 0), device=CPU)

    def stop(*_):
        raise KeyboardInterrupt

    hook = dit.blocks[4].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(dit)
    hook.remove()
    for name, value in whole.state_dict().items():
        assert torch.equal(dit.state_dict()[name], value), name
    assert torch.equal(run(dit), run(whole))


def test_the_order_of_marks_is_the_law(monkeypatch):
    """A lane whose copies are never waited for shows what the marks are for."""
    late = LateLane()
    late.hold_work = lambda _mark: None
    monkeypatch.setattr(streaming, "open_lane", lambda _device: late)
    whole, dit = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    stream_blocks(dit, residency(dit, 0), device=CPU)
    assert not torch.equal(run(dit), run(whole))


def test_a_slot_is_filled_after_the_work_that_reads_it(monkeypatch):
    late = LateLane()
    marks = iter(range(1000))
    late.after_work = lambda: f"work {next(marks)}"
    monkeypatch.setattr(streaming, "open_lane", lambda _device: late)
    dit = small_dit(layers=LAYERS)
    stream = stream_blocks(dit, residency(dit, LAYERS - 3), device=CPU)
    for _ in stream.walk():
        pass
    waits = [mark for kind, mark in late.order if kind == "copies wait"]
    assert waits == [f"work {number}" for number in range(5)], "two slots, then three blocks"


def test_pinning_is_bounded_and_copies_once(monkeypatch):
    pinned = []

    class Pinning(lanes.DirectLane):
        def pin(self, slab):
            pinned.append(slab.nbytes)
            return len(pinned) < 4

    monkeypatch.setattr(streaming, "open_lane", lambda _device: Pinning())
    whole, dit = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    largest, _ = block_nbytes(dit)
    stream_blocks(dit, residency(dit, 0), device=CPU, slabs=Slabs(int(2.9 * largest)))
    assert len(pinned) == 2
    assert torch.equal(run(dit), run(whole))
    pinned.clear()
    dit = small_dit(layers=LAYERS)
    stream_blocks(dit, residency(dit, 0), device=CPU, slabs=Slabs(100 * largest))
    assert len(pinned) == 4, "after a refusal no more is tried"
    assert torch.equal(run(dit), run(whole))


def test_the_next_model_takes_what_the_last_one_locked(monkeypatch):
    pinned = []

    class Pinning(lanes.DirectLane):
        def pin(self, slab):
            pinned.append(slab.data_ptr())
            return True

    monkeypatch.setattr(streaming, "open_lane", lambda _device: Pinning())
    largest, _ = block_nbytes(small_dit())
    slabs = Slabs(100 * largest)
    for seed in range(3):
        whole, dit = fill_(small_dit(layers=LAYERS), seed), fill_(small_dit(layers=LAYERS), seed)
        stream = stream_blocks(dit, residency(dit, 2), device=CPU, slabs=slabs)
        assert torch.equal(run(dit), run(whole))
        stream.close()
    assert len(pinned) == len(set(pinned)) == LAYERS - 2
    other = small_dit(layers=LAYERS, ffn_dim=256)
    stream = stream_blocks(other, residency(other, 0), device=CPU, slabs=slabs)
    assert len(pinned) > LAYERS - 2, "slabs of another size are let go of"


def test_locked_memory_that_nobody_has_is_let_go_of_when_told(monkeypatch):
    alive = []

    class Pinning(lanes.DirectLane):
        def pin(self, slab):
            alive.append(weakref.ref(slab))
            return True

    monkeypatch.setattr(streaming, "open_lane", lambda _device: Pinning())
    first, second = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    largest, _ = block_nbytes(first)
    slabs = Slabs(int(1.1 * LAYERS * largest))  # a slab is a little larger than its block
    stream = stream_blocks(first, residency(first, LAYERS - 2), device=CPU, slabs=slabs)
    stream_blocks(second, residency(second, LAYERS - 3), device=CPU, slabs=slabs)
    stream.close()
    first.stream = None
    del stream
    slabs.clear()
    assert [ref() is None for ref in alive] == [True, True, False, False, False]
    third = small_dit(layers=LAYERS)
    stream_blocks(third, residency(third, 0), device=CPU, slabs=slabs)
    assert len(alive) == 5 + LAYERS - 3, "what was let go of may be locked anew"


def test_closed_without_locked_memory_it_is_as_before():
    whole, dit = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    home = {name: parameter.data_ptr() for name, parameter in dit.named_parameters()}
    stream_blocks(dit, residency(dit, 2), device=CPU).close()
    dit.stream = None
    assert {name: parameter.data_ptr() for name, parameter in dit.named_parameters()} == home
    assert torch.equal(run(dit), run(whole))


@pytest.mark.usefixtures("lane")
def test_out_of_memory_goes_on_with_fewer_resident_blocks(caplog):
    whole, dit = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    stream = stream_blocks(dit, residency(dit, LAYERS), device=CPU)
    tried = []

    def work():
        tried.append(stream.residency.resident)
        if len(tried) < 3:
            list(zip(range(4), stream.walk(), strict=False))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return run(dit)

    assert torch.equal(run_steadily(dit, work), run(whole))
    assert tried == [7, 3, 1]
    assert caplog.text.count("out of memory: going on with") == 2


def test_blocks_that_do_not_find_room_at_first_are_streamed(monkeypatch, caplog):
    """The device has less than was planned with when they come, or when some have to go."""
    whole, dit = small_dit(layers=LAYERS), small_dit(layers=LAYERS)
    expected, bring, room = run(whole), BlockStream._bring_first, [LAYERS - 2]

    def has_room(self):
        if self.residency.resident > room[0]:
            self._host[0].point_at([tensor.clone() for tensor in self._host[0].tensors])
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return bring(self)

    monkeypatch.setattr(BlockStream, "_bring_first", has_room)
    stream = stream_blocks(dit, residency(dit, LAYERS), device=CPU)
    assert stream.residency.resident == LAYERS // 2
    assert torch.equal(run(dit), expected)
    room[0] = 0
    assert stream.shrink()
    assert stream.residency.resident == 0
    assert torch.equal(run(dit), expected)
    assert "out of memory: beginning with" in caplog.text
    room[0] = -1
    with pytest.raises(torch.cuda.OutOfMemoryError):
        stream_blocks(small_dit(), replace(residency(dit, 0), blocks=2), device=CPU)


def test_memory_that_is_never_enough_is_an_error_and_no_loop():
    dit = small_dit(layers=LAYERS)
    stream_blocks(dit, residency(dit, LAYERS), device=CPU)
    tried = []

    def work():
        tried.append(1)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        run_steadily(dit, work)
    assert len(tried) == 4  # 7, 3, 1 and 0 resident
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run_steadily(small_dit(), work)


def test_what_is_streamed_is_reported():
    dit = small_dit(layers=LAYERS)
    stream = stream_blocks(dit, residency(dit, 3), device=CPU)
    run(dit)
    report = stream.report()
    assert report.copied_nbytes > 0
    assert report.hidden_share == 0, "on the CPU nothing is hidden"
    assert "0% of it hidden behind work" in report.describe()
    assert isinstance(dit.stream, BlockStream)
