"""The numbers that make a Wan VAE, and the two published ones."""

from dataclasses import dataclass

from ..errors import CheckpointError
from ..geometry import Compression


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Architecture of a Wan VAE.

    Attributes:
        latent_channels: channels of the latent.
        encoder_dim: width of the encoder's first level.
        decoder_dim: width of the decoder's last level.
        dim_mult: width of each level, as a multiple of the first.
        residual_blocks: residual blocks per level (one more in the decoder).
        temporal_downsample: for each step between levels, whether it halves time as well.
        patch: pixels per side that are folded into channels before the first convolution.
        residual: whether levels have the parameter-free shortcuts of the Wan2.2 form.
        latent_mean: per channel, subtracted from the raw latent.
        latent_std: per channel, then divided by.
    """

    latent_channels: int
    encoder_dim: int
    decoder_dim: int
    dim_mult: tuple[int, ...]
    residual_blocks: int
    temporal_downsample: tuple[bool, ...]
    patch: int
    residual: bool
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise CheckpointError(
                f"a VAE of {len(self.dim_mult)} levels has {len(self.dim_mult) - 1} steps between "
                f"them, but temporal_downsample names {len(self.temporal_downsample)}."
            )
        for name, values in (("mean", self.latent_mean), ("std", self.latent_std)):
            if len(values) != self.latent_channels:
                raise CheckpointError(
                    f"latent_{name} has {len(values)} numbers for {self.latent_channels} channels."
                )

    @property
    def compression(self) -> Compression:
        """Pixels per latent value."""
        return Compression(
            time=2 ** sum(self.temporal_downsample),
            space=self.patch * 2 ** (len(self.dim_mult) - 1),
        )
