import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B
from swift_core.model.dit import WanDiT
from swift_core.model.work import dit_flops, dit_parameters
from tests.models import SMALL_DIT, small_dit


@pytest.mark.parametrize("context", [0, 1])
def test_count_is_torchs_count(context):
    dit = small_dit()
    latent = torch.zeros(1, 8, 3, 4, 6)
    prompt = dit.read_prompt(torch.zeros(1, 12, 16))
    seen = dit.read_context(latent[:, :, :1], prompt, positions=[0]) if context else None
    # The counter does not know the CPU's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        dit(latent, torch.zeros(1, 3), prompt, positions=range(3), context=seen)
    timesteps = 2 * 3 * (32 * 48 + 48 * 48 + 6 * 48 * 48)  # per frame; we do not count them
    ours = dit_flops(SMALL_DIT, tokens=18, context_tokens=6 * context)
    assert ours == counter.get_total_flops() - timesteps


def test_published_forwards():
    """numbers.md, which counts per-token timesteps (0.9 %) and the prompt's keys as well."""
    assert dit_flops(WAN22_REFERENCE_5B, tokens=17600) == pytest.approx(273.3e12, rel=0.012)
    assert dit_flops(WAN22_I2V_A14B, tokens=18480) == pytest.approx(731.6e12, rel=0.012)


@pytest.mark.parametrize("config", [SMALL_DIT, WAN22_REFERENCE_5B, WAN22_I2V_A14B])
def test_parameters_are_those_of_the_module(config):
    with torch.device("meta"):
        dit = WanDiT(config)
    assert dit_parameters(config) == sum(tensor.numel() for tensor in dit.parameters())
