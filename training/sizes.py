"""How large the models of the tiny set are, and how much is put through a step."""

from collections.abc import Mapping
from dataclasses import dataclass

from swift_core.flow.recipe import Recipe, SolverName
from swift_core.geometry import Patch, PixelShape
from swift_core.model.config import DiTConfig
from swift_core.text.words import WordConfig
from swift_core.vae.config import VAEConfig

from .loop import Budget

LATENT_CHANNELS = 48
MASK_CHANNELS = 4

TINY_VAE = VAEConfig(
    latent_channels=LATENT_CHANNELS,
    encoder_dim=64,
    decoder_dim=96,
    dim_mult=(1, 1, 1),
    residual_blocks=1,
    temporal_downsample=(True, True),
    spatial_downsample=(False, False),
    patch=8,
    residual=True,
    latent_mean=(0.0,) * LATENT_CHANNELS,
    latent_std=(1.0,) * LATENT_CHANNELS,
)
"""8x8x4 in the Wan2.2 form; mean and deviation are measured when it is exported.

16x16x4 with 48 channels would begin below plain bicubic upsampling at sizes like these.
"""

TINY_WORDS = WordConfig(buckets=4096, text_dim=32)

TINY_MOTION = DiTConfig(
    in_channels=2 * LATENT_CHANNELS + MASK_CHANNELS,
    out_channels=LATENT_CHANNELS,
    dim=320,
    ffn_dim=640,
    heads=8,
    layers=4,
    text_dim=TINY_WORDS.text_dim,
    text_tokens=64,
    frequency_dim=128,
    patch=Patch(time=1, height=1, width=1),
    eps=1e-6,
)
"""Stage I in the mask-channel form. At a quarter of 512x320 a patch of 1 is affordable."""

TINY_DETAIL = DiTConfig(
    in_channels=2 * LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    dim=360,
    ffn_dim=576,
    heads=6,
    layers=3,
    text_dim=TINY_WORDS.text_dim,
    text_tokens=64,
    frequency_dim=128,
    patch=Patch(time=1, height=2, width=2),
    eps=1e-6,
)
"""Stage II with a concatenated reference."""

FEW_STEPS = Recipe(steps=4, cfg=1.0, sigma_shift=5.0, solver=SolverName.EULER)
"""How both DiTs are sampled, and so what they are trained for."""

CARRY = 1.0
"""Share of the picture's detail that references are given: what Stage II learns from, and gets."""


def _clip(pixel_frames: int, width: int, height: int) -> PixelShape:
    return PixelShape(pixel_frames=pixel_frames, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class Diet:
    """Sizes of a recipe's clips, drawn in turn, and how many go through a step.

    Attributes:
        shapes: of clips.
        batch: how many clips at the first shape; others as many as have about the same pixels.
        pool: batches that are kept and drawn from.
        refresh: steps after which the oldest batch of the pool is replaced.
    """

    shapes: tuple[PixelShape, ...]
    batch: int
    pool: int = 1
    refresh: int = 1

    def shape(self, index: int) -> PixelShape:
        """Give the shape of the clips of a batch."""
        return self.shapes[index % len(self.shapes)]

    def count(self, index: int) -> int:
        """Give the number of clips in a batch."""
        first, here = self.shapes[0], self.shape(index)
        share = _pixels(first) / _pixels(here)
        return max(1, round(self.batch * share))


def _pixels(shape: PixelShape) -> int:
    return shape.pixel_frames * shape.height * shape.width


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What suits a machine; the recipes are the same.

    Attributes:
        vae: diet of the VAE; at least 13 frames, where the caches are first full, and some of so
            many that what reaches back through all layers has come to rest.
        motion: diet of Stage I, at the motion clip's size.
        detail: diet of Stage II, at the output's size.
        budgets: of each recipe, where none is given; in steps where machines differ much or are
            busy. No steps where models are good before the first, and what steps change then is a
            matter of many clips at a time.
        judged: sizes of the held-out clips that the VAE and Stage II are judged by.
        judged_motion: of those that Stage I is judged by.
    """

    vae: Diet
    motion: Diet
    detail: Diet
    budgets: Mapping[str, Budget]
    judged: tuple[PixelShape, ...]
    judged_motion: PixelShape


SMALL = Scale(
    vae=Diet(
        shapes=(_clip(13, 96, 96), _clip(49, 64, 64), _clip(17, 64, 64)),
        batch=2,
    ),
    motion=Diet(
        shapes=(_clip(33, 128, 80), _clip(17, 128, 80), _clip(49, 128, 80)),
        batch=1,
        pool=64,
        refresh=8,
    ),
    detail=Diet(shapes=(_clip(13, 192, 128), _clip(13, 256, 160)), batch=2, pool=48, refresh=8),
    budgets={
        "vae": Budget(steps=1800),
        "decoder": Budget(steps=2800),
        "motion": Budget(steps=0),
        "detail": Budget(steps=0),
    },
    judged=(_clip(17, 256, 160), _clip(17, 512, 320)),
    judged_motion=_clip(33, 128, 80),
)
"""For a CPU."""

FULL = Scale(
    vae=Diet(
        shapes=(_clip(17, 128, 128), _clip(49, 96, 96), _clip(13, 160, 160)),
        batch=32,
        pool=32,
        refresh=2,
    ),
    motion=Diet(
        shapes=(_clip(49, 128, 80), _clip(33, 160, 96), _clip(81, 128, 80)),
        batch=32,
        pool=40,
        refresh=20,
    ),
    detail=Diet(
        shapes=(_clip(33, 256, 160), _clip(49, 192, 192), _clip(81, 192, 128), _clip(33, 512, 320)),
        batch=24,
        pool=40,
        refresh=25,
    ),
    budgets=dict.fromkeys(("vae", "decoder", "motion", "detail"), Budget(seconds=480)),
    judged=(_clip(33, 256, 160), _clip(33, 512, 320)),
    judged_motion=_clip(49, 128, 80),
)
"""For a data-centre GPU."""
