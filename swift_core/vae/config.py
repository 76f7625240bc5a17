"""The numbers that make a Wan VAE, and the two published ones."""

import zlib
from dataclasses import dataclass

from ..errors import CheckpointError
from ..geometry import Compression


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of the encoder or decoder: residual blocks, then perhaps a change of size.

    Attributes:
        in_dim: width that enters.
        dim: width of the residual blocks.
        out_dim: width that leaves.
        blocks: how many residual blocks.
        time: factor by which the level changes the number of frames, 1 or 2.
        space: factor by which it changes height and width, 1 or 2.
    """

    in_dim: int
    dim: int
    out_dim: int
    blocks: int
    time: int
    space: int

    @property
    def factor(self) -> int:
        """Values of the finer side per value of the coarser one."""
        return self.time * self.space**2


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
        spatial_downsample: for each step between levels, whether it halves height and width; a
            step that does not changes time alone. None: all do, as in Wan's own VAEs.
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
    spatial_downsample: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        for name, steps in (
            ("temporal_downsample", self.temporal_downsample),
            ("spatial_downsample", self.halves_space),
        ):
            if len(steps) != len(self.dim_mult) - 1:
                raise CheckpointError(
                    f"a VAE of {len(self.dim_mult)} levels has {len(self.dim_mult) - 1} steps "
                    f"between them, but {name} names {len(steps)}."
                )
        if not all(self.halves_space):
            self._check_time_steps()
        for name, values in (("mean", self.latent_mean), ("std", self.latent_std)):
            if len(values) != self.latent_channels:
                raise CheckpointError(
                    f"latent_{name} has {len(values)} numbers for {self.latent_channels} channels."
                )
        if self.residual:
            self._check_shortcuts()

    def _check_time_steps(self) -> None:
        """Refuse steps without a change of size, and such as Wan2.1's form does not have."""
        if not self.residual:
            raise CheckpointError(
                "spatial_downsample can leave a step out only in the form with shortcuts."
            )
        for step, sizes in enumerate(zip(self.temporal_downsample, self.halves_space, strict=True)):
            if not any(sizes):
                raise CheckpointError(
                    f"step {step} between the levels changes neither time nor space; leave it out."
                )

    def _check_shortcuts(self) -> None:
        """Refuse widths between which averaging or duplicating channels is not even."""
        for level in self.encoder_levels:
            if level.in_dim * level.factor % level.dim:
                raise CheckpointError(
                    f"the encoder's shortcut cannot average {level.in_dim} channels, "
                    f"{level.factor} values each, into {level.dim} channels evenly; "
                    f"dim_mult is {self.dim_mult}."
                )
        for level in self.decoder_levels[:-1]:
            if level.dim * level.factor % level.in_dim or level.in_dim % level.dim:
                raise CheckpointError(
                    f"the decoder's shortcut cannot spread {level.in_dim} channels over "
                    f"{level.dim} channels, {level.factor} values each, evenly; "
                    f"dim_mult is {self.dim_mult}."
                )

    @property
    def latent_space(self) -> str:
        """Name the latents that this VAE reads and writes: two VAEs with one name share them."""
        statistics = zlib.crc32(repr((self.latent_mean, self.latent_std)).encode())
        size = self.compression
        return (
            f"{self.latent_channels} channels, {size.space}x{size.space}x{size.time} compression, "
            f"statistics {statistics:08x}"
        )

    @property
    def pixel_channels(self) -> int:
        """Channels of the first convolution's input and the last one's output."""
        return 3 * self.patch**2

    @property
    def halves_space(self) -> tuple[bool, ...]:
        """Tell for each step between levels whether it halves height and width."""
        if self.spatial_downsample is None:
            return (True,) * (len(self.dim_mult) - 1)
        return self.spatial_downsample

    @property
    def encoder_levels(self) -> tuple[Level, ...]:
        """The encoder's levels, from pixels to latent."""
        levels: list[Level] = []
        width = self.encoder_dim
        for mult, halves_time, halves_space in zip(
            self.dim_mult,
            (*self.temporal_downsample, False),
            (*self.halves_space, False),
            strict=True,
        ):
            dim = mult * self.encoder_dim
            levels.append(
                Level(
                    in_dim=width,
                    dim=dim,
                    out_dim=dim,
                    blocks=self.residual_blocks,
                    time=2 if halves_time else 1,
                    space=2 if halves_space else 1,
                )
            )
            width = dim
        return tuple(levels)

    @property
    def decoder_levels(self) -> tuple[Level, ...]:
        """The decoder's levels, from latent to pixels.

        Without shortcuts (Wan2.1) the change of size also halves the width.
        """
        levels: list[Level] = []
        width = self.decoder_dim * self.dim_mult[-1]
        for mult, doubles_time, doubles_space in zip(
            reversed(self.dim_mult),
            (*reversed(self.temporal_downsample), False),
            (*reversed(self.halves_space), False),
            strict=True,
        ):
            dim = mult * self.decoder_dim
            last = len(levels) == len(self.dim_mult) - 1
            out_dim = dim if self.residual or last else dim // 2
            levels.append(
                Level(
                    in_dim=width,
                    dim=dim,
                    out_dim=out_dim,
                    blocks=self.residual_blocks + 1,
                    time=2 if doubles_time else 1,
                    space=2 if doubles_space else 1,
                )
            )
            width = out_dim
        return tuple(levels)

    @property
    def compression(self) -> Compression:
        """Pixels per latent value."""
        return Compression(
            time=2 ** sum(self.temporal_downsample),
            space=self.patch * 2 ** sum(self.halves_space),
        )


def _numbers(text: str) -> tuple[float, ...]:
    """Read numbers that are separated by blanks."""
    return tuple(float(number) for number in text.split())


WAN22_VAE = VAEConfig(
    latent_channels=48,
    encoder_dim=160,
    decoder_dim=256,
    dim_mult=(1, 2, 4, 4),
    residual_blocks=2,
    temporal_downsample=(False, True, True),
    patch=2,
    residual=True,
    latent_mean=_numbers(
        """
        -0.2289 -0.0052 -0.1323 -0.2339 -0.2799 0.0174 0.1838 0.1557 -0.1382 0.0542 0.2813 0.0891
        0.1570 -0.0098 0.0375 -0.1825 -0.2246 -0.1207 -0.0698 0.5109 0.2665 -0.2108 -0.2158 0.2502
        -0.2055 -0.0322 0.1109 0.1567 -0.0729 0.0899 -0.2799 -0.1230 -0.0313 -0.1649 0.0117 0.0723
        -0.2839 -0.2083 -0.0520 0.3748 0.0152 0.1957 0.1433 -0.2944 0.3573 -0.0548 -0.1681 -0.0667
        """
    ),
    latent_std=_numbers(
        """
        0.4765 1.0364 0.4514 1.1677 0.5313 0.4990 0.4818 0.5013 0.8158 1.0344 0.5894 1.0901
        0.6885 0.6165 0.8454 0.4978 0.5759 0.3523 0.7135 0.6804 0.5833 1.4146 0.8986 0.5659
        0.7069 0.5338 0.4889 0.4917 0.4069 0.4999 0.6866 0.4093 0.5709 0.6065 0.6415 0.4944
        0.5726 1.2042 0.5458 1.6887 0.3971 1.0600 0.3943 0.5537 0.5444 0.4089 0.7468 0.7744
        """
    ),
)
"""Wan2.2's VAE, 16x16x4 with 48 channels: TI2V-5B and SwiftI2V's Stage II.

Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/vae2_2.py.
"""

WAN21_VAE = VAEConfig(
    latent_channels=16,
    encoder_dim=96,
    decoder_dim=96,
    dim_mult=(1, 2, 4, 4),
    residual_blocks=2,
    temporal_downsample=(False, True, True),
    patch=1,
    residual=False,
    latent_mean=_numbers(
        """
        -0.7571 -0.7089 -0.9113 0.1075 -0.1745 0.9653 -0.1517 1.5508
        0.4134 -0.0715 0.5517 -0.3632 -0.1922 -0.9497 0.2503 -0.2921
        """
    ),
    latent_std=_numbers(
        """
        2.8184 1.4541 2.3275 2.6558 1.2196 1.7708 2.6052 2.0743
        3.2687 2.1526 2.8652 1.5579 1.6382 1.1253 2.8251 1.9160
        """
    ),
)
"""Wan2.1's VAE, 8x8x4 with 16 channels: I2V-A14B.

Source: Wan-Video/Wan2.2@42bf4cf:wan/modules/vae2_1.py.
"""
