"""Under which names the world stores these models: tables, and nothing but tables.

Our modules have the names of the original Wan checkpoints. A table holds each of a model's tensors
by its whole name, in both spellings; it is made for a size, so a name that is not in it does not
belong to the model.
"""

import re
from collections.abc import Iterable, Iterator
from enum import Enum

from ..errors import CheckpointError
from ..vae.config import VAEConfig
from .headers import shown
from .umt5_names import umt5_file_table

PREFIXES = ("model.", "diffusion_model.", "transformer.", "module.", "pipe.dit.")
"""What may stand in front of every name of a file, one after another."""

MOST_PREFIXES = 4
"""More of them than any file has: names that are nothing else are not followed to their end."""

MAX_PARTS = 256
"""More DiT blocks or VAE layers than any model has: a bound on what a header can make us do."""

MAX_LEVELS = 8
"""Likewise of a VAE's levels, each of which has layers of its own."""


class Layout(Enum):
    """A way to name a model's tensors; the value is for people."""

    WAN = "original Wan keys"
    DIFFUSERS_DIT = "diffusers DiT keys"
    DIFFUSERS_VAE = "diffusers VAE keys"
    TRANSFORMERS_UMT5 = "transformers keys"
    OWN = "our own keys"


_DIT_OUTSIDE = {
    "patch_embedding.*": "patch_embedding.*",
    "text_embedding.0.*": "condition_embedder.text_embedder.linear_1.*",
    "text_embedding.2.*": "condition_embedder.text_embedder.linear_2.*",
    "time_embedding.0.*": "condition_embedder.time_embedder.linear_1.*",
    "time_embedding.2.*": "condition_embedder.time_embedder.linear_2.*",
    "time_projection.1.*": "condition_embedder.time_proj.*",
    "head.modulation": "scale_shift_table",
    "head.head.*": "proj_out.*",
}
_DIT_BLOCK = {
    "modulation": "scale_shift_table",
    "norm3.*": "norm2.*",
    "ffn.0.*": "ffn.net.0.proj.*",
    "ffn.2.*": "ffn.net.2.*",
}
_ATTENTION = {
    "q.*": "to_q.*",
    "k.*": "to_k.*",
    "v.*": "to_v.*",
    "o.*": "to_out.0.*",
    "norm_q.weight": "norm_q.weight",
    "norm_k.weight": "norm_k.weight",
}
_VAE_OUTSIDE = {"conv1.*": "quant_conv.*", "conv2.*": "post_quant_conv.*"}
_VAE_SIDE = {
    "conv1.*": "conv_in.*",
    "middle.1.norm.gamma": "mid_block.attentions.0.norm.gamma",
    "middle.1.to_qkv.*": "mid_block.attentions.0.to_qkv.*",
    "middle.1.proj.*": "mid_block.attentions.0.proj.*",
    "head.0.gamma": "norm_out.gamma",
    "head.2.*": "conv_out.*",
}
_RESIDUAL_BLOCK = {
    "residual.0.gamma": "norm1.gamma",
    "residual.2.*": "conv1.*",
    "residual.3.gamma": "norm2.gamma",
    "residual.6.*": "conv2.*",
    "shortcut.*": "conv_shortcut.*",
}
_RESAMPLE = {"resample.1.*": "resample.1.*", "time_conv.*": "time_conv.*"}
"""Original -> diffusers; ``*`` stands for ``weight`` and for ``bias``."""

_Rows = Iterable[tuple[str, str]]


def _below(wan: str, diffusers: str, table: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Give a table's rows with a module's names in front."""
    return ((f"{wan}.{ours}", f"{diffusers}.{theirs}") for ours, theirs in table.items())


def _whole(rows: _Rows) -> dict[str, str]:
    """Write out the stars."""
    return {
        wan.replace("*", leaf): diffusers.replace("*", leaf)
        for wan, diffusers in rows
        for leaf in ("weight", "bias")
    }


def dit_table(layers: int) -> dict[str, str]:
    """Give the names of a DiT's tensors, original -> diffusers."""
    rows = list(_DIT_OUTSIDE.items())
    for layer in range(layers):
        block = f"blocks.{layer}"
        rows += _below(block, block, _DIT_BLOCK)
        rows += _below(f"{block}.self_attn", f"{block}.attn1", _ATTENTION)
        rows += _below(f"{block}.cross_attn", f"{block}.attn2", _ATTENTION)
    return _whole(rows)


def vae_table(*, residual: bool, levels: int, residual_blocks: int) -> dict[str, str]:
    """Give the names that a VAE's tensors can have, original -> diffusers.

    Which blocks have a shortcut, and which steps a ``time_conv``, is left open.
    """
    rows = list(_VAE_OUTSIDE.items())
    for side in ("encoder", "decoder"):
        rows += _below(side, side, _VAE_SIDE)
        for ours, theirs in ((0, 0), (2, 1)):
            block = f"{side}.mid_block.resnets.{theirs}"
            rows += _below(f"{side}.middle.{ours}", block, _RESIDUAL_BLOCK)
    for level in range(levels):
        nested = _nested_level if residual else _flat_level
        rows += nested(level, residual_blocks)
    return _whole(rows)


def _nested_level(level: int, blocks: int) -> Iterator[tuple[str, str]]:
    """Give one level of the Wan2.2 form: the original nests, and so does diffusers."""
    down, up = f"encoder.downsamples.{level}.downsamples", f"decoder.upsamples.{level}.upsamples"
    their_down, their_up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
    for block in range(blocks):
        yield from _below(f"{down}.{block}", f"{their_down}.resnets.{block}", _RESIDUAL_BLOCK)
    yield from _below(f"{down}.{blocks}", f"{their_down}.downsampler", _RESAMPLE)
    for block in range(blocks + 1):
        yield from _below(f"{up}.{block}", f"{their_up}.resnets.{block}", _RESIDUAL_BLOCK)
    yield from _below(f"{up}.{blocks + 1}", f"{their_up}.upsampler", _RESAMPLE)


def _flat_level(level: int, blocks: int) -> Iterator[tuple[str, str]]:
    """Give one level of the Wan2.1 form: one list of layers; diffusers nests the decoder's."""
    first, their_up = level * (blocks + 1), f"decoder.up_blocks.{level}"
    for layer in range(first, first + blocks):
        stem = f"encoder.downsamples.{layer}", f"encoder.down_blocks.{layer}"
        yield from _below(*stem, _RESIDUAL_BLOCK)
    last = first + blocks
    yield from _below(f"encoder.downsamples.{last}", f"encoder.down_blocks.{last}", _RESAMPLE)
    first = level * (blocks + 2)
    for block in range(blocks + 1):
        stem = f"decoder.upsamples.{first + block}", f"{their_up}.resnets.{block}"
        yield from _below(*stem, _RESIDUAL_BLOCK)
    last = f"decoder.upsamples.{first + blocks + 1}"
    yield from _below(last, f"{their_up}.upsamplers.0", _RESAMPLE)


def count_parts(names: Iterable[str], stem: str, *, most: int = MAX_PARTS) -> int:
    """Count the numbered parts below a module: one more than the highest number.

    Args:
        stem: the names' beginning up to the number; a regular expression.
        most: how many there can be.

    Raises:
        CheckpointError: if there are more than any model has.
    """
    pattern = re.compile(rf"{stem}(\d+)\.", re.ASCII)
    highest = -1
    for name in names:
        match = pattern.match(name)
        if match is None:
            continue
        number = match[1]
        if len(number) > 3 or int(number) >= most:
            raise CheckpointError(
                f"{shown(name)} is part number {shown(number)}, but no known model has more than "
                f"{most} of a kind; the file is damaged or not a Wan model."
            )
        highest = max(highest, int(number))
    return highest + 1


def _diffusers_table(names: tuple[str, ...], layout: Layout) -> dict[str, str]:
    """Give the table that fits the names' size, diffusers -> original."""
    if layout is Layout.DIFFUSERS_DIT:
        table = dit_table(count_parts(names, r"blocks\."))
    else:
        blocks = count_parts(names, r"encoder\.down_blocks\.\d+\.resnets\.")
        residual = blocks > 0 or any(".upsampler." in name for name in names)
        deep = count_parts(names, r"decoder\.up_blocks\.\d+\.resnets\.")
        sides = r"(?:encoder\.down|decoder\.up)_blocks\." if residual else r"decoder\.up_blocks\."
        table = vae_table(
            residual=residual,
            levels=count_parts(names, sides, most=MAX_LEVELS),
            residual_blocks=blocks or max(0, deep - 1),
        )
    return {theirs: ours for ours, theirs in table.items()}


def to_wan_keys(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """Give for each name of a file the original Wan name.

    Raises:
        CheckpointError: for a name that does not belong to such a model.
    """
    names = tuple(names)
    if layout in (Layout.WAN, Layout.OWN):
        return {name: name for name in names}
    if layout is Layout.TRANSFORMERS_UMT5:
        # What is in no table keeps its name, and shows as one too many: ComfyUI, where most of
        # these files are read, does not mind a decoder.
        table = umt5_file_table(count_parts(names, r"encoder\.block\."))
        return {name: table.get(name, name) for name in names}
    return _translate(names, _diffusers_table(names, layout), layout.value)


def dit_to_diffusers(names: Iterable[str]) -> dict[str, str]:
    """Give for each of a DiT's names the diffusers name.

    Raises:
        CheckpointError: for a name that does not belong to a DiT.
    """
    names = tuple(names)
    return _translate(names, dit_table(count_parts(names, r"blocks\.")), "our DiT's keys")


def vae_to_diffusers(names: Iterable[str], config: VAEConfig) -> dict[str, str]:
    """Give for each of a VAE's names the diffusers name.

    Raises:
        CheckpointError: for a name that does not belong to such a VAE.
    """
    table = vae_table(
        residual=config.residual,
        levels=len(config.dim_mult),
        residual_blocks=config.residual_blocks,
    )
    return _translate(tuple(names), table, "our VAE's keys")


def _translate(names: tuple[str, ...], table: dict[str, str], what: str) -> dict[str, str]:
    unknown = [name for name in names if name not in table]
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {len(names)} tensors do not belong to {what}, the first being "
            f"{shown(unknown[0])}; the model is of a kind that this version does not know."
        )
    return {name: table[name] for name in names}
