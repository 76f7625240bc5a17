"""A run keeps every tensor on the device where it belongs, shown without one.

PyTorch can be told of a device that does not exist, and can run tensors without content on it; as
on a real one, an operation whose operands lie on two devices is refused. In a process of its own,
because the device, once told of, stays.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

BEGINNING = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("other")
OTHER = torch.device("other", 0)


def move(self, device=None, *_given, **_more):
    # Module.to swaps such tensors, which inference mode does not let it.
    for module in self.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                moved = tensor.detach().to(device)
                module._parameters[name] = nn.Parameter(moved, requires_grad=False)
        for name, tensor in module._buffers.items():
            if tensor is not None:
                module._buffers[name] = tensor.to(device)
    return self


listed = torch.tensor


def from_list(*given, device=None, **more):
    made = listed(*given, **more)
    if device is None or torch.device(device).type == "cpu":
        return made
    return torch.empty(made.shape, dtype=made.dtype, device=device)


nn.Module.to = move
torch.tensor = from_list

from swift_core.geometry import PixelShape
from swift_core.pipeline import generate
from swift_core.segments.plan import Interaction, SegmentSettings
from swift_core.vae.bands import Banding
import swift_core.stages.pixels as pixels
from tests.models import RUNTIME, slot, small_dit, small_models
from tests.unit.test_pipeline import SETTINGS


def run(settings=SETTINGS, **changes):
    models = small_models(**changes)
    picture = torch.rand(70, 90, 3)
    chunks = generate(models, picture, settings, runtime=runtime)
    for chunk in chunks:
        assert chunk.device.type == "cpu"
        frames.append(len(chunk))


frames = []
runtime = replace(RUNTIME, device=OTHER)
"""

RUNS = {
    "two experts": "run()",
    "one model for both stages": """
dit = small_dit()
both = slot(dit.config, dit)
run(motion_high=both, motion_low=None, detail=both)
""",
    "read-only": """
read_only = SegmentSettings(segment_length=2, interaction=Interaction.READ_ONLY)
run(replace(SETTINGS, segments=read_only))
""",
    "guidance": """
guided = replace(SETTINGS.detail_recipe, cfg=2.0)
run(replace(SETTINGS, motion_recipe=guided, detail_recipe=guided, negative="blur"))
""",
    "detail carried": "run(replace(SETTINGS, carry=0.5))",
    "VAEs in bands": """
pixels._banding = lambda *_: Banding(levels=2, bands=2, parks=True)
run()
""",
}


def fails_or_not(*scripts):
    lines = [f"    {line}" for script in scripts for line in script.strip().splitlines()]
    whole = BEGINNING + "with FakeTensorMode(allow_non_fake_inputs=True):\n" + "\n".join(lines)
    whole += f"\nassert frames == {len(scripts)} * [1, 4, 4, 4], frames\n"
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True)


def test_runs_on_another_device():
    done = fails_or_not(*RUNS.values())
    assert done.returncode == 0, done.stderr


def test_a_tensor_that_was_left_behind_is_found():
    script = """
import swift_core.stages.runtime as stages
stages.Runtime.place = lambda self, tensor: tensor.to(self.precision.compute)
run()
"""
    done = fails_or_not(script)
    assert done.returncode != 0
    assert "CPU tensor" in done.stderr or "two different devices" in done.stderr
