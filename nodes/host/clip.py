"""The word encoder of a model set as a CLIP of ComfyUI's: CLIPTextEncode takes it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sd
import torch
from torch import nn

from ...swift_core.text.words import WordEncoder
from .memory import WholePatcher

MOST_TOKENS = 512


class _WordModel(nn.Module):
    """A word encoder, as ComfyUI calls a text encoder."""

    def __init__(self, words: WordEncoder) -> None:
        super().__init__()
        self.words = words
        self.dtypes = {torch.float32}

    def set_clip_options(self, _options: dict[str, Any]) -> None:
        """Take no options: there is one layer, and it is on the module's device."""

    def reset_clip_options(self) -> None:
        """Have none to reset."""

    def encode_token_weights(self, tokens: dict[str, list[str]]) -> tuple[torch.Tensor, None]:
        """Embed what ``_Tokenizer`` gave; there is no pooled output."""
        prompt = " ".join(tokens["words"])
        embedded = self.words.encode(prompt, max_tokens=MOST_TOKENS)
        return embedded.to(comfy.model_management.intermediate_device()), None

    def load_sd(self, _state_dict: dict[str, torch.Tensor]) -> None:
        """Refuse other weights: these came with their set."""
        raise NotImplementedError("swift-tiny's text encoder has its weights already")


class _Tokenizer:
    """Hand the prompt on as it is: the word encoder takes it apart itself."""

    def tokenize_with_weights(
        self, text: str, _return_word_ids: bool = False, **_: Any
    ) -> dict[str, list[str]]:
        return {"words": [text]}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}


class SwiftCLIP(comfy.sd.CLIP):
    """A word encoder that works in every node that takes a CLIP."""

    def __init__(self, words: WordEncoder) -> None:
        super().__init__(no_init=True)
        self.cond_stage_model = _WordModel(words)
        self.tokenizer = _Tokenizer()
        self.patcher = WholePatcher(
            self.cond_stage_model,
            load_device=comfy.model_management.text_encoder_device(),
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )
        self.patcher.is_clip = True
        self.layer_idx = None
        self.use_clip_schedule = False
        self.apply_hooks_to_conds = None
        self.tokenizer_options: dict[str, Any] = {}

    def load_model(self, _tokens: Any = None) -> WholePatcher:
        """Bring the encoder to its device."""
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        return self.patcher

    def clone(self, disable_dynamic: bool = False) -> SwiftCLIP:  # noqa: ARG002 - it never is
        """Copy the CLIP, not its weights."""
        twin = SwiftCLIP.__new__(SwiftCLIP)
        twin.__dict__.update(self.__dict__)
        twin.patcher = self.patcher.clone()
        twin.tokenizer_options = dict(self.tokenizer_options)
        return twin
