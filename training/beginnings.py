"""Both DiTs before their first step: what can be computed or taught beforehand.

A run that goes on takes its weights from a checkpoint; then nothing of this is computed.
"""

import logging
from dataclasses import dataclass

import torch

from swift_core.geometry import PixelShape
from swift_core.model.config import DiTConfig
from swift_core.model.dit import WanDiT
from swift_core.text.words import WordConfig
from swift_core.vae.autoencoder import WanVAE

from .copyfit import fit_copies
from .copying import make_copying_dit
from .data import STEADY, ClipMaker
from .dits import make_words
from .latents import shown_picture
from .lessons import teach_steering
from .motion import Stage1
from .vae import to_model
from .wiener import fit_reference, make_refining_dit

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is done before training.

    Attributes:
        copied: clips that Stage I's copies are fitted to.
        lessons: in steering.
        estimated: clips that Stage II's first estimate is fitted to.
    """

    copied: int = 90
    lessons: int = 3500
    estimated: int = 120


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the DiTs begin from.

    Attributes:
        vae: finished.
        clips: to fit to.
        shape: of those clips.
        seed: of all other weights.
        effort: how much to do.
    """

    vae: WanVAE
    clips: ClipMaker
    shape: PixelShape
    seed: int
    effort: Effort


def begin_stage1(config: DiTConfig, words: WordConfig, ground: Ground) -> Stage1:
    """Build a Stage I that copies the picture, and teach it where moves lead."""
    device = ground.clips.device
    lessons = ground.effort.lessons
    fit = fit_copies(config, ground.vae, ground.clips, ground.shape, count=ground.effort.copied)
    dit = make_copying_dit(config, fit, seed=ground.seed).to(device)
    stage = Stage1(dit, make_words(words).to(device), ground.vae)
    made = ground.clips.make(0, count=1, shape=ground.shape, style=STEADY)
    given = shown_picture(ground.vae, to_model(made.pixels)).float()[:, :, :2]
    loss = teach_steering(
        dit,
        stage.words,
        given,
        ground.vae.config.compression,
        seed=ground.seed,
        lessons=lessons,
    )
    _log.info("steering after %d lessons: %.4f", lessons, loss)
    return stage


def begin_detail(config: DiTConfig, ground: Ground) -> WanDiT:
    """Build a Stage II that answers with the best linear estimate."""
    fit = fit_reference(
        config, ground.vae, ground.clips, ground.shape, count=ground.effort.estimated
    )
    return make_refining_dit(config, fit, seed=ground.seed).to(ground.clips.device)


def blank_stage1(config: DiTConfig, words: WordConfig, vae: WanVAE, device: torch.device) -> Stage1:
    """Give a Stage I for a checkpoint to fill."""
    return Stage1(WanDiT(config).to(device), make_words(words).to(device), vae)
