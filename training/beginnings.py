"""Both DiTs before their first step: what can be computed or taught beforehand.

A run that goes on takes its weights from a checkpoint; then nothing of this is computed.
"""

import logging
from dataclasses import dataclass

import torch

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
from .refits import refit_detail, refit_stage1
from .sizes import Diet
from .vae import to_model
from .wiener import fit_reference, make_refining_dit

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is done before training.

    Attributes:
        copied: clips that Stage I's copies are fitted to.
        lessons: in steering.
        recopied: clips that Stage I's ways out are fitted to, once it steers.
        estimated: clips that Stage II's first estimate is fitted to.
        reestimated: clips that its ways out are fitted to.
    """

    copied: int = 90
    lessons: int = 5000
    recopied: int = 80
    estimated: int = 120
    reestimated: int = 150


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the DiTs begin from.

    Attributes:
        vae: finished.
        clips: to fit to.
        diet: sizes of those clips.
        seed: of all other weights.
        effort: how much to do.
    """

    vae: WanVAE
    clips: ClipMaker
    diet: Diet
    seed: int
    effort: Effort


def begin_stage1(config: DiTConfig, words: WordConfig, ground: Ground) -> Stage1:
    """Build a Stage I that copies the picture, and teach it where moves lead."""
    device = ground.clips.device
    effort, shape = ground.effort, ground.diet.shape(0)
    fit = fit_copies(config, ground.vae, ground.clips, shape, count=effort.copied)
    dit = make_copying_dit(config, fit, seed=ground.seed).to(device)
    stage = Stage1(dit, make_words(words).to(device), ground.vae)
    made = ground.clips.make(0, count=1, shape=shape, style=STEADY)
    given = shown_picture(ground.vae, to_model(made.pixels)).float()[:, :, :2]
    loss = teach_steering(
        dit,
        stage.words,
        given,
        ground.vae.config.compression,
        seed=ground.seed,
        lessons=effort.lessons,
    )
    _log.info("steering after %d lessons: %.4f", effort.lessons, loss)
    left = refit_stage1(stage, ground.clips, ground.diet, count=effort.recopied)
    _log.info("left of the copies' squared error after another fit: %.3f", left)
    return stage


def begin_detail(config: DiTConfig, ground: Ground) -> WanDiT:
    """Build a Stage II that answers with the best linear estimate."""
    effort, shape = ground.effort, ground.diet.shape(0)
    vae, clips = ground.vae, ground.clips
    fit = fit_reference(config, vae, clips, shape, count=effort.estimated)
    dit = make_refining_dit(config, fit, seed=ground.seed).to(clips.device)
    left = refit_detail(dit, vae, clips, shape, count=effort.reestimated)
    _log.info("left of the estimate's squared error after another fit: %.3f", left)
    return dit


def blank_stage1(config: DiTConfig, words: WordConfig, vae: WanVAE, device: torch.device) -> Stage1:
    """Give a Stage I for a checkpoint to fill."""
    return Stage1(WanDiT(config).to(device), make_words(words).to(device), vae)
