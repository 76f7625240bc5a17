"""CONDITIONING, as CLIPTextEncode makes it, for the core."""

from __future__ import annotations

from typing import Any

from ...swift_core.errors import PromptError
from ...swift_core.stages.prompt import PromptEmbeddings
from ...swift_core.stages.runtime import Runtime

Conditioning = list[tuple[Any, dict[str, Any]]]


def prompt_embeddings(
    positive: Conditioning, negative: Conditioning | None, *, text_dim: int, runtime: Runtime
) -> PromptEmbeddings:
    """Take the text embeddings out of CONDITIONING.

    Args:
        text_dim: width that the model reads.

    Raises:
        PromptError: if there is not one prompt, or it is of another text encoder.
    """
    return PromptEmbeddings(
        positive=runtime.place(_embedding("positive", positive, text_dim)),
        negative=(
            None if negative is None else runtime.place(_embedding("negative", negative, text_dim))
        ),
    )


def _embedding(name: str, conditioning: Conditioning, text_dim: int) -> Any:
    if len(conditioning) != 1:
        raise PromptError(
            f"{name} holds {len(conditioning)} prompts; SwiftI2V's own models take one: connect "
            "one CLIPTextEncode without Conditioning (Combine), or use a core MODEL."
        )
    embedding = conditioning[0][0]
    if embedding.shape[-1] != text_dim:
        raise PromptError(
            f"{name} holds text embeddings {embedding.shape[-1]} wide, the model reads {text_dim}: "
            "encode the prompt with the CLIP that LoadSwiftModels gives beside the model."
        )
    return embedding
