"""Our DiT's forward beside diffusers', with the same weights."""

from dataclasses import replace

import torch

from swift_core.geometry import Patch
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from tests.oracles import oracle_dit

from .measure import print_heading, print_pair

SMALL = DiTConfig(
    in_channels=96,
    out_channels=48,
    dim=384,
    ffn_dim=1536,
    heads=6,
    layers=4,
    text_dim=512,
    text_tokens=512,
    frequency_dim=256,
    patch=Patch(time=1, height=2, width=2),
    eps=1e-6,
)
WIDE = replace(SMALL, dim=1024, heads=8, ffn_dim=4096, layers=2)
CASES = (
    ("dim 384, 5 frames of 40x64, one level a frame", SMALL, (5, 40, 64)),
    ("dim 384, 9 frames of 20x32, one level a frame", SMALL, (9, 20, 32)),
    ("dim 1024, 5 frames of 22x40, one level a frame", WIDE, (5, 22, 40)),
)


@torch.inference_mode()
def main(rounds: int = 7) -> None:
    """Print the table."""
    print_heading("DiT forward, fp32 (a segment: anchor and neighbors clean, the rest noisy)")
    for name, config, (frames, height, width) in CASES:
        dit = WanDiT(config).eval().requires_grad_(False)
        oracle = oracle_dit(dit)
        latent = torch.randn(1, config.in_channels, frames, height, width)
        text = torch.randn(1, config.text_tokens, config.text_dim)
        timestep = torch.full((1, frames), 937.5)
        timestep[:, :2] = 0
        per_token = timestep.repeat_interleave(height * width // 4, dim=1)
        prompt = dit.read_prompt(text)

        print_pair(
            name,
            lambda: dit(latent, timestep, prompt, positions=range(frames)),  # noqa: B023
            lambda: oracle(latent, per_token, text, return_dict=False),  # noqa: B023
            rounds=rounds,
        )
        print_pair(
            "  the same, reading the prompt every time",
            lambda: dit(latent, timestep, dit.read_prompt(text), positions=range(frames)),  # noqa: B023
            lambda: oracle(latent, per_token, text, return_dict=False),  # noqa: B023
            rounds=rounds,
        )
