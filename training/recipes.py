"""The recipes end to end: what is read, trained, judged and written, in which order.

Everything lies in one folder: checkpoints and curves of each recipe, ``pictures-*`` (a cache of the
photographs), ``report.json`` (every evaluation), and ``set/``, the finished set as
``swift_core`` opens it.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from swift_core.errors import CheckpointError
from swift_core.model.dit import WanDiT
from swift_core.precision import FP32
from swift_core.text.words import WordEncoder
from swift_core.vae.autoencoder import WanVAE
from swift_core.vae.layout import prepare
from swift_core.weights.build import build_dit, build_vae, build_words
from swift_core.weights.set_file import SetFile, write_set_file

from .beginnings import Effort, Ground, begin_detail, begin_stage1, blank_stage1
from .closed_form import make_vae
from .data import TEXTURES, ClipMaker
from .detail import DetailTask, evaluate_detail
from .dits import make_words
from .export import save_half
from .loop import Budget, RunSettings, RunState, Stepping, Task, checkpoint_path, train
from .motion import MotionTask, Stage1, evaluate_motion
from .sheets import Sheet
from .sizes import CARRY, FEW_STEPS, TINY_DETAIL, TINY_MOTION, TINY_VAE, TINY_WORDS, Diet, Scale
from .vae import (
    DecoderTask,
    VAETask,
    evaluate_vae,
    export_vae,
    first_clips,
    measure_statistics,
)

_log = logging.getLogger(__name__)

VAE_FILE = "vae.safetensors"
WORDS_FILE = "words.safetensors"
MOTION_FILE = "motion.safetensors"
DETAIL_FILE = "detail.safetensors"

DESCRIPTION = (
    "A toy set of 40 MB, trained on a dozen photographs and procedural clips: it shows "
    "how everything works, on any machine, and is honest about its quality."
)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where and how recipes run.

    Attributes:
        settings: of each run; ``settings.out`` is the folder of everything.
        scale: sizes of clips and batches.
        device: where models and clips are.
        seed: of first weights and all data.
        textures: how many to draw beside the photographs.
        judge: whether to judge the finished models by held-out clips.
        effort: what is done for the DiTs before they are trained.
        budgets: of tasks that have one of their own, by name.
    """

    settings: RunSettings
    scale: Scale
    device: torch.device
    seed: int
    textures: int = TEXTURES
    judge: bool = True
    effort: Effort = field(default_factory=Effort)
    budgets: Mapping[str, Budget] = field(default_factory=dict[str, Budget])

    @property
    def set_folder(self) -> Path:
        """Give the folder of finished models."""
        return self.settings.out / "set"

    def goes_on(self, task: str) -> bool:
        """Tell whether a run of a task goes on from a checkpoint, which brings all weights."""
        return self.settings.resume and checkpoint_path(self.settings.out, task).exists()

    def ground(self, vae: WanVAE, clips: ClipMaker, diet: Diet) -> Ground:
        """Give what a DiT begins from."""
        return Ground(vae=vae, clips=clips, diet=diet, seed=self.seed, effort=self.effort)

    def clips(self, *, held_out: bool = False) -> ClipMaker:
        """Open one side of the split."""
        side = "held-out" if held_out else "training"
        return ClipMaker(
            seed=self.seed,
            device=self.device,
            held_out=held_out,
            textures=self.textures,
            cache=self.settings.out / f"pictures-{side}.safetensors",
        )

    def run(self, task: Task, *, stepping: Stepping = nullcontext) -> RunState:
        """Train a task, and say how long it took."""
        budget = self.budgets.get(task.name, self.settings.budget)
        state = train(task, replace(self.settings, budget=budget), stepping=stepping)
        _log.info("%s: %d steps in %.0f s", task.name, state.step, state.seconds)
        return state

    def report(self, name: str, state: RunState, results: Mapping[str, Any], sheet: Sheet) -> None:
        """Add an evaluation to the report, and write what was seen beside it."""
        sheet.save(self.settings.out / f"{name}-held-out.png")
        path = self.settings.out / "report.json"
        report = json.loads(path.read_text()) if path.exists() else {}
        report[name] = {"steps": state.step, "seconds": round(state.seconds), "held_out": results}
        path.write_text(json.dumps(report, indent=2) + "\n")
        _log.info("%s, held out: %s", name, json.dumps(results))


def train_vae(shop: Workshop) -> None:
    """Compute, train, measure, export and judge the VAE."""
    clips = shop.clips()
    vae = make_vae(TINY_VAE, first_clips(clips, shop.scale.vae), seed=shop.seed).to(shop.device)
    task = VAETask(vae, clips, shop.scale.vae)
    state = shop.run(task, stepping=task.stepping)
    config = measure_statistics(vae, clips, shop.scale.vae.shape(0))
    export_vae(vae, config, shop.set_folder / VAE_FILE)
    judge_vae(shop, task, state)


def train_decoder(shop: Workshop) -> None:
    """Train the VAE's decoder on, export and judge it; its latents stay what they are."""
    vae = load_vae(shop)
    task = DecoderTask(vae, shop.clips(), shop.scale.vae)
    state = shop.run(task, stepping=task.stepping)
    export_vae(vae, vae.config, shop.set_folder / VAE_FILE)
    judge_vae(shop, task, state)


def judge_vae(shop: Workshop, task: Task, state: RunState) -> None:
    """Judge the finished VAE by held-out clips, if that is wanted."""
    if not shop.judge:
        return
    finished, held_out = load_vae(shop), shop.clips(held_out=True)
    sheet = Sheet()
    results = {
        str(shape): evaluate_vae(finished, held_out, shape, sheet) for shape in shop.scale.judged
    }
    shop.report(task.name, state, results, sheet)


def train_motion(shop: Workshop) -> None:
    """Train, export and judge Stage I and the words."""
    clips, vae = shop.clips(), load_vae(shop)
    if shop.goes_on(MotionTask.name):
        stage = blank_stage1(TINY_MOTION, TINY_WORDS, vae, shop.device)
    else:
        ground = shop.ground(vae, clips, shop.scale.motion)
        stage = begin_stage1(TINY_MOTION, TINY_WORDS, ground)
    state = shop.run(MotionTask(stage, clips, shop.scale.motion))
    save_half(stage.dit, shop.set_folder / MOTION_FILE)
    save_half(stage.words, shop.set_folder / WORDS_FILE)
    finished = load_stage1(shop)
    assert finished is not None, "it was written above"
    if not shop.judge:
        return
    held_out = shop.clips(held_out=True)
    sheet = Sheet()
    results = evaluate_motion(finished, held_out, shop.scale.judged_motion, sheet)
    shop.report("motion", state, results, sheet)


def train_detail(shop: Workshop) -> None:
    """Train, export and judge Stage II, and complete the set."""
    stage = load_stage1(shop)
    if stage is None:
        _log.warning("there is no Stage I yet: references carry its VAE's artefacts only")
    words = stage.words if stage else make_words(TINY_WORDS).to(shop.device)
    clips, vae = shop.clips(), load_vae(shop)
    if shop.goes_on(DetailTask.name):
        dit = WanDiT(TINY_DETAIL).to(shop.device)
    else:
        dit = begin_detail(TINY_DETAIL, shop.ground(vae, clips, shop.scale.detail))
    task = DetailTask(dit, words, vae, clips, shop.scale.detail, stage=stage)
    state = shop.run(task)
    save_half(dit, shop.set_folder / DETAIL_FILE)
    if stage is not None:
        complete_set(shop.set_folder)
    if not shop.judge:
        return
    held_out = shop.clips(held_out=True)
    finished: WanDiT = build_dit(shop.set_folder / DETAIL_FILE, precision=FP32).to(shop.device)
    sheet = Sheet()
    results = {
        str(shape): evaluate_detail(finished, words, vae, held_out, shape, sheet)
        for shape in shop.scale.judged
    }
    shop.report("detail", state, results, sheet)


def train_all(shop: Workshop) -> None:
    """Make the whole set."""
    train_vae(shop)
    train_decoder(shop)
    train_motion(shop)
    train_detail(shop)


def load_vae(shop: Workshop) -> WanVAE:
    """Read the finished VAE.

    Raises:
        CheckpointError: if there is none.
    """
    path = shop.set_folder / VAE_FILE
    if not path.exists():
        raise CheckpointError(f"{path} is not there; train it first: python -m training vae.")
    return prepare(build_vae(path, precision=FP32)).to(shop.device)


def load_stage1(shop: Workshop) -> Stage1 | None:
    """Read the finished Stage I, if there is one."""
    dit, words = shop.set_folder / MOTION_FILE, shop.set_folder / WORDS_FILE
    if not (dit.exists() and words.exists()):
        return None
    encoder: WordEncoder = build_words(words, precision=FP32).to(shop.device)
    return Stage1(build_dit(dit, precision=FP32).to(shop.device), encoder, load_vae(shop))


def complete_set(folder: Path) -> None:
    """Write what the files of a set are for, and how they are sampled."""
    write_set_file(
        folder,
        SetFile(
            name="swift-tiny",
            description=DESCRIPTION,
            slots={
                "text": WORDS_FILE,
                "motion_high": MOTION_FILE,
                "motion_vae": VAE_FILE,
                "detail": DETAIL_FILE,
                "detail_vae": VAE_FILE,
            },
            motion=FEW_STEPS,
            detail=FEW_STEPS,
            carry=CARRY,
        ),
    )


RECIPES: dict[str, Callable[[Workshop], None]] = {
    "vae": train_vae,
    "decoder": train_decoder,
    "motion": train_motion,
    "detail": train_detail,
    "all": train_all,
}
