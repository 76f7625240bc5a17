"""The prompt as the models take it."""

from dataclasses import dataclass

from ..errors import PromptError
from ..flow.recipe import Recipe
from ..model.dit import PromptKeys, WanDiT
from ..shapes import Float, Tensor
from ..text.encoder import TextEncoder
from ..weights.slots import Slot, TextConfig
from .runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class PromptEmbeddings:
    """Text embeddings of a prompt and, for guidance, of what to keep away from.

    Attributes:
        positive: without padding; the DiT pads.
        negative: None where no stage uses guidance.
    """

    positive: Float[Tensor, "1 l d"]
    negative: Float[Tensor, "1 k d"] | None


@dataclass(frozen=True, kw_only=True)
class GuidedPrompt:
    """A prompt read by one DiT, with guidance or without.

    Attributes:
        positive: keys and values of the prompt.
        negative: of the negative prompt; None means one pass, without guidance.
        cfg: strength of the guidance.
    """

    positive: PromptKeys
    negative: PromptKeys | None
    cfg: float


def encode_prompt(
    encoder: Slot[TextConfig, TextEncoder],
    prompt: str,
    negative: str | None,
    *,
    max_tokens: int,
    runtime: Runtime,
) -> PromptEmbeddings:
    """Embed a prompt, and a negative one unless it is None; the encoder is loaded for that only."""
    text = runtime.load_text(encoder)
    return PromptEmbeddings(
        positive=runtime.place(text.encode(prompt, max_tokens=max_tokens)),
        negative=None
        if negative is None
        else runtime.place(text.encode(negative, max_tokens=max_tokens)),
    )


def read_prompt(dit: WanDiT, prompt: PromptEmbeddings, recipe: Recipe) -> GuidedPrompt:
    """Let a DiT read the prompt, and the negative prompt if the recipe guides.

    Raises:
        PromptError: if the recipe guides and there is no negative prompt.
    """
    if recipe.cfg == 1:
        return GuidedPrompt(positive=dit.read_prompt(prompt.positive), negative=None, cfg=1.0)
    if prompt.negative is None:
        raise PromptError(
            f"cfg {recipe.cfg:g} guides away from a negative prompt, but there is none; connect "
            "one (it may be empty) or set cfg to 1."
        )
    return GuidedPrompt(
        positive=dit.read_prompt(prompt.positive),
        negative=dit.read_prompt(prompt.negative),
        cfg=recipe.cfg,
    )
