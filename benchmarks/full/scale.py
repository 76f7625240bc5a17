"""At what size things are measured: the published one, or a small one to try the commands."""

from dataclasses import dataclass, replace

from swift_core.geometry import PixelShape
from swift_core.model.config import WAN22_I2V_A14B, WAN22_REFERENCE_5B, DiTConfig
from swift_core.vae.config import WAN21_VAE, WAN22_VAE, VAEConfig


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size.

    Attributes:
        name: ``full`` or ``small``.
        output: the video; its length is the first of ``lengths``.
        lengths: pixel frames of whole runs, the one that others are compared with first.
        warm_up_frames: of a run before them that does not count.
        caps_gib: memory of the cards that are played, beside the whole card.
        ceiling_side: of the square matrices whose product gives the ceiling.
        repeats: how often a short piece is run; the median counts.
    """

    name: str
    motion: DiTConfig
    motion_vae: VAEConfig
    detail: DiTConfig
    detail_vae: VAEConfig
    output: PixelShape
    lengths: tuple[int, ...]
    warm_up_frames: int
    caps_gib: tuple[float, ...]
    ceiling_side: int
    repeats: int

    def output_of(self, pixel_frames: int) -> PixelShape:
        """Give the video at another length."""
        return replace(self.output, pixel_frames=pixel_frames)


FULL = Scale(
    name="full",
    motion=WAN22_I2V_A14B,
    motion_vae=WAN21_VAE,
    detail=WAN22_REFERENCE_5B,
    detail_vae=WAN22_VAE,
    output=PixelShape(pixel_frames=81, height=1408, width=2560),
    lengths=(81, 241, 161),
    warm_up_frames=25,  # two segments: both shapes of window that longer videos have
    caps_gib=(24, 16, 12),
    ceiling_side=8192,
    repeats=5,
)

_TINY = {"dim": 512, "ffn_dim": 1024, "heads": 4, "layers": 6, "text_dim": 64, "text_tokens": 32}

SMALL = Scale(
    name="small",
    motion=replace(WAN22_I2V_A14B, **_TINY),
    motion_vae=replace(WAN21_VAE, encoder_dim=8, decoder_dim=8),
    detail=replace(WAN22_REFERENCE_5B, **_TINY),
    detail_vae=replace(WAN22_VAE, encoder_dim=16, decoder_dim=16),
    output=PixelShape(pixel_frames=9, height=128, width=192),
    lengths=(9, 17),
    warm_up_frames=5,
    caps_gib=(0.13,),
    ceiling_side=512,
    repeats=2,
)
"""Runs in seconds on one core, through the same code; its figures mean nothing."""
