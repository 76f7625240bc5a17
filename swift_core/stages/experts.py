"""Who denoises in Stage I: one DiT, or two in turn, each for its end of the schedule."""

from typing import Protocol, runtime_checkable

from ..flow.recipe import Recipe
from ..geometry import LatentShape
from ..memory.working import Step
from ..model.config import DiTConfig
from ..model.dit import WanDiT
from ..vae.autoencoder import WanVAE
from ..vae.config import VAEConfig
from ..weights.slots import Slot
from .prompt import GuidedPrompt, PromptEmbeddings, read_prompt
from .runtime import Runtime


@runtime_checkable
class MotionModels(Protocol):
    """What Stage I needs of a model set; see ``ModelSet``."""

    @property
    def motion_high(self) -> Slot[DiTConfig, WanDiT]:
        """Give Stage I at high noise levels; at all of them if there is no other."""
        ...

    @property
    def motion_low(self) -> Slot[DiTConfig, WanDiT] | None:
        """Give Stage I at low noise levels."""
        ...

    @property
    def motion_vae(self) -> Slot[VAEConfig, WanVAE]:
        """Give its VAE."""
        ...

    @property
    def boundary(self) -> float:
        """Give the sigma from which on the high-noise expert works."""
        ...


class Experts:
    """Hold one expert of Stage I at a time: the one whose end of the schedule it is.

    Args:
        models: with two experts, or with one for the whole schedule.
        window: the clip's latent, which goes through an expert as a whole.
    """

    def __init__(
        self,
        models: MotionModels,
        prompt: PromptEmbeddings,
        recipe: Recipe,
        *,
        window: LatentShape,
        runtime: Runtime,
    ) -> None:
        self._models = models
        self._step = Step(window=window, prompts=recipe.prompts)
        self._prompt = prompt
        self._recipe = recipe
        self._runtime = runtime
        self._held: tuple[Slot[DiTConfig, WanDiT], WanDiT, GuidedPrompt] | None = None

    @property
    def config(self) -> DiTConfig:
        """Give the architecture that all experts have."""
        return self._models.motion_high.config

    def at(self, sigma: float) -> tuple[WanDiT, GuidedPrompt]:
        """Give the expert for a noise level, with the prompt read; the other one is let go."""
        models = self._models
        low = models.motion_low if sigma < models.boundary else None
        slot = low or models.motion_high
        if self._held is None or self._held[0] is not slot:
            self.let_go()
            dit = self._runtime.load_dit(slot, self._step)
            self._held = (slot, dit, read_prompt(dit, self._prompt, self._recipe))
        return self._held[1:]

    def let_go(self) -> None:
        """Hold no expert any more."""
        if self._held is not None:
            self._runtime.let_go(*self._held[:2])
        self._held = None
