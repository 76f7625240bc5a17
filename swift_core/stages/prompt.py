"""The prompt as the models take it."""

import logging
from dataclasses import dataclass
from functools import partial

from ..errors import PromptError
from ..flow.recipe import Recipe
from ..memory.streaming import run_steadily
from ..model.dit import PromptKeys, WanDiT
from ..shapes import Float, Tensor
from ..shortage import attempt
from ..text.encoder import TextEncoder
from ..weights.slots import Slot, TextConfig
from .runtime import Runtime

_log = logging.getLogger(__name__)


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

    def encode(*, by_layer: bool) -> PromptEmbeddings:
        text = runtime.load_text(encoder, by_layer=by_layer)

        def embed(words: str) -> Tensor:
            return runtime.place(text.encode(words, max_tokens=max_tokens))

        return PromptEmbeddings(
            positive=embed(prompt), negative=None if negative is None else embed(negative)
        )

    made = attempt(partial(encode, by_layer=False)).made
    if made is not None:
        return made
    _log.warning("out of memory: trying with the text encoder's layers one after the other")
    return encode(by_layer=True)


def read_prompt(dit: WanDiT, prompt: PromptEmbeddings, recipe: Recipe) -> GuidedPrompt:
    """Let a DiT read the prompt, and the negative prompt if the recipe guides.

    Raises:
        PromptError: if the recipe guides and there is no negative prompt.
    """

    def read(embeddings: Tensor) -> PromptKeys:
        return run_steadily(dit, lambda: dit.read_prompt(embeddings))

    if recipe.cfg == 1:
        return GuidedPrompt(positive=read(prompt.positive), negative=None, cfg=1.0)
    if prompt.negative is None:
        raise PromptError(
            f"cfg {recipe.cfg:g} guides away from a negative prompt, but there is none; connect "
            "one (it may be empty) or set cfg to 1."
        )
    return GuidedPrompt(
        positive=read(prompt.positive), negative=read(prompt.negative), cfg=recipe.cfg
    )
