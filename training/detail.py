"""Stage II: the reference becomes sharp, segment by segment.

Training steps are segments as Conditional Segment-wise Generation cuts them, through the sampler's
own plan and denoiser: anchor and neighbors clean at timestep 0, places in time those of the clip,
the reference beside the noise. Neighbors are true frames drawn a little towards the reference,
because those that sampling will bring are not perfect either.
"""

from collections.abc import Mapping

import torch
from torch import nn

from swift_core.geometry import PixelShape
from swift_core.model.dit import PromptKeys, WanDiT
from swift_core.precision import FP32
from swift_core.segments.denoiser import SegmentContext
from swift_core.segments.dit_denoiser import DiTDenoiser
from swift_core.segments.plan import (
    BlockRole,
    Interaction,
    Segment,
    SegmentSettings,
    plan_segments,
)
from swift_core.shapes import Float, Tensor
from swift_core.stages.prompt import GuidedPrompt
from swift_core.stages.refine import RefineSettings, refine
from swift_core.stages.runtime import Runtime
from swift_core.text.words import WordEncoder
from swift_core.vae.autoencoder import WanVAE

from .chance import choose, generator, happens, uniform
from .data import ClipMaker
from .fewsteps import clean_estimate, latent_loss
from .latents import channel_weights
from .loop import Losses
from .measure import average, psnr
from .motion import Stage1
from .moves import SINGLE_MOVES, Move
from .optimizer import Rates
from .pool import Pool
from .prompts import bucket_prompt, embed
from .references import DetailBatch, hybrid_reference, make_batch, shrink
from .sheets import Sheet
from .sizes import CARRY, FEW_STEPS, Diet
from .vae import to_clips, to_model
from .wiener import NATURAL_PARTS

READ_ONLY = 0.15
"""Share of steps without bidirectional interaction, so that the ablation is not foreign to it."""


SILENT = 0.2
"""Share of steps without a prompt."""

EASE = 0.005
"""Added to a reference's error before a step's error is measured by it; a sixth of the error of a
bicubic reference of a photograph. Where Stage I's artefacts are, references are far off, and would
drown those with all of the picture's detail, which are hardly off at all, and would shout."""


def draw_segment(draw: torch.Generator, latent_frames: int) -> tuple[Segment, Interaction]:
    """Cut a clip as sampling may cut it, and take one segment."""
    settings = SegmentSettings(
        segment_length=choose(draw, (2, 3, 3, 3, 4)),
        neighbors=choose(draw, (0, 1, 1, 1, 2)),
        right_neighbors=choose(draw, (0, 0, 0, 0, 1)),
    )
    read_only = happens(draw, READ_ONLY)
    interaction = Interaction.READ_ONLY if read_only else Interaction.BIDIRECTIONAL
    return choose(draw, plan_segments(latent_frames, settings).segments), interaction


def gather_context(
    batch: DetailBatch, segment: Segment, draw: torch.Generator
) -> Float[Tensor, "b c window h w"]:
    """Collect what a segment sees: the picture, finished neighbors, the reference elsewhere."""
    worn = uniform(draw, 0, 0.5) if happens(draw, 0.7) else 0.0
    frames: list[Tensor] = []
    for role, frame in zip(segment.roles, segment.latent_frames, strict=True):
        clean, reference = batch.clean[:, :, frame], batch.reference[:, :, frame]
        if role is BlockRole.ANCHOR:
            frames.append(clean)
        elif role is BlockRole.NEIGHBOR and frame in segment.left:
            frames.append(torch.lerp(clean, reference, worn))
        else:
            frames.append(reference)
    return torch.stack(frames, dim=2)


class DetailTask:
    """Predict the true latent of a segment's targets.

    Args:
        stage: Stage I for the references, or None where there is none yet.
        words: those trained with Stage I; they stay as they are.
    """

    name = "detail"
    rates = Rates(matrix=0.0, vector=1.2e-5, warm=200)

    def __init__(
        self,
        dit: WanDiT,
        words: WordEncoder,
        vae: WanVAE,
        clips: ClipMaker,
        diet: Diet,
        *,
        stage: Stage1 | None,
    ) -> None:
        self.dit = dit
        self.words = words
        self.vae = vae
        self.clips = clips
        self.diet = diet
        self.stage = stage
        self.pool = Pool(self.make, diet, seed=clips.seed, device=clips.device)
        self.weights = channel_weights(vae, clips)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Give the DiT."""
        return {"dit": self.dit}

    def make(self, index: int) -> DetailBatch:
        """Make and encode a batch of clips with their references."""
        made = self.clips.make(
            index, count=self.diet.count(index), shape=self.diet.shape(index), style=NATURAL_PARTS
        )
        draw = generator(self.clips.seed, 4, index)
        return make_batch(made.pixels, made.moves, self.stage, self.vae, draw)

    def losses(self, step: int) -> Losses:
        """Compare a clean estimate of one segment's targets with the truth."""
        _, batch = self.pool.draw(step)
        draw = generator(self.clips.seed, 5, step)
        segment, interaction = draw_segment(draw, batch.clean.shape[2])
        context = SegmentContext(
            segment=segment,
            reference=gather_context(batch, segment, draw),
            interaction=interaction,
        )
        keys = self._read(batch.moves, draw)
        denoiser = DiTDenoiser(dit=self.dit, prompt=keys, compute=torch.float32)
        clean = batch.clean[:, :, list(segment.targets)]
        noise = torch.randn(clean.shape, generator=draw).to(clean.device)
        estimate, sigma = clean_estimate(denoiser.open(context), clean, noise, draw)
        error = latent_loss(estimate, clean, self.weights)
        given = latent_loss(batch.reference[:, :, list(segment.targets)], clean, self.weights)
        return {
            "loss": error / (given + EASE),
            "gain": error.detach() / given,
            "sigma": torch.tensor(sigma),
        }

    def _read(self, moves: tuple[Move, ...], draw: torch.Generator) -> PromptKeys:
        most = self.dit.config.text_tokens
        with torch.no_grad():
            said = [bucket_prompt(draw, self.words, move, max_tokens=most) for move in moves]
            if happens(draw, SILENT):
                said = [buckets[:0] for buckets in said]
            text = embed(self.words, said, max_tokens=most)
        return self.dit.read_prompt(text)


@torch.no_grad()
def evaluate_detail(
    dit: WanDiT,
    words: WordEncoder,
    vae: WanVAE,
    clips: ClipMaker,
    shape: PixelShape,
    sheet: Sheet,
) -> dict[str, float]:
    """Refine held-out clips made small, beside what costs nothing and what is the most.

    Args:
        sheet: gets last frames: of all that is measured, and of the truth.

    Returns:
        PSNR over the frames after the first: of plain bicubic upsampling, of the VAE's
        reconstructions of that and of the reference, of Stage II, and of the VAE's reconstruction
        of the truth.
    """
    device = next(dit.parameters()).device
    runtime = Runtime(device=device, precision=FP32)
    rows: list[dict[str, float]] = []
    for number in range(len(clips.photographs)):
        move = SINGLE_MOVES[number % len(SINGLE_MOVES)]
        true = clips.film(number, move, shape=shape)[None]
        small = shrink(true)
        bicubic, carried = (hybrid_reference(true, small, carry=share) for share in (0.0, CARRY))
        reference = vae.encode(to_model(carried)).float()
        text = words.encode(move.words, max_tokens=dit.config.text_tokens)
        prompt = GuidedPrompt(positive=dit.read_prompt(text), negative=None, cfg=1.0)
        plan = plan_segments(reference.shape[2], SegmentSettings())
        settings = RefineSettings(plan=plan, recipe=FEW_STEPS, seed=number)
        made = to_clips(vae.decode(refine(dit, reference, prompt, settings, runtime=runtime)))
        named = {
            "bicubic": bicubic,
            "vae_bicubic": to_clips(vae.decode(vae.encode(to_model(bicubic)))),
            "vae_carried": to_clips(vae.decode(reference)),
            "stage2": made,
            "ceiling": to_clips(vae.decode(vae.encode(to_model(true)))),
        }
        sheet.add(*(clip[0] for clip in (*named.values(), true)))
        row = {name: psnr(clip[:, 1:], true[:, 1:]) for name, clip in named.items()}
        row["first"] = psnr(made[:, :1], true[:, :1])
        rows.append(row)
    return average(rows)
