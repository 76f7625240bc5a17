"""Stage I: a picture and a camera word become a small clip.

The DiT has the mask-channel form of Wan2.2-I2V-A14B: noise, a mask of what is given, and the
encoding of the picture followed by grey. It samples every frame. It begins as a copy of the picture
(see ``copying``) that was taught where moves lead (see ``lessons``); training makes it sharp. The
word encoder is trained with it: camera words steer, all other words are nothing (see ``prompts``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from swift_core.flow.sigmas import make_sigmas
from swift_core.flow.solvers import Velocity
from swift_core.geometry import PixelShape
from swift_core.model.dit import PromptKeys, WanDiT
from swift_core.shapes import Float, Tensor
from swift_core.text.words import WordEncoder
from swift_core.vae.autoencoder import WanVAE

from .chance import generator
from .copying import STEERING_BLOCKS
from .data import STEADY, ClipMaker
from .fewsteps import clean_estimate, latent_loss, walk
from .latents import channel_weights, shown_picture
from .lessons import listening, phase_loss
from .loop import Losses
from .measure import average, measure_motion, psnr
from .moves import SINGLE_MOVES, Move
from .optimizer import Rates
from .pool import Pool
from .prompts import bucket_prompt, embed
from .sheets import Sheet
from .sizes import FEW_STEPS, MASK_CHANNELS, Diet
from .steering import Grid, displacement
from .vae import to_clips, to_model


@dataclass(frozen=True, kw_only=True)
class MotionBatch:
    """Clips as Stage I meets them.

    Attributes:
        clean: latents of the clips.
        given: latents of their first frames followed by grey.
        moves: what the camera does.
    """

    clean: Float[Tensor, "b c t h w"]
    given: Float[Tensor, "b c t h w"]
    moves: tuple[Move, ...]


class Stage1:
    """Stage I's models, as sampling uses them."""

    def __init__(self, dit: WanDiT, words: WordEncoder, vae: WanVAE) -> None:
        self.dit = dit
        self.words = words
        self.vae = vae

    def read(self, moves: Sequence[Move], draw: torch.Generator) -> PromptKeys:
        """Write prompts for moves, and let the DiT read them."""
        most = self.dit.config.text_tokens
        said = [bucket_prompt(draw, self.words, move, max_tokens=most) for move in moves]
        return self.dit.read_prompt(embed(self.words, said, max_tokens=most))

    def velocity(self, given: Float[Tensor, "b c t h w"], prompt: PromptKeys) -> Velocity:
        """Give the velocity of every frame, beside a mask and what is given."""
        batch, _, frames, height, width = given.shape
        mask = given.new_zeros((batch, MASK_CHANNELS, frames, height, width))
        mask[:, :, 0] = 1

        def velocity(latent: Tensor, sigma: float) -> Tensor:
            shown = torch.cat((latent, mask, given), dim=1)
            timestep = torch.full((batch, frames), 1000 * sigma)
            return self.dit(shown, timestep, prompt, positions=range(frames))

        return velocity

    @torch.no_grad()
    def sample(
        self, picture: Float[Tensor, "h w 3"], prompt: str, *, pixel_frames: int, seed: int
    ) -> Float[Tensor, "p h w 3"]:
        """Make a clip from a picture of its size, as the shipped pipeline does."""
        most = self.dit.config.text_tokens
        first = to_model(picture[None, None])
        pixels = first.new_zeros((1, 3, pixel_frames, *first.shape[3:]))
        pixels[:, :, :1] = first
        given = self.vae.encode(pixels)
        keys = self.dit.read_prompt(self.words.encode(prompt, max_tokens=most))
        noise = torch.randn(given.shape, generator=generator(seed)).to(given.device)
        sigmas = make_sigmas(FEW_STEPS.steps, sigma_shift=FEW_STEPS.sigma_shift)
        return to_clips(self.vae.decode(walk(self.velocity(given, keys), noise, sigmas)))[0]


STEERING = 0.1
"""What the phases count in the loss, beside the clean estimate: steering is not to be unlearned."""


class MotionTask:
    """Predict clips from their first frame and the name of their move."""

    name = "motion"
    rates = Rates(matrix=0.0, vector=1.5e-4, warm=50)

    def __init__(self, stage: Stage1, clips: ClipMaker, diet: Diet) -> None:
        self.stage = stage
        self.clips = clips
        self.diet = diet
        self.pool = Pool(self.make, diet, seed=clips.seed, device=clips.device)
        self.weights = channel_weights(stage.vae, clips)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Give the DiT and the words."""
        return {"dit": self.stage.dit, "words": self.stage.words}

    def make(self, index: int) -> MotionBatch:
        """Make and encode a batch of clips."""
        made = self.clips.make(
            index, count=self.diet.count(index), shape=self.diet.shape(index), style=STEADY
        )
        pixels = to_model(made.pixels)
        return MotionBatch(
            clean=self.stage.vae.encode(pixels).float(),
            given=shown_picture(self.stage.vae, pixels).float(),
            moves=made.moves,
        )

    def losses(self, step: int) -> Losses:
        """Compare a clean estimate with the truth."""
        _, batch = self.pool.draw(step)
        draw = generator(self.clips.seed, 3, step)
        prompt = self.stage.read(batch.moves, draw)
        noise = torch.randn(batch.clean.shape, generator=draw).to(batch.clean.device)
        velocity = self.stage.velocity(batch.given, prompt)
        with listening(self.stage.dit) as written:
            estimate, sigma = clean_estimate(velocity, batch.clean, noise, draw)
        loss = latent_loss(estimate, batch.clean, self.weights)
        ways = self._ways(batch).to(estimate.device)
        # The last call is the one with gradients. Frame 0 needs no way: its heads look away.
        later = [tokens[:, 1:] for tokens in written[-STEERING_BLOCKS:]]
        steering = phase_loss(later, ways[:, 1:], self.stage.dit.config)
        standing = batch.clean[:, :, :1].expand_as(batch.clean)
        return {
            "loss": loss + STEERING * steering,
            "gain": loss.detach() / latent_loss(standing, batch.clean, self.weights),
            "steering": steering,
            "sigma": torch.tensor(sigma),
        }

    def _ways(self, batch: MotionBatch) -> Float[Tensor, "b t s 2"]:
        frames, height, width = batch.clean.shape[2:]
        compression = self.stage.vae.config.compression
        grid = Grid(height=height, width=width, compression=compression)
        found = [displacement(move, torch.arange(frames), grid) for move in batch.moves]
        return torch.stack(found).flatten(2, 3)


@torch.no_grad()
def evaluate_motion(
    stage: Stage1, clips: ClipMaker, shape: PixelShape, sheet: Sheet
) -> dict[str, dict[str, float]]:
    """Let every move be made of every held-out photograph, and measure what moved.

    Args:
        sheet: gets first, middle and last frame of each clip that was made, and the true last one.

    Returns:
        By move: PSNR against the filmed truth and of standing still against it, and for each of
        ``right down grow turn`` what was asked for and what came, averaged over pictures.
    """
    results: dict[str, dict[str, float]] = {}
    for move in SINGLE_MOVES:
        rows: list[dict[str, float]] = []
        for number in range(len(clips.photographs)):
            true = clips.film(number, move, shape=shape)
            made = stage.sample(true[0], move.words, pixel_frames=shape.pixel_frames, seed=number)
            sheet.add(torch.cat((made, true[-1:])), frames=(0, len(made) // 2, -2, -1))
            row = {"psnr": psnr(made[1:], true[1:])}
            row["still"] = psnr(true[:1].expand_as(true)[1:], true[1:])
            for name, value in measure_motion(true).items():
                row[f"{name}_true"] = value
            for name, value in measure_motion(made).items():
                row[name] = value
            rows.append(row)
        results[move.words] = average(rows)
    return results
