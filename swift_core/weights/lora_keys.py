"""Under which names the world stores LoRAs: what a key holds, and of which of our layers.

A key is a layer's name and a suffix. Layers are named as in the original checkpoints or as in
diffusers, with dots or with underscores, behind prefixes. Where the dots of an underscored name
were is not guessed: the table has every layer's name in every spelling.
"""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache

from .layouts import MOST_PREFIXES, PREFIXES, dit_table


class Role(Enum):
    """What a key of a LoRA holds."""

    DOWN = "the factor that reads the layer's input"
    UP = "the factor that makes the layer's output"
    UP_BIAS = "a bias behind the factors, scaled as they are"
    ALPHA = "the scale of the factors, times their rank"
    WEIGHT = "a difference of the whole weight"
    BIAS = "a difference of the bias"
    MODULATION = "a difference of the modulation"


_PAIRS = (
    ("lora_A", "lora_B"),
    ("lora_down", "lora_up"),
    ("lora.down", "lora.up"),
    ("lora_linear_layer.down", "lora_linear_layer.up"),
)
_SUFFIXES = {
    **{f".{pair[0]}{leaf}": Role.DOWN for pair in _PAIRS for leaf in (".weight", "")},
    **{f".{pair[1]}{leaf}": Role.UP for pair in _PAIRS for leaf in (".weight", "")},
    **{f".{pair[1]}.bias": Role.UP_BIAS for pair in _PAIRS},
    ".lora_A.default.weight": Role.DOWN,
    ".lora_B.default.weight": Role.UP,
    ".lora_B.default.bias": Role.UP_BIAS,
    ".alpha": Role.ALPHA,
    ".diff": Role.WEIGHT,
    ".w_norm": Role.WEIGHT,
    ".diff_b": Role.BIAS,
    ".b_norm": Role.BIAS,
    ".diff_m": Role.MODULATION,
}
_ENDINGS = tuple(_SUFFIXES)

_FOREIGN = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "LoCon with a core tensor",
    "set_weight": "LoRA that replaces weights",
    "reshape_weight": "LoRA that reshapes weights",
}
"""Beginnings of the last parts of names, and of what kind of adapter they are a sign."""

_DOTTED = (*PREFIXES, "base_model.model.")
_UNDERSCORED = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")

_ATTENTION = r"(?:self|cross)_attn[._](?:[qkvo]|norm_[qk]|norm_k_img|[kv]_img)"
_DIFFUSERS_ATTENTION = r"attn[12][._](?:to_[qkv]|to_out[._]0|norm_[qk]|norm_added_k|add_[kv]_proj)"
_REST = r"ffn[._].*|norm\d|modulation|scale_shift_table"
_OUTSIDE = (
    r"patch_embedding|text_embedding[._]\d|time_embedding[._]\d|time_projection[._]1|head"
    r"|head[._]head|head[._]modulation|condition_embedder[._].*|proj_out|scale_shift_table"
)
_WAN = re.compile(
    rf"blocks[._]\d+(?:[._](?:{_ATTENTION}|{_DIFFUSERS_ATTENTION}|{_REST}))?|{_OUTSIDE}", re.ASCII
)
_DIFFUSERS = re.compile(r"attn[12][._]|ffn[._]net[._]|condition_embedder|proj_out|scale_shift")


def split_key(name: str) -> tuple[str, Role] | None:
    """Divide a key into its layer, without prefixes, and what it holds; None if it is no LoRA's."""
    if not name.endswith(_ENDINGS):
        return None
    suffix = max((ending for ending in _ENDINGS if name.endswith(ending)), key=len)
    return bare(name.removesuffix(suffix)), _SUFFIXES[suffix]


def bare(stem: str) -> str:
    """Take the prefixes off a layer's name."""
    for _ in range(MOST_PREFIXES):
        found = next((prefix for prefix in _DOTTED if stem.startswith(prefix)), None)
        if found is None:
            break
        stem = stem.removeprefix(found)
    found = next((prefix for prefix in _UNDERSCORED if stem.startswith(prefix)), "")
    return stem.removeprefix(found)


def foreign_kind(name: str) -> str | None:
    """Name the kind of adapter that a key is a sign of, if it is another than a plain LoRA."""
    for part in name.rsplit(".", 3)[1:]:
        for beginning, kind in _FOREIGN.items():
            if part.startswith(beginning):
                return kind
    return None


def is_wan(stem: str) -> bool:
    """Tell whether a layer's name is one of a Wan DiT, of whatever size."""
    return len(stem) < 100 and _WAN.fullmatch(stem) is not None


def spelling(stems: Iterable[str]) -> str:
    """Say how a file spells its layers' names."""
    stems = [stem for stem in stems if is_wan(stem)]
    whose = "diffusers" if any(_DIFFUSERS.search(stem) for stem in stems) else "Wan"
    return f"{whose} names{' with underscores' if any('blocks_' in s for s in stems) else ''}"


@lru_cache(maxsize=16)
def layer_table(layers: int) -> Mapping[str, str]:
    """Give our name of every layer of a DiT, by every name that LoRAs have for it.

    A layer is what a key names before its suffix: a module, or a parameter that stands alone.
    """
    table = {"head": "head"}
    for ours, theirs in dit_table(layers).items():
        stem = _stem(ours)
        table[stem] = table[_stem(theirs)] = stem
    for index in range(layers):
        table[f"blocks.{index}"] = f"blocks.{index}"
    return {**{name.replace(".", "_"): ours for name, ours in table.items()}, **table}


def _stem(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")
