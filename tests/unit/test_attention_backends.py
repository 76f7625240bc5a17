"""Attention from other packages: they are stood in for, and PyTorch's attention is the judge."""

import logging
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from swift_core.cli.main import main
from swift_core.errors import DeviceError, PackageError
from swift_core.model import attention_backends
from swift_core.model.attention import CrossAttention, KeyValue, SelfAttention, attend
from swift_core.model.attention_backends import (
    FLASH,
    MOST_COMPARED,
    SAGE,
    AttentionChoice,
    FastAttention,
    choose_attention,
    use_attention,
)
from swift_core.stages.runtime import Runtime
from tests.models import RUNTIME, SMALL_DIT, slot, small_dit

BACKENDS = pytest.mark.parametrize("backend", [FLASH, SAGE], ids=lambda backend: backend.package)
INSTEAD = "PyTorch's attention takes its place"
CUDA = torch.device("cuda")


def drawn(tokens, *, keys=None, heads=2, width=16, dtype=torch.float32, batch=1):
    """A query, and what it attends to."""
    generator = torch.Generator().manual_seed(tokens)

    def draw(length):
        return torch.randn(batch, length, heads, width, generator=generator).to(dtype)

    keys = tokens if keys is None else keys
    return draw(tokens), KeyValue(draw(keys), draw(keys))


def exact(query, key, value):
    return attend(query, KeyValue(key, value))


class Package:
    """Put a package into Python's way whose function keeps count and gives what ``attends`` gives.

    The function's signature is the real one as far as we use it.
    """

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.calls = 0

    def __call__(self, backend, attends=exact):
        def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
            assert (dropout_p, softmax_scale, causal) == (0.0, None, False)
            self.calls += 1
            return attends(q, k, v)

        def sageattn(q, k, v, tensor_layout="HND", is_causal=False):
            assert (tensor_layout, is_causal) == ("NHD", False)
            self.calls += 1
            return attends(q, k, v)

        module = ModuleType(backend.package)
        module.__spec__ = ModuleSpec(backend.package, None)
        function = {"flash_attn": flash_attn_func, "sageattention": sageattn}[backend.package]
        setattr(module, function.__name__, function)
        self.monkeypatch.setitem(sys.modules, backend.package, module)
        return FastAttention(backend)


@pytest.fixture
def package(monkeypatch):
    return Package(monkeypatch)


@pytest.fixture
def compared(monkeypatch):
    """How often a result was held against PyTorch's, and over which shapes."""
    shapes = []

    def watched(query, memory):
        shapes.append((tuple(query.shape), tuple(memory.key.shape)))
        return attend(query, memory)

    monkeypatch.setattr(attention_backends, "attend", watched)
    return shapes


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@BACKENDS
def test_a_good_backend_is_used_and_compared_once(backend, package, compared, caplog):
    fast, passed = package(backend), set()
    query, memory = drawn(6)
    for _ in range(3):
        out = fast(query, memory, passed=passed)
        torch.testing.assert_close(out, exact(query, *memory), rtol=0, atol=0)
    assert package.calls == 3
    assert len(compared) == 1
    assert warnings(caplog) == []


def test_each_kind_of_input_is_compared_once(package, compared):
    fast, passed = package(FLASH), set()
    kinds = [
        drawn(6),
        drawn(6, width=8),
        drawn(6, dtype=torch.bfloat16),
        drawn(7, keys=6),
        drawn(6, keys=7),
    ]
    for _ in range(2):
        for query, memory in kinds:
            fast(query, memory, passed=passed)
    assert len(compared) == len(kinds)
    assert len(passed) == len(kinds)


def test_the_first_and_last_head_and_the_last_token_are_compared_at_full_length(package, compared):
    query, memory = drawn(3 * MOST_COMPARED + 5, keys=50, heads=5, width=4, batch=2)
    package(FLASH)(query, memory, passed=set())
    # Every fourth token, counted from the last.
    assert compared == [((1, 770, 2, 4), (1, 50, 2, 4))]

    compared.clear()
    query, memory = drawn(MOST_COMPARED, keys=3, heads=1, width=4)
    package(FLASH)(query, memory, passed=set())
    assert compared == [((1, MOST_COMPARED, 1, 4), (1, 3, 1, 4))]


def test_one_wrong_token_at_the_end_is_found(package, caplog):
    def without_the_last(query, key, value):
        out = exact(query, key, value)
        out[:, -1] = 0
        return out

    query, memory = drawn(3 * MOST_COMPARED + 4, keys=50, width=4)
    out = package(FLASH, without_the_last)(query, memory, passed=set())
    torch.testing.assert_close(out, exact(query, *memory), rtol=0, atol=0)
    assert "its result is off by" in warnings(caplog)[0]


def test_keys_that_are_forgotten_far_behind_are_found(package, caplog):
    def of_the_first_keys(query, key, value):
        return exact(query, key[:, :1500], value[:, :1500])

    query, memory = drawn(4, keys=2000, width=4)
    out = package(SAGE, of_the_first_keys)(query, memory, passed=set())
    torch.testing.assert_close(out, exact(query, *memory), rtol=0, atol=0)
    assert "its result is off by" in warnings(caplog)[0]


def scaled(query, key, value):
    return 1.2 * exact(query, key, value)


def holey(query, key, value):
    """One number of many is none, in a head that is not compared."""
    out = exact(query, key, value)
    out[0, 2, 1, 3] = torch.nan
    return out


def infinite(query, key, value):
    out = exact(query, key, value)
    out[0, 2, 1, 3:5] = torch.tensor([torch.inf, -torch.inf])
    return out


def without_tail(query, key, value):
    """Forget the keys behind the last whole block of 64."""
    whole = key.shape[1] // 64 * 64
    return exact(query, key[:, :whole], value[:, :whole])


def blank_tail(query, key, value):
    """Leave the queries behind the last whole block of 64 alone."""
    out = exact(query, key, value)
    out[:, query.shape[1] // 64 * 64 :] = 0
    return out


def with_sums(query, key, value):
    return exact(query, key, value), torch.zeros(1)


def other_layout(query, key, value):
    return exact(query, key, value).transpose(1, 2)


def other_format(query, key, value):
    return exact(query, key, value).half()


@BACKENDS
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (scaled, "its result is off by 20.0%, where {tolerance:.0%} is allowed"),
        (holey, "its result is not finite"),
        (infinite, "its result is not finite"),
        (without_tail, "its result is off by"),
        (blank_tail, "its result is off by"),
        (with_sums, "it gave no torch.float32 of (1, 100, 3, 16)"),
        (other_layout, "it gave no torch.float32 of (1, 100, 3, 16)"),
        (other_format, "it gave no torch.float32 of (1, 100, 3, 16)"),
    ],
)
def test_a_wrong_backend_is_dropped_with_one_line(backend, wrong, reason, package, caplog):
    fast = package(backend, wrong)
    query, memory = drawn(100, heads=3)
    for _ in range(3):
        out = fast(query, memory, passed=set())
        torch.testing.assert_close(out, exact(query, *memory), rtol=0, atol=0)
    assert package.calls == 1
    [line] = warnings(caplog)
    expected = reason.format(tolerance=backend.tolerance)
    assert line.startswith(f"{backend.name} is not used: {expected}")
    assert line.endswith(INSTEAD)


def test_what_eight_bits_cost_is_allowed_to_one_and_not_the_other(package, caplog):
    def off_by_four_percent(query, key, value):
        return 1.04 * exact(query, key, value)

    query, memory = drawn(6)
    out = package(SAGE, off_by_four_percent)(query, memory, passed=set())
    torch.testing.assert_close(out, off_by_four_percent(query, *memory), rtol=0, atol=0)
    assert warnings(caplog) == []
    out = package(FLASH, off_by_four_percent)(query, memory, passed=set())
    torch.testing.assert_close(out, exact(query, *memory), rtol=0, atol=0)
    assert warnings(caplog) == [
        f"FlashAttention is not used: its result is off by 4.0%, where 1% is allowed; {INSTEAD}"
    ]


def test_the_roundings_of_bf16_are_no_error(package, caplog):
    def wide(query, key, value):
        return exact(query.float(), key.float(), value.float()).bfloat16()

    query, memory = drawn(300, dtype=torch.bfloat16)
    out = package(FLASH, wide)(query, memory, passed=set())
    torch.testing.assert_close(out, wide(query, *memory), rtol=0, atol=0)
    assert warnings(caplog) == []


def test_attention_to_nothing_but_zeros_is_judged(package, caplog):
    query, memory = drawn(6)
    memory = memory._replace(value=torch.zeros_like(memory.value))
    assert not package(FLASH)(query, memory, passed=set()).any()
    assert warnings(caplog) == []


class TritonError(Exception):
    """As Triton's compiler raises: of no family, over many lines."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("Unsupported CUDA architecture: sm75"), "ValueError: Unsupported CUDA arch"),
        (TritonError("at 3:4:\n  code\n  ^"), "TritonError: at 3:4:; "),
        (AssertionError(), "AssertionError: ; "),
        (RuntimeError("long " * 100), f"RuntimeError: {'long ' * 40}; "),
    ],
)
def test_a_backend_that_raises_is_dropped_with_one_line(error, reason, package, caplog):
    def raises(*_):
        raise error

    fast = package(SAGE, raises)
    query, memory = drawn(6)
    for _ in range(2):
        out = fast(query, memory, passed=set())
        torch.testing.assert_close(out, exact(query, *memory), rtol=0, atol=0)
    assert package.calls == 1
    [line] = warnings(caplog)
    assert line.startswith(f"SageAttention is not used: {reason}")
    assert line.endswith(INSTEAD)


def test_a_backend_that_fails_later_is_dropped_then(package, caplog):
    def tires(query, key, value):
        if package.calls == 3:
            raise RuntimeError("CUDA error: invalid argument")
        return exact(query, key, value)

    fast, passed = package(FLASH, tires), set()
    query, memory = drawn(6)
    for _ in range(5):
        out = fast(query, memory, passed=passed)
        torch.testing.assert_close(out, exact(query, *memory), rtol=0, atol=0)
    assert package.calls == 3
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("broken", ["no function", "cannot be imported"])
def test_a_broken_package_is_found_on_first_use(broken, monkeypatch, caplog):
    module = ModuleType("flash_attn") if broken == "no function" else None
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    fast = FastAttention(FLASH)
    query, memory = drawn(6)
    for _ in range(2):
        out = fast(query, memory, passed=set())
        torch.testing.assert_close(out, exact(query, *memory), rtol=0, atol=0)
    [line] = warnings(caplog)
    kind = "AttributeError" if module else "ModuleNotFoundError"
    assert line.startswith(f"FlashAttention is not used: {kind}: ")


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        MemoryError(),
        KeyboardInterrupt(),
    ],
)
def test_no_memory_and_a_stop_are_not_the_backends_fault(error, package, caplog):
    def first_raises(query, key, value):
        if package.calls == 1:
            raise error
        return exact(query, key, value)

    fast, passed = package(SAGE, first_raises), set()
    query, memory = drawn(6)
    with pytest.raises(type(error)):
        fast(query, memory, passed=passed)
    assert passed == set()
    fast(query, memory, passed=passed)
    assert package.calls == 2
    assert len(passed) == 1
    assert warnings(caplog) == []


def run(dit, **more):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 8, 3, 8, 8, generator=generator)
    text = torch.randn(1, 4, 16, generator=generator)
    prompt = dit.read_prompt(text)
    timestep = torch.tensor([[0.0, 500.0, 500.0]])
    return dit(latent, timestep, prompt, positions=range(3), **more)


def run_after_context(dit):
    """Later frames see an earlier one, which does not see them: keys outnumber queries."""
    generator = torch.Generator().manual_seed(0)
    clean, latent = (torch.randn(1, 8, n, 8, 8, generator=generator) for n in (1, 2))
    prompt = dit.read_prompt(torch.randn(1, 4, 16, generator=generator))
    context = dit.read_context(clean, prompt, positions=[0])
    return dit(latent, torch.full((1, 2), 500.0), prompt, positions=[1, 2], context=context)


@BACKENDS
def test_the_dit_with_a_good_backend_is_the_dit(backend, package, compared):
    dit = small_dit()
    expected, after_context = run(dit), run_after_context(dit)
    use_attention(dit, package(backend))
    torch.testing.assert_close(run(dit), expected, rtol=0, atol=0)
    assert package.calls == len(compared) == SMALL_DIT.layers
    run(dit)
    assert package.calls == 2 * SMALL_DIT.layers
    assert len(compared) == SMALL_DIT.layers

    torch.testing.assert_close(run_after_context(dit), after_context, rtol=0, atol=0)
    assert package.calls == 4 * SMALL_DIT.layers
    # The context's own keys, then all of them for the fewer that look.
    kinds = {((1, 16, 2, 24), (1, 16, 2, 24)), ((1, 32, 2, 24), (1, 48, 2, 24))}
    assert set(compared[SMALL_DIT.layers :]) == kinds

    use_attention(dit, None)
    torch.testing.assert_close(run(dit), expected, rtol=0, atol=0)
    assert package.calls == 4 * SMALL_DIT.layers


def test_a_backend_that_fails_in_a_later_layer_fails_for_all(package, caplog):
    def not_in_the_second(query, key, value):
        return (2 if package.calls == 2 else 1) * exact(query, key, value)

    dit = small_dit()
    expected = run(dit)
    use_attention(dit, package(FLASH, not_in_the_second))
    for _ in range(2):
        torch.testing.assert_close(run(dit), expected, rtol=0, atol=0)
    assert package.calls == 2
    assert len(warnings(caplog)) == 1


def test_masks_and_prompts_stay_with_pytorch(package):
    dit = small_dit()
    visible = torch.ones(3, 3).tril().bool()
    expected = run(dit, visible=visible)
    use_attention(dit, package(FLASH, scaled))
    torch.testing.assert_close(run(dit, visible=visible), expected, rtol=0, atol=0)
    assert package.calls == 0
    for layer in dit.modules():
        assert not (isinstance(layer, CrossAttention) and hasattr(layer, "fast"))


def test_what_stands_in_for_attention_is_not_asked_about_a_mask():
    query, memory = drawn(4)
    stand_in = lambda query, _memory: torch.zeros_like(query)  # noqa: E731
    mask = torch.ones(4, 4).tril().bool()
    assert not attend(query, memory, fast=stand_in).any()
    masked = attend(query, memory, mask=mask, fast=stand_in)
    torch.testing.assert_close(masked, attend(query, memory, mask=mask), rtol=0, atol=0)


def test_a_run_gives_its_dits_one_backend_which_fails_once(package, caplog):
    fast = package(FLASH, scaled)
    runtime = Runtime(device=RUNTIME.device, precision=RUNTIME.precision, attention=fast)
    high, low = (runtime.load(slot(SMALL_DIT, small_dit())) for _ in range(2))
    expected = run(small_dit())
    for dit in (high, low):
        torch.testing.assert_close(run(dit), expected, rtol=0, atol=0)
    assert package.calls == 1
    assert len(warnings(caplog)) == 1
    # A model that is loaded again forgets what it was told before.
    again = RUNTIME.load(slot(SMALL_DIT, high))
    assert [layer.fast for layer in again.modules() if isinstance(layer, SelfAttention)] == (
        [None] * SMALL_DIT.layers
    )


def test_layers_share_no_trial():
    dit = small_dit()
    use_attention(dit, FastAttention(FLASH))
    layers = [layer.fast for layer in dit.modules() if isinstance(layer, SelfAttention)]
    assert all(isinstance(layer, partial) for layer in layers)
    assert len({id(layer.keywords["passed"]) for layer in layers}) == SMALL_DIT.layers
    assert len({id(layer.func) for layer in layers}) == 1


def has_capability(monkeypatch, *capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)


def not_installed(monkeypatch, *backends):
    for backend in backends:
        monkeypatch.setitem(sys.modules, backend.package, None)


@pytest.mark.parametrize(
    ("capability", "wins"), [((8, 9), True), ((12, 0), True), ((9, 0), False), ((10, 0), False)]
)
def test_auto_takes_flash_where_pytorch_has_nothing_faster(capability, wins, monkeypatch, package):
    has_capability(monkeypatch, *capability)
    package(FLASH)
    package(SAGE)
    chosen = choose_attention(AttentionChoice.AUTO, CUDA)
    assert (chosen and chosen.backend) == (FLASH if wins else None)
    assert choose_attention(AttentionChoice.AUTO, torch.device("cpu")) is None


def test_auto_takes_pytorch_where_flash_is_not_installed(monkeypatch, package):
    has_capability(monkeypatch, 8, 9)
    package(SAGE)
    not_installed(monkeypatch, FLASH)
    assert choose_attention(AttentionChoice.AUTO, CUDA) is None


def test_what_is_named_is_taken(monkeypatch, package):
    has_capability(monkeypatch, 9, 0)
    for choice, backend in ((AttentionChoice.FLASH, FLASH), (AttentionChoice.SAGE, SAGE)):
        package(backend)
        chosen = choose_attention(choice, CUDA)
        assert chosen is not None
        assert chosen.backend is backend
    assert package.calls == 0
    assert choose_attention(AttentionChoice.SDPA, CUDA) is None


@BACKENDS
def test_what_is_named_and_not_there_is_refused(backend, monkeypatch):
    not_installed(monkeypatch, backend)
    choice = AttentionChoice.FLASH if backend is FLASH else AttentionChoice.SAGE
    with pytest.raises(PackageError, match=f"needs the package {backend.package}.*not installed"):
        choose_attention(choice, CUDA)
    with pytest.raises(DeviceError, match=f"the attention {choice.value} runs on CUDA only.*cpu"):
        choose_attention(choice, torch.device("cpu"))


@pytest.fixture
def generate(tmp_path, monkeypatch, capsys):
    """Run the command as far as the first model, and give the status and the last line."""
    from swift_core.media.pictures import save_picture

    monkeypatch.setattr("swift_core.weights.bundled.BUNDLED_SET", tmp_path / "not bundled")
    monkeypatch.setattr(Runtime, "load", lambda *_: pytest.fail("a model was loaded"))
    save_picture(torch.zeros(32, 32, 3), tmp_path / "picture.png")
    size = ["--size", "128x64", "--pixel-frames", "9", "--quiet"]
    files = ["--image", tmp_path / "picture.png", "--output", tmp_path / "out.mp4"]

    def run(*words):
        status = main([str(word) for word in ("generate", "--prompt", "", *files, *size, *words)])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png"]
        return status, capsys.readouterr().err.splitlines()[-1]

    return run


def test_the_command_refuses_before_anything_runs(generate, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    not_installed(monkeypatch, SAGE)
    assert generate("--attention", "sage") == (
        2,
        "swift_core: the attention sage needs the package sageattention, which is not installed "
        "here; install it with pip install sageattention, or choose auto or sdpa.",
    )
    assert generate("--attention", "flash", "--device", "cpu") == (
        2,
        "swift_core: the attention flash runs on CUDA only, and this run is on the cpu; choose "
        "auto or sdpa.",
    )
    status, line = generate("--attention", "xformers")
    assert status == 2
    assert "invalid choice: 'xformers'" in line
