"""What people call a file, and what else of the Wan world a file can be.

All of it is said from keys and shapes. What cannot be told from them is not said.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..model.config import (
    WAN22_I2V_A14B,
    WAN22_REFERENCE_5B,
    WAN22_TI2V_5B,
    DiTConfig,
)
from ..text.umt5 import UMT5Config
from ..vae.config import WAN21_VAE, WAN22_VAE, VAEConfig
from .checkpoint import Kind
from .headers import TensorEntry
from .lora_keys import Role, foreign_kind, is_wan, spelling, split_key
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
    """A file that is known, but is no model that we load.

    Attributes:
        kind: what it is.
        name: what people call it.
        details: its sizes in words.
        obstacle: why it cannot be used, as the end of a sentence; None if it can be.
    """

    kind: Kind
    name: str
    details: str
    obstacle: str | None


_SELF_ATTENTION_QUERY = re.compile(r"self_attn[._]q$|attn1[._]to_q$")
_WIDTHS = {
    3072: "Wan2.2-TI2V-5B",
    5120: "a Wan 14B model (Wan2.2 A14B experts, Wan2.1-14B)",
    1536: "Wan2.1-T2V-1.3B",
}


def lora_widths(tensors: _Tensors) -> frozenset[int]:
    """Give the widths that a LoRA's parts take; the width of its DiT is one, or it fits none."""
    widths: set[int] = set()
    for name, entry in tensors.items():
        found = split_key(name)
        if found is None or not entry.shape:
            continue
        if found[1] is Role.DOWN and len(entry.shape) == 2:
            widths.add(entry.shape[1])
        elif found[1] in (Role.WEIGHT, Role.BIAS, Role.MODULATION):
            widths.add(entry.shape[-1])
    return frozenset(widths)


def recognise_lora(tensors: _Tensors) -> Recognised | None:
    """Recognise a LoRA, or another adapter, and for which width of DiT it is."""
    other = next((kind for name in tensors if (kind := foreign_kind(name)) is not None), None)
    keys = {name: found for name in tensors if (found := split_key(name)) is not None}
    if other is None and all(role is Role.ALPHA for _, role in keys.values()):
        return None
    parts = [(stem, role, tensors[name].shape) for name, (stem, role) in keys.items()]
    if other is not None:
        return Recognised(
            kind=Kind.LORA,
            name=other,
            details="an adapter that is no plain LoRA",
            obstacle="only plain LoRAs are applied here; load the model and this file with "
            "ComfyUI's own nodes (LoraLoaderModelOnly), and connect the MODEL",
        )
    stems = [stem for stem, _, _ in parts]
    size = _rank_in_words([shape[0] for _, role, shape in parts if role is Role.DOWN and shape])
    if not any(is_wan(stem) for stem in stems):
        return Recognised(
            kind=Kind.LORA,
            name="LoRA",
            details=f"for another kind of model, {size}",
            obstacle="it was not made for a Wan model",
        )
    width = _lora_width(parts)
    model = _WIDTHS.get(width, f"a model of width {width}" if width else "an unknown model")
    return Recognised(
        kind=Kind.LORA,
        name="LoRA",
        details=f"for {model}, {size}, {spelling(stems)}",
        obstacle=None,
    )


def _rank_in_words(ranks: list[int]) -> str:
    if not ranks:
        return "differences without factors"
    least, most = min(ranks), max(ranks)
    return f"rank {least}" if least == most else f"ranks {least} to {most}"


def _lora_width(parts: list[tuple[str, Role, tuple[int, ...]]]) -> int:
    """Tell the width of a LoRA's DiT; 0 if nothing shows it."""
    downs = [(stem, shape) for stem, role, shape in parts if role is Role.DOWN and len(shape) > 1]
    for stem, shape in downs:
        if _SELF_ATTENTION_QUERY.search(stem):
            return shape[1]
    sides = Counter(side for _, _, shape in parts for side in shape if side in _WIDTHS)
    if sides:
        return sides.most_common(1)[0][0]
    if downs:
        return downs[0][1][1]
    return next((shape[-1] for _, role, shape in parts if shape and role is not Role.ALPHA), 0)


def describe_umt5(config: UMT5Config) -> str:
    """Give a UMT5 encoder's sizes in words."""
    return (
        f"a text encoder of {config.layers} blocks, width {config.text_dim}, "
        f"{config.vocabulary} tokens"
    )


_T5_BIASES = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"


def recognise_t5(tensors: _Tensors) -> Recognised | None:
    """Recognise UMT5's ancestor, which people have for other models."""
    has_biases = [_T5_BIASES.format(block) in tensors for block in (0, 1)]
    second = "encoder.block.1.layer.0.SelfAttention.q.weight" in tensors
    vocabulary = tensors.get("shared.weight")
    if has_biases != [True, False] or not second or vocabulary is None:
        return None
    return Recognised(
        kind=Kind.TEXT_T5,
        name="T5 text encoder",
        details=f"{' by '.join(str(size) for size in vocabulary.shape)} (tokens, width)",
        obstacle="Wan's models read UMT5, whose every block has position biases",
    )


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
