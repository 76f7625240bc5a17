"""The joint between the sampler and any model: all that the sampler knows of a denoiser.

A denoiser is opened once per segment with what the segment sees, and answers with the segment's
velocity function. Whatever it can compute once per segment, it computes when it is opened. Our
own DiT is one denoiser; a ComfyUI MODEL is another.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..flow.guidance import guide
from ..flow.solvers import Velocity
from ..shapes import Float, Tensor
from .plan import Interaction, Segment


@dataclass(frozen=True, kw_only=True)
class SegmentContext:
    """What a segment sees.

    Attributes:
        segment: indices, roles and positions.
        reference: the segment's latent frames in the order of ``segment.latent_frames``:
            finished and clean for the conditions, the hybrid reference for the targets.
        interaction: whether conditions look back at the targets.
    """

    segment: Segment
    reference: Float[Tensor, "b c t h w"]
    interaction: Interaction


@runtime_checkable
class Denoiser(Protocol):
    """Anything that can predict the velocity of a segment's targets."""

    def open(self, context: SegmentContext) -> Velocity:
        """Prepare a segment.

        Returns:
            ``(targets, sigma) -> velocity``: for the noisy target frames, fp32 ``"b c m h w"``,
            at that noise level. It may raise what the host raises to stop a run.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class GuidedDenoiser:
    """Two denoisers, one with the prompt and one with the negative prompt, as one."""

    conditional: Denoiser
    unconditional: Denoiser
    cfg: float

    def open(self, context: SegmentContext) -> Velocity:
        """Prepare the segment with both, and guide."""
        with_prompt = self.conditional.open(context)
        without_prompt = self.unconditional.open(context)

        def velocity(targets: Tensor, sigma: float) -> Tensor:
            return guide(with_prompt(targets, sigma), without_prompt(targets, sigma), cfg=self.cfg)

        return velocity
