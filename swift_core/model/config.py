"""The numbers that make a Wan DiT, and the published ones."""

from dataclasses import dataclass, replace

from ..errors import CheckpointError
from ..geometry import Patch


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Architecture of a Wan DiT.

    Attributes:
        in_channels: latent channels that enter, concatenated conditions included.
        out_channels: latent channels of the velocity.
        dim: width of a token.
        ffn_dim: width inside the feed-forward.
        heads: attention heads; ``dim / heads`` must be even and at least 6.
        layers: DiT blocks.
        text_dim: width of the text embedding.
        text_tokens: length to which the text is padded with zeros; the padding is attended.
        frequency_dim: width of the timestep's sinusoids.
        patch: latent values per token.
        eps: epsilon of every norm.
    """

    in_channels: int
    out_channels: int
    dim: int
    ffn_dim: int
    heads: int
    layers: int
    text_dim: int
    text_tokens: int
    frequency_dim: int
    patch: Patch
    eps: float

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.head_dim % 2 or self.head_dim < 6:
            raise CheckpointError(
                f"a DiT of width {self.dim} cannot have {self.heads} heads: the head width "
                f"{self.dim / self.heads:g} must be a whole, even number of at least 6."
            )
        if self.patch.time != 1:
            raise CheckpointError(
                f"a patch of {self.patch.time} latent frames is not supported: timesteps are per "
                "latent frame, so a token must belong to one."
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads

    @property
    def rope_dims(self) -> tuple[int, int, int]:
        """Share of a head's width that encodes time, height and width (Wan: the rest to time)."""
        side = 2 * (self.head_dim // 6)
        return self.head_dim - 2 * side, side, side


WAN22_TI2V_5B = DiTConfig(
    in_channels=48,
    out_channels=48,
    dim=3072,
    ffn_dim=14336,
    heads=24,
    layers=30,
    text_dim=4096,
    text_tokens=512,
    frequency_dim=256,
    patch=Patch(time=1, height=2, width=2),
    eps=1e-6,
)
"""Wan2.2-TI2V-5B and its few-step distillations."""

WAN22_REFERENCE_5B = replace(WAN22_TI2V_5B, in_channels=96)
"""TI2V-5B widened by 48 reference channels: SwiftI2V's Stage II, Lucy-Edit-Dev."""

WAN22_I2V_A14B = replace(
    WAN22_TI2V_5B,
    in_channels=36,
    out_channels=16,
    dim=5120,
    ffn_dim=13824,
    heads=40,
    layers=40,
)
"""One expert of Wan2.2-I2V-A14B: 16 noise, 4 mask and 16 picture channels."""
