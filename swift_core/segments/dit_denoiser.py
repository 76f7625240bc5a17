"""A Wan DiT as a denoiser of segments.

Conditions enter clean at timestep 0; targets enter noisy at their own. With a 96-channel DiT the
reference is concatenated on channels, so for conditions both halves hold the same clean latent.
"""

from dataclasses import dataclass

import torch

from ..errors import CheckpointError
from ..flow.solvers import Velocity
from ..memory.streaming import run_steadily
from ..model.dit import PromptKeys, WanDiT
from ..shapes import Float, Tensor
from .denoiser import SegmentContext
from .plan import Interaction


@dataclass(frozen=True, kw_only=True)
class DiTDenoiser:
    """Our own DiT behind the ``Denoiser`` protocol.

    Attributes:
        dit: with as many input channels as output channels, or twice as many (reference
            concatenated).
        prompt: read by the same DiT.
        compute: number format of the DiT's activations.

    Raises:
        CheckpointError: if the DiT has another number of input channels.
    """

    dit: WanDiT
    prompt: PromptKeys
    compute: torch.dtype

    def __post_init__(self) -> None:
        config = self.dit.config
        if config.in_channels not in (config.out_channels, 2 * config.out_channels):
            raise CheckpointError(
                f"Stage II needs a DiT with {config.out_channels} input channels or, with a "
                f"concatenated reference, {2 * config.out_channels}; this one takes "
                f"{config.in_channels}."
            )

    @property
    def concatenates_reference(self) -> bool:
        """Whether the DiT sees the reference beside the latent."""
        return self.dit.config.in_channels == 2 * self.dit.config.out_channels

    def open(self, context: SegmentContext) -> Velocity:
        """Prepare a segment; with read-only interaction, the conditions' keys and values too."""
        if context.interaction is Interaction.READ_ONLY:
            return self._open_read_only(context)
        segment = context.segment
        where = segment.target_slice

        def velocity(targets: Tensor, sigma: float) -> Tensor:
            latent = context.reference.clone()
            latent[:, :, where] = targets
            timestep = torch.zeros(latent.shape[0], latent.shape[2])
            timestep[:, where] = 1000 * sigma
            channels = self._channels(latent, context.reference)
            positions = segment.positions
            predicted = run_steadily(
                self.dit,
                lambda: self.dit(channels, timestep, self.prompt, positions=positions),
            )
            return predicted[:, :, where]

        return velocity

    def _open_read_only(self, context: SegmentContext) -> Velocity:
        segment = context.segment
        where = segment.target_slice
        targets_at = range(len(segment.latent_frames))[where]
        conditions_at = [i for i in range(len(segment.latent_frames)) if i not in targets_at]
        # Not by a list of indexes: a device would have to be sent it.
        clean = torch.cat([context.reference[:, :, i : i + 1] for i in conditions_at], dim=2)
        channels = self._channels(clean, clean)
        places = [segment.positions[i] for i in conditions_at]
        remembered = run_steadily(
            self.dit, lambda: self.dit.read_context(channels, self.prompt, positions=places)
        )
        target_reference = context.reference[:, :, where]
        positions = segment.positions[where]

        def velocity(targets: Tensor, sigma: float) -> Tensor:
            timestep = torch.full((targets.shape[0], targets.shape[2]), 1000 * sigma)
            latent = self._channels(targets, target_reference)
            return run_steadily(
                self.dit,
                lambda: self.dit(
                    latent, timestep, self.prompt, positions=positions, context=remembered
                ),
            )

        return velocity

    def _channels(
        self, latent: Float[Tensor, "b c t h w"], reference: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b in t h w"]:
        """Assemble the DiT's input, in the compute format."""
        if self.concatenates_reference:
            latent = torch.cat((latent, reference), dim=1)
        return latent.to(self.compute)
