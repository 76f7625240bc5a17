"""Noise that depends on the seed and on nothing else.

The starting noise is drawn once for the whole clip, on the CPU in fp32, as ComfyUI draws it: a
seed means the same whatever the segment length, device or precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..geometry import LatentShape
from ..shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class ClipNoise:
    """The noise of one clip.

    Attributes:
        seed: any whole number from 0 to 2**64 - 1.
        shape: of the whole clip's latent.
    """

    seed: int
    shape: LatentShape

    @cached_property
    def _clip(self) -> Tensor:
        size = self.shape
        return torch.randn(
            (1, size.channels, size.latent_frames, size.height, size.width),
            generator=torch.Generator("cpu").manual_seed(self.seed),
        )

    def start(self, latent_frames: Sequence[int]) -> Float[Tensor, "1 c t h w"]:
        """Give the noise that the named latent frames start from."""
        return self._clip[:, :, list(latent_frames)]

    def fresh(self, latent_frames: Sequence[int], *, step: int) -> Float[Tensor, "1 c t h w"]:
        """Give new noise after a step; each frame has its own, so segments do not matter."""
        size = self.shape
        draws = [
            torch.randn(
                (1, size.channels, 1, size.height, size.width),
                generator=torch.Generator("cpu").manual_seed(_mix(self.seed, step, frame)),
            )
            for frame in latent_frames
        ]
        return torch.cat(draws, dim=2)


def _mix(*numbers: int) -> int:
    """Hash whole numbers into a seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
