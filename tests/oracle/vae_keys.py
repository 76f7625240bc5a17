"""diffusers' AutoencoderKLWan with the weights of one of our VAEs, by a key table of its own.

Independent of the pack's own key tables on purpose: an oracle must not share its errors.
"""

import re

import pytest

diffusers = pytest.importorskip("diffusers")

RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
ENDS = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "encoder.conv1": "encoder.conv_in",
    "decoder.conv1": "decoder.conv_in",
    "head.0": "norm_out",
    "head.2": "conv_out",
}


def to_diffusers(name, config):
    """Rename one parameter."""
    stem, leaf = name.rsplit(".", 1)
    if stem in ENDS:
        return f"{ENDS[stem]}.{leaf}"
    side, part, rest = stem.split(".", 2)
    if part == "head":
        return f"{side}.{ENDS[f'head.{rest}']}.{leaf}"
    if part == "middle":
        index, inner = rest.split(".", 1)
        if index == "1":
            return f"{side}.mid_block.attentions.0.{inner}.{leaf}"
        return f"{side}.mid_block.resnets.{int(index) // 2}.{RESIDUAL[inner]}.{leaf}"
    return f"{side}.{_level(part, rest, config)}.{leaf}"


def _level(part, rest, config):
    up = part == "upsamples"
    blocks = config.residual_blocks + up
    sampler = "upsampler" if up else "downsampler"
    if config.residual:
        level, index, inner = re.fullmatch(rf"(\d+)\.{part}\.(\d+)\.(.+)", rest).groups()
    else:
        flat, inner = rest.split(".", 1)
        level, index = divmod(int(flat), blocks + 1)
        if not up:  # diffusers keeps the encoder flat in the Wan2.1 form
            return f"down_blocks.{flat}.{RESIDUAL.get(inner, inner)}"
        sampler = "upsamplers.0"
    if int(index) == blocks:
        return f"{part[:-7]}_blocks.{level}.{sampler}.{inner}"
    return f"{part[:-7]}_blocks.{level}.resnets.{index}.{RESIDUAL[inner]}"


def oracle_of(vae):
    """Build diffusers' model with the same numbers and the same weights."""
    config = vae.config
    oracle = diffusers.AutoencoderKLWan(
        base_dim=config.encoder_dim,
        decoder_base_dim=config.decoder_dim,
        z_dim=config.latent_channels,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.residual_blocks,
        temperal_downsample=list(config.temporal_downsample),
        is_residual=config.residual,
        in_channels=config.pixel_channels,
        out_channels=config.pixel_channels,
        patch_size=config.patch if config.patch > 1 else None,
    )
    names = {name: to_diffusers(name, config) for name in vae.state_dict()}
    oracle.load_state_dict(
        {names[name]: weight for name, weight in vae.state_dict().items()},
        strict=True,
        assign=True,
    )
    return oracle.eval().requires_grad_(False)
