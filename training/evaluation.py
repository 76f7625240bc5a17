"""Stage II judged with any set of models, on held-out photographs filmed with known motion.

The reference is what the pipeline builds, only that the small clip is the truth made small, not
Stage I's: what is judged is the refinement alone. Then once more with small clips that Stage I has
noised and denoised in one stride, so that they carry its artefacts. Everything runs through the
pipeline's own parts, so any set that ``generate`` takes can be judged.
"""

import logging
import statistics
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from swift_core.geometry import PixelShape
from swift_core.segments.plan import Interaction, SegmentSettings, plan_segments
from swift_core.shapes import Float, Tensor
from swift_core.stages.prompt import encode_prompt, read_prompt
from swift_core.stages.reference import build_reference
from swift_core.stages.refine import RefineSettings, refine
from swift_core.stages.runtime import Runtime
from swift_core.text.encoder import TextEncoder
from swift_core.text.words import WordEncoder
from swift_core.weights.model_set import ModelSet

from .chance import generator
from .continuity import by_segment, change, seam_energy
from .data import ClipMaker
from .measure import psnr
from .motion import Stage1
from .moves import SINGLE_MOVES
from .quality import gmsd, haarpsi, ssim
from .references import hybrid_reference, shrink, through_stage1
from .vae import to_clips, to_model

_log = logging.getLogger(__name__)

USUAL = SegmentSettings()
VARIANTS: Mapping[str, SegmentSettings] = {
    "M=3, N=1": USUAL,
    "M=3, N=1, read-only": replace(USUAL, interaction=Interaction.READ_ONLY),
    "M=3, N=0": replace(USUAL, neighbors=0),
    "M=3, N=2": replace(USUAL, neighbors=2),
    "M=2, N=1": replace(USUAL, segment_length=2),
    "M=6, N=1": replace(USUAL, segment_length=6),
}
"""What is compared: how conditions see, how many neighbours there are, how long segments are."""

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One held-out clip with everything that does not depend on sampling.

    Attributes:
        true: the clip.
        small: the clip at the motion's size.
        prompt: the name of its move.
    """

    true: Float[Tensor, "p h w 3"]
    small: Float[Tensor, "p i j 3"]
    prompt: str

    @property
    def shape(self) -> PixelShape:
        """Give the clip's size."""
        frames, height, width, _ = self.true.shape
        return PixelShape(pixel_frames=frames, height=height, width=width)


def film_cases(
    clips: ClipMaker, shape: PixelShape, *, all_moves: bool = False, stage: Stage1 | None = None
) -> list[Case]:
    """Film each held-out photograph with a move of its own, or with every move.

    Args:
        stage: through which small clips go; None: they are only small.
    """
    cases: list[Case] = []
    for number in range(len(clips.photographs)):
        own = SINGLE_MOVES[number % len(SINGLE_MOVES)]
        for move in SINGLE_MOVES if all_moves else (own,):
            true = clips.film(number, move, shape=shape)
            small = shrink(true[None])
            if stage is not None:
                small = through_stage1(small, (move,), stage, generator(number, len(cases)))
            cases.append(Case(true=true, small=small[0], prompt=move.words))
    return cases


def open_stage1(models: ModelSet, runtime: Runtime) -> Stage1 | None:
    """Open the Stage I of a set, if it is of the kind that is trained here."""
    dit = models.motion_high.config
    words: TextEncoder = runtime.load(models.text)
    if not isinstance(words, WordEncoder) or dit.in_channels == dit.out_channels:
        return None
    return Stage1(runtime.load(models.motion_high), words, runtime.load(models.motion_vae))


class Judge:
    """Refine cases with the Stage II of a set.

    Args:
        models: of which text encoder, detail model and its VAE are used.
    """

    def __init__(self, models: ModelSet, *, runtime: Runtime) -> None:
        self.models = models
        self.runtime = runtime
        self.vae = runtime.load(models.detail_vae)
        self.dit = runtime.load(models.detail)

    @property
    def time(self) -> int:
        """Give pixel frames per latent frame."""
        return self.vae.config.compression.time

    def enlarge(self, case: Case, *, carry: float) -> Float[Tensor, "p h w 3"]:
        """Make a case's small clip large, as the hybrid reference has it before it is encoded."""
        return hybrid_reference(case.true[None], case.small[None], carry=carry)[0]

    def reference(self, case: Case) -> Float[Tensor, "1 c t i j"]:
        """Build the hybrid reference of a case."""
        return build_reference(
            self.vae,
            case.true[0],
            case.small,
            output=case.shape,
            carry=self.models.carry,
            runtime=self.runtime,
        )

    def through_vae(self, clip: Float[Tensor, "p h w 3"]) -> Float[Tensor, "p h w 3"]:
        """Let the VAE reconstruct a clip."""
        return self.decode(self.vae.encode(to_model(clip[None])))

    def refine(
        self, case: Case, reference: Float[Tensor, "1 c t i j"], how: SegmentSettings, *, seed: int
    ) -> Float[Tensor, "p h w 3"]:
        """Run Stage II on a case."""
        recipe = self.models.detail_recipe
        text = encode_prompt(
            self.models.text,
            case.prompt,
            "",
            max_tokens=self.dit.config.text_tokens,
            runtime=self.runtime,
        )
        prompt = read_prompt(self.dit, text, recipe)
        plan = plan_segments(reference.shape[2], how)
        settings = RefineSettings(plan=plan, recipe=recipe, seed=seed)
        return self.decode(refine(self.dit, reference, prompt, settings, runtime=self.runtime))

    def decode(self, latent: Float[Tensor, "1 c t i j"]) -> Float[Tensor, "p h w 3"]:
        """Decode a latent to a clip."""
        return to_clips(self.vae.decode(latent))[0]


@torch.inference_mode()
def judge_quality(judge: Judge, cases: Sequence[Case]) -> dict[str, Numbers]:
    """Compare Stage II with what costs nothing, and with the most that the VAE allows.

    Returns:
        For plain bicubic upsampling; the same with the picture's detail carried along the motion,
        where the set's references have it; the VAE's reconstructions of both, of which the last is
        the reference; Stage II; and the VAE's reconstruction of the truth, which is the most that
        Stage II can reach: the means over cases and frames after the first, and ``first``, the
        PSNR of frame 0.
    """
    rows: dict[str, list[Numbers]] = {}
    carry = judge.models.carry
    for seed, case in enumerate(cases):
        reference = judge.reference(case)
        bicubic = judge.enlarge(case, carry=0.0)
        made = {"bicubic": bicubic}
        if carry:
            made["carried"] = judge.enlarge(case, carry=carry)
            made["VAE(bicubic)"] = judge.through_vae(bicubic)
        made |= {
            "VAE(carried)" if carry else "VAE(bicubic)": judge.decode(reference),
            "Stage II": judge.refine(case, reference, USUAL, seed=seed),
            "VAE(truth)": judge.through_vae(case.true),
        }
        for name, clip in made.items():
            rows.setdefault(name, []).append(compare(clip, case.true))
        _log.info("quality: case %d of %d", seed + 1, len(cases))
    return {name: _means(each) for name, each in rows.items()}


def compare(made: Float[Tensor, "p h w 3"], true: Float[Tensor, "p h w 3"]) -> Numbers:
    """Measure a clip against the truth in every way."""
    later = made[1:], true[1:]
    return {
        "psnr": psnr(*later),
        "ssim": float(ssim(*later).mean()),
        "haarpsi": float(haarpsi(*later).mean()),
        "gmsd": float(gmsd(*later).mean()),
        "first": psnr(made[:1], true[:1]),
    }


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """What one way to cut segments gave, one entry per seed, each the mean over cases.

    Attributes:
        numbers: PSNR after the first frame, seam energy, changes of sharpness and of the gap to
            the VAE's reconstruction from the first to the last segment, and seconds per clip.
        sharpness: of each segment, as a share of that reconstruction's.
    """

    numbers: list[Numbers]
    sharpness: list[list[float]]

    def spread(self, name: str) -> tuple[float, float]:
        """Give a number's mean and standard deviation over seeds."""
        values = [row[name] for row in self.numbers]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


@torch.inference_mode()
def judge_variants(judge: Judge, cases: Sequence[Case], *, seeds: int) -> dict[str, VariantResult]:
    """Refine every case in every way with every seed; noise is the same for all ways."""
    references = [judge.reference(case) for case in cases]
    ceilings = [judge.through_vae(case.true) for case in cases]
    results: dict[str, VariantResult] = {}
    for name, how in VARIANTS.items():
        numbers: list[Numbers] = []
        sharp: list[list[float]] = []
        for seed in range(seeds):
            judged = [
                _judge_one(judge, case, given, how, seed)
                for case, *given in zip(cases, references, ceilings, strict=True)
            ]
            numbers.append(_means([row for row, _ in judged]))
            sharp.append(_columns([segments for _, segments in judged]))
        results[name] = VariantResult(numbers=numbers, sharpness=sharp)
        _log.info("%s: %s", name, {key: round(value, 4) for key, value in numbers[-1].items()})
    return results


def _judge_one(
    judge: Judge, case: Case, given: Sequence[Tensor], how: SegmentSettings, seed: int
) -> tuple[Numbers, list[float]]:
    """Refine one case, given its reference and ceiling; measure it and each of its segments."""
    reference, ceiling = given
    began = clock.perf_counter()
    made = judge.refine(case, reference, how, seed=seed)
    seconds = clock.perf_counter() - began
    plan = plan_segments(reference.shape[2], how)
    segments = by_segment(made, ceiling, case.true, plan, time=judge.time)
    sharp = [row["sharpness"] for row in segments]
    numbers = {
        "psnr": psnr(made[1:], case.true[1:]),
        "seam": seam_energy(made, case.true, plan, time=judge.time),
        "sharpness": change(sharp),
        "gap": change([row["gap"] for row in segments]),
        "seconds": seconds,
    }
    return numbers, sharp


def _means(rows: Sequence[Numbers]) -> Numbers:
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}


def _columns(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]
