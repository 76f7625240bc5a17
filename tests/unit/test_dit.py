from dataclasses import replace

import pytest
import torch

from swift_core.errors import CheckpointError, GeometryError, PromptError
from swift_core.geometry import Patch
from swift_core.model.config import WAN22_TI2V_5B
from tests.models import SMALL_DIT, small_dit


def run(dit, *, channels=8, height=4, width=4, frames=2, positions=range(2)):
    return dit(
        torch.zeros(1, channels, frames, height, width),
        torch.zeros(1, frames),
        dit.read_prompt(torch.zeros(1, 1, 16)),
        positions=positions,
    )


def test_wrong_channels():
    with pytest.raises(GeometryError, match="takes 8 channels, but the latent has 9"):
        run(small_dit(), channels=9)


def test_latent_that_does_not_divide_into_patches():
    with pytest.raises(GeometryError, match="4x5 does not divide into the DiT's patches of 2x2"):
        run(small_dit(), height=5)


def test_wrong_number_of_positions():
    with pytest.raises(GeometryError, match="3 positions were given for 2 frames"):
        run(small_dit(), positions=range(3))


@pytest.mark.parametrize("shape", [(1, 13, 16), (1, 2, 17)])
def test_text_that_does_not_fit(shape):
    message = f"{shape[1]} tokens, {shape[2]} wide, does not fit .* up to 12 tokens, 16 wide"
    with pytest.raises(PromptError, match=message):
        small_dit().read_prompt(torch.zeros(shape))


@pytest.mark.parametrize("heads", [5, 16])
def test_impossible_heads(heads):
    with pytest.raises(CheckpointError, match=f"width 48 cannot have {heads} heads"):
        replace(SMALL_DIT, heads=heads)


def test_a_patch_over_time_is_refused():
    with pytest.raises(CheckpointError, match="patch of 2 latent frames is not supported"):
        replace(SMALL_DIT, patch=Patch(time=2, height=2, width=2))


def test_the_share_of_rope_is_wans():
    assert WAN22_TI2V_5B.rope_dims == (44, 42, 42)
    assert replace(SMALL_DIT, dim=96, heads=3).rope_dims == (12, 10, 10)


def test_no_modulation_is_built_per_token():
    """With timesteps per frame, nothing of a token count times six exists in the forward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    dit = small_dit(dim=24, heads=1)
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    tokens = 2 * 8 * 8
    with Watch():
        run(dit, height=16, width=16)
    widest = max(tokens * 64, tokens * tokens)  # the feed-forward, or attention's scores
    assert max(sizes) <= widest
    assert max(sizes) >= tokens * 24
