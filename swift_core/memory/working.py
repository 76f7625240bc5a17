"""What a step of a DiT holds beside its weights, found by a run without numbers."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from ..geometry import LatentShape
from ..live_bytes import LiveBytes, TensorsOnly
from ..model.config import DiTConfig
from ..model.dit import FP32_ISLANDS, WanDiT
from ..precision import is_island

_BLOCKS = 2
"""Every DiT block holds the same: two show what passes from one to the next."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """The largest step that a DiT is asked for.

    Attributes:
        window: the latent frames that go through it together.
        prompts: how many are held as keys and values: 2 with guidance.
        remembered_frames: latent frames whose keys and values are held for all steps, for each
            prompt: the conditions of read-only interaction.
        passes: how often the run goes through the DiT's blocks, this step and all others.
    """

    window: LatentShape
    prompts: int = 1
    remembered_frames: int = 0
    passes: int = 1

    def nbytes(self, config: DiTConfig, *, compute: torch.dtype) -> int:
        """Tell the most bytes that are alive in the step, beside weights.

        Attention is counted without a matrix of scores, and what a library takes for itself is not.
        """
        run = _memory_nbytes(config, compute, layers=min(_BLOCKS, config.layers))
        tokens = self.remembered_frames * self.window.tokens_per_frame(config.patch)
        remembered = self.prompts * tokens * _token_nbytes(config, compute, layers=config.layers)
        kept = self.kept_nbytes(config, compute=compute) - run + remembered
        return _forward_nbytes(config, self.window, compute) + kept

    def kept_nbytes(self, config: DiTConfig, *, compute: torch.dtype) -> int:
        """Tell the bytes of the prompts as the DiT has read them: between steps they stay."""
        return self.prompts * _memory_nbytes(config, compute, layers=config.layers)


def _memory_nbytes(config: DiTConfig, compute: torch.dtype, *, layers: int) -> int:
    """Tell the bytes of a prompt's keys and values in so many blocks."""
    return config.text_tokens * _token_nbytes(config, compute, layers=layers)


def _token_nbytes(config: DiTConfig, compute: torch.dtype, *, layers: int) -> int:
    return 2 * config.dim * compute.itemsize * layers


@lru_cache(maxsize=64)
def _forward_nbytes(config: DiTConfig, window: LatentShape, compute: torch.dtype) -> int:
    """Run two blocks without numbers, and give the most bytes that were alive."""
    with torch.device("meta"):
        dit = WanDiT(replace(config, layers=min(_BLOCKS, config.layers))).requires_grad_(False)
    for name, parameter in dit.named_parameters():
        if not is_island(name, FP32_ISLANDS):
            parameter.data = parameter.data.to(compute)
    meta = torch.device("meta")
    size = (1, config.in_channels, window.latent_frames, window.height, window.width)
    with torch.no_grad(), LiveBytes(dit.parameters()) as alive, TensorsOnly():
        text = torch.empty((1, config.text_tokens, config.text_dim), device=meta, dtype=compute)
        prompt = dit.read_prompt(text)
        latent = torch.empty(size, device=meta, dtype=compute)
        timestep = torch.zeros((1, window.latent_frames))
        dit(latent, timestep, prompt, positions=range(window.latent_frames))
    return alive.peak
