"""Compiled blocks against plain ones, and what happens where nothing can be compiled.

In processes of their own: PyTorch cannot compile through the checks of shapes that tests put into
every function, and what it has compiled stays.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import swift_core.stages.runtime as stages
from swift_core.geometry import LatentShape
from swift_core.memory.working import Step
from tests.models import RUNTIME, slot, small_dit

ROOT = Path(__file__).parents[2]

BEGINNING = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from swift_core.memory.streaming import BlockStream, block_nbytes, stream_blocks
from swift_core.memory.residency import fit_residency
from swift_core.model.compiled import compile_blocks, release_blocks
from swift_core.model.low_rank import LowRankLinear
from tests.models import small_dit

LATENT = torch.randn(1, 8, 3, 4, 6)
TIMESTEP = torch.tensor([[0.0, 500.0, 500.0]])
TEXT = torch.randn(1, 5, 16)
graphs = []


@torch._dynamo.register_backend(name="counting")
def counting(graph, _inputs):
    graphs.append(graph)
    return graph.forward


@torch._dynamo.register_backend(name="broken")
def broken(_graph, _inputs):
    raise RuntimeError("no C++ compiler is here")


@torch.inference_mode()
def run(dit, latent=LATENT):
    keys = dit.read_prompt(TEXT)
    return dit(latent, TIMESTEP, keys, positions=range(3))


dit = small_dit(layers=5)
plain = run(dit)
"""

SCRIPTS = {
    "all blocks share what is compiled, whatever they hold": """
compile_blocks(dit, backend="counting")
assert torch.equal(run(dit), plain)
assert len(graphs) == 1, len(graphs)
run(dit)
assert len(graphs) == 1, len(graphs)
run(dit, torch.cat((LATENT, LATENT), dim=4))
assert len(graphs) == 2, len(graphs)
""",
    "streamed blocks are compiled too": """
block, fixed = block_nbytes(dit)
residency = fit_residency(
    blocks=5, block_nbytes=block, fixed_nbytes=fixed, working_nbytes=0,
    budget_nbytes=fixed + 3 * block,
)
with torch.inference_mode():
    dit = small_dit(layers=5)
    compile_blocks(dit, backend="counting")
    stream_blocks(dit, residency, device=torch.device("cpu"))
for _ in range(2):
    assert torch.equal(run(dit), plain)
assert len(graphs) == 1, len(graphs)
""",
    "so do blocks with LoRAs, of any rank": """
dit = small_dit(layers=12)
draw = torch.Generator().manual_seed(0)
for index, block in enumerate(dit.blocks):
    for name in ("self_attn.q", "ffn.0", "ffn.2"):
        layer = block.get_submodule(name)
        down = 0.1 * torch.randn(3 + index, layer.in_features, generator=draw)
        up = 0.1 * torch.randn(layer.out_features, 3 + index, generator=draw)
        block.set_submodule(name, LowRankLinear(layer, [down], [up]))
with_loras = run(dit)
assert not torch.allclose(with_loras, run(small_dit(layers=12)), atol=0.1)
compile_blocks(dit, backend="counting")
torch.testing.assert_close(run(dit), with_loras, atol=1e-5, rtol=0)
assert len(graphs) == 1, len(graphs)
assert {layer.rank for layer in dit.modules() if isinstance(layer, LowRankLinear)} == {14}
""",
    "rounding is all that differs": """
compile_blocks(dit, backend="aot_eager")
torch.testing.assert_close(run(dit), plain, atol=1e-5, rtol=0)
""",
    "without a compiler it goes on": """
compile_blocks(dit, backend="broken")
assert torch.equal(run(dit), plain)
assert torch.equal(run(dit), plain)
""",
    "released, a DiT is freed": """
import gc, weakref
gc.disable()
compile_blocks(dit, backend="counting")
run(dit)
release_blocks(dit)
assert torch.equal(run(dit), plain)
seen = weakref.ref(dit.blocks[0])
torch._dynamo.reset()
del dit
assert seen() is None, gc.get_referrers(seen())
""",
    "an error of the work is no compiler's": """
@torch.compiler.disable
def fails(*_given, **_named):
    raise ZeroDivisionError

dit.blocks[0].forward = fails
compile_blocks(dit, backend="counting")
try:
    run(dit)
except ZeroDivisionError:
    pass
else:
    raise AssertionError("the error is gone")
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_compiled(name):
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + SCRIPTS[name]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.count("blocks are not compiled (BackendCompilerFailed")
    assert said == (name == "without a compiler it goes on")


@pytest.mark.parametrize("budget", [None, lambda: 10**9])
def test_a_runtime_compiles_if_asked_to(monkeypatch, budget):
    asked = []
    monkeypatch.setattr(stages, "compile_blocks", asked.append)
    step = Step(window=LatentShape(channels=8, latent_frames=3, height=4, width=6))
    dit = small_dit()
    for compiles in (False, True):
        runtime = replace(RUNTIME, compiles=compiles, budget_nbytes=budget)
        runtime.load_dit(slot(dit.config, dit), step)
    assert asked == [dit]
