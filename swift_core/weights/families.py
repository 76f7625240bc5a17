"""What people call a file, and what else of the Wan world a file can be.

All of it is said from keys and shapes. What cannot be told from them is not said.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..model.config import (
    WAN22_I2V_A14B,
    WAN22_REFERENCE_5B,
    WAN22_TI2V_5B,
    DiTConfig,
)
from ..vae.config import WAN21_VAE, WAN22_VAE, VAEConfig
from .checkpoint import Kind
from .headers import TensorEntry
from .sizes import WAN21_1_3B

_Tensors = Mapping[str, TensorEntry]

_FROM_TEXT = "it makes videos from text alone, and no stage here does"

PUBLISHED_DITS: tuple[tuple[DiTConfig, str, str | None], ...] = (
    (WAN22_TI2V_5B, "Wan2.2-TI2V-5B", None),
    (WAN22_REFERENCE_5B, "Wan2.2-TI2V-5B with reference channels (SwiftI2V, Lucy-Edit)", None),
    (WAN22_I2V_A14B, "Wan2.2-I2V-A14B expert (high or low noise: their headers are alike)", None),
    (
        replace(WAN22_I2V_A14B, in_channels=16),
        "Wan2.1-T2V-14B or Wan2.2-T2V-A14B expert",
        _FROM_TEXT,
    ),
    (WAN21_1_3B, "Wan2.1-T2V-1.3B", _FROM_TEXT),
)
"""Architecture, name, and why it cannot be used (None if it can)."""

_FOREIGN_PARTS: tuple[tuple[str, str], ...] = (
    (r"img_emb\.|condition_embedder\.image_embedder\.", "a Wan2.1 image encoder"),
    (r"blocks\.\d+\.(cross_attn\.(k_img|v_img|norm_k_img)|attn2\.(add_|norm_added_))", ""),
    (r"vace_", "VACE control"),
    (r"control_adapter\.|ref_conv\.", "Fun control"),
    (r"motion_encoder\.|face_adapter\.|face_encoder\.|pose_patch_embedding\.", "Animate control"),
    (r"casual_audio_encoder\.|audio_injector\.|audio_", "an audio encoder"),
)
"""Parts of DiTs that ours has not: the beginnings of their names, and what they belong to."""


def foreign_part(name: str) -> str | None:
    """Tell to what a tensor belongs that our DiT has not; None if it may be ours."""
    for pattern, part in _FOREIGN_PARTS:
        if re.match(pattern, name):
            return part or _FOREIGN_PARTS[0][1]
    return None


def name_dit(config: DiTConfig, foreign: Iterable[str]) -> tuple[str, str | None]:
    """Give a DiT's name, and why it cannot be used (None if it can).

    Args:
        foreign: what it has beside the parts of our DiT.
    """
    parts = sorted(set(foreign))
    if parts:
        extra = " and ".join(parts)
        name = "Wan2.1-I2V-14B" if _is_wan21_i2v(config, parts) else f"Wan DiT with {extra}"
        return name, f"its {extra.removeprefix('a ').removeprefix('an ')} is not supported"
    for published, name, obstacle in PUBLISHED_DITS:
        if replace(config, text_tokens=published.text_tokens, eps=published.eps) == published:
            return name, obstacle
    return "custom Wan DiT", None


def _is_wan21_i2v(config: DiTConfig, parts: list[str]) -> bool:
    return parts == [_FOREIGN_PARTS[0][1]] and config.dim == WAN22_I2V_A14B.dim


def describe_dit(config: DiTConfig) -> str:
    """Give a DiT's sizes in words."""
    return (
        f"a DiT with {config.in_channels} input channels ({config.layers} blocks, "
        f"width {config.dim})"
    )


def name_vae(config: VAEConfig) -> str:
    """Give a VAE's name."""
    for published, name in ((WAN22_VAE, "Wan2.2 VAE"), (WAN21_VAE, "Wan2.1 VAE")):
        if config == published:
            return name
    return "custom Wan VAE"


def describe_vae(config: VAEConfig) -> str:
    """Give a VAE's sizes in words."""
    size = config.compression
    return (
        f"a VAE with {config.latent_channels} latent channels "
        f"({size.space}x{size.space}x{size.time} compression)"
    )


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A file that is known but not loaded here.

    Attributes:
        kind: what it is.
        name: what people call it.
        details: its sizes in words.
        obstacle: why it cannot be loaded, as the end of a sentence.
    """

    kind: Kind
    name: str
    details: str
    obstacle: str


_LORA_DOWN = re.compile(r"(.+)\.(lora_A|lora_down)(\.default)?\.weight")
_SELF_ATTENTION_QUERY = re.compile(r"self_attn[._]q$|attn1[._]to_q$")
_WIDTHS = {
    3072: "Wan2.2-TI2V-5B",
    5120: "a Wan 14B model (Wan2.2 A14B experts, Wan2.1-14B)",
    1536: "Wan2.1-T2V-1.3B",
}


def lora_widths(tensors: _Tensors) -> frozenset[int]:
    """Give the widths that a LoRA's parts take; the width of its DiT is one, or it fits none."""
    return frozenset(
        entry.shape[1]
        for name, entry in tensors.items()
        if _LORA_DOWN.fullmatch(name) and len(entry.shape) == 2
    )


def recognise_lora(tensors: _Tensors) -> Recognised | None:
    """Recognise a LoRA, and for which width of DiT it is."""
    rank = width = 0
    for name, entry in tensors.items():
        match = _LORA_DOWN.fullmatch(name)
        if match is None or len(entry.shape) != 2:
            continue
        query = _SELF_ATTENTION_QUERY.search(match[1])
        if query or not width:
            rank, width = entry.shape
        if query:
            break
    if not width:
        return None
    model = _WIDTHS.get(width, f"a model of width {width}")
    return Recognised(
        kind=Kind.LORA,
        name="LoRA",
        details=f"for {model} (rank {rank})",
        obstacle="LoRAs are not applied yet",
    )


_UMT5 = (
    (
        "token_embedding.weight",
        "blocks.{}.attn.q.weight",
        "blocks.1.pos_embedding.embedding.weight",
    ),
    (
        "shared.weight",
        "encoder.block.{}.layer.0.SelfAttention.q.weight",
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
)
"""Original and transformers' names: the vocabulary, a block's, and what only UMT5 has: position
biases in every block, where T5 has them in the first alone."""


def recognise_umt5(tensors: _Tensors) -> Recognised | None:
    """Recognise the text encoder of the published Wan models."""
    for vocabulary, block, biases in _UMT5:
        entry = tensors.get(vocabulary)
        if entry is None or len(entry.shape) != 2 or biases not in tensors:
            continue
        blocks = sum(block.format(index) in tensors for index in range(64))
        words, width = entry.shape
        return Recognised(
            kind=Kind.TEXT_UMT5,
            name="UMT5 text encoder",
            details=f"a text encoder of {blocks} blocks, width {width}, {words} tokens",
            obstacle="it cannot be run here yet",
        )
    return None


def recognise_tae(tensors: _Tensors) -> Recognised | None:
    """Recognise a tiny VAE for previews, of the TAEHV family."""
    first = tensors.get("decoder.1.weight")
    has_memory = any(re.fullmatch(r"decoder\.\d+\.conv\.0\.weight", name) for name in tensors)
    if first is None or len(first.shape) != 4 or not has_memory:
        return None
    return Recognised(
        kind=Kind.TAE,
        name="preview VAE (TAE)",
        details=f"for latents of {first.shape[1]} channels",
        obstacle="previews do not use it yet",
    )
