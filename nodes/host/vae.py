"""VAEs both ways: ours as a VAE of ComfyUI's, and ComfyUI's as one of ours.

A LATENT of ComfyUI's holds the raw latent; the core's latents are normalised. The VAE that a latent
belongs to turns one into the other.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import torch
from torch import nn

from ...swift_core.errors import CheckpointError
from ...swift_core.precision import Precision
from ...swift_core.shapes import Float, Tensor
from ...swift_core.vae.autoencoder import WanVAE
from ...swift_core.vae.config import WAN21_VAE, WAN22_VAE, VAEConfig
from .memory import WholePatcher, bring

BYTES_PER_PIXEL = 3000
"""Working memory of a small VAE per pixel of a frame, generously."""


class _RawVAE(nn.Module):
    """A VAE of ours, as ComfyUI calls one: whole clips, raw latents."""

    def __init__(self, vae: WanVAE) -> None:
        super().__init__()
        self.vae = vae

    def encode(self, pixels: Float[Tensor, "b 3 p h w"], **_: Any) -> Float[Tensor, "b c t i j"]:
        return self.vae.denormalize(self.vae.encode(pixels))

    def decode(self, raw_latent: Float[Tensor, "b c t i j"], **_: Any) -> Tensor:
        return self.vae.decode(self.vae.normalize(raw_latent))


class SwiftVAE(comfy.sd.VAE):
    """A VAE of ours that works in every node that takes a VAE."""

    def __init__(self, vae: WanVAE, dtype: torch.dtype) -> None:
        # Not ComfyUI's own initialiser: it tells architectures apart by keys, and knows not ours.
        size = vae.config.compression
        time, space = size.time, size.space
        self.first_stage_model = _RawVAE(vae)
        self.latent_channels = vae.config.latent_channels
        self.latent_dim = 3
        self.output_channels = 3
        self.pad_channel_value = None
        self.upscale_ratio = (lambda frames: max(0, frames * time - time + 1), space, space)
        self.upscale_index_formula = (time, space, space)
        self.downscale_ratio = (
            lambda frames: max(0, math.floor((frames + time - 1) / time)),
            space,
            space,
        )
        self.downscale_index_formula = (time, space, space)
        self.memory_used_encode = lambda shape, _dtype: BYTES_PER_PIXEL * shape[3] * shape[4]
        self.memory_used_decode = lambda shape, _dtype: (
            BYTES_PER_PIXEL * shape[3] * shape[4] * space * space
        )
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.working_dtypes = [dtype]
        self.vae_dtype = dtype
        self.disable_offload = True
        self.not_video = False
        self.extra_1d_channel = None
        self.crop_input = True
        self.handles_tiling = False
        self.format_encoded = None
        self.audio_sample_rate = 44100
        self.size = None
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.patcher = WholePatcher(
            self.first_stage_model,
            load_device=self.device,
            offload_device=comfy.model_management.vae_offload_device(),
        )

    @property
    def config(self) -> VAEConfig:
        """Give the architecture."""
        return self.first_stage_model.vae.config


def vae_config(vae: Any) -> VAEConfig:
    """Tell which VAE a VAE input is, without moving a weight.

    Raises:
        CheckpointError: if it is none that the core knows.
    """
    if isinstance(vae, SwiftVAE):
        return vae.config
    if vae is None:
        raise CheckpointError(
            "there is no VAE: choose one in Load SwiftI2V Models, or its bundled set, or connect "
            "VAELoader."
        )
    channels = getattr(vae, "latent_channels", 0)
    model = getattr(vae, "first_stage_model", None)
    name = type(model).__name__
    for config in (WAN22_VAE, WAN21_VAE):
        if name == "WanVAE" and channels == config.latent_channels:
            # ComfyUI takes narrower ones too, by the widths of their layers.
            return replace(
                config,
                encoder_dim=model.encoder.conv1.weight.shape[0],
                decoder_dim=model.decoder.head[0].gamma.shape[0],
            )
    raise CheckpointError(
        f"the VAE input holds a {name} with {channels} latent channels, which is not a Wan VAE; "
        "load wan2.2_vae.safetensors (48 channels; for Stage II) or wan_2.1_vae.safetensors (16 "
        "channels; for A14B's motion) with VAELoader, or take LoadSwiftModels' VAE."
    )


def vae_precision(vae: Any) -> Precision:
    """Give the number formats that ComfyUI chose for a VAE."""
    return Precision(weights=vae.vae_dtype, compute=vae.vae_dtype)


def open_vae(vae: Any, *, memory_required: float) -> WanVAE:
    """Give a VAE input as one of ours, on its device; weights are shared and not copied.

    Args:
        memory_required: bytes for what it computes.

    Raises:
        CheckpointError: if it is none that the core knows.
    """
    config = vae_config(vae)
    bring(vae.patcher, memory_required=memory_required)
    if isinstance(vae, SwiftVAE):
        return vae.first_stage_model.vae
    with torch.device("meta"):
        view = WanVAE(config)
    try:
        view.load_state_dict(vae.first_stage_model.state_dict(), strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the VAE's weights are not those of Wan's VAE ({error}); load the VAE that the model "
            "was published with."
        ) from error
    # Where ComfyUI streams weights on demand they are still elsewhere: then, and only then, this
    # brings a copy for as long as it works.
    return view.to(vae.device).eval().requires_grad_(False)


Colours = tuple[Float[Tensor, "c 3"], Float[Tensor, "3"]]
"""A line from normalised latent values to colours in [-1, 1]: factors and offset."""


def input_colours(vae: Any) -> Colours:
    """Give the colours of a VAE input's latents: of the published ones by ComfyUI's table."""
    if isinstance(vae, SwiftVAE):
        return probe_colours(open_vae(vae, memory_required=0))
    formats = comfy.latent_formats
    is_22 = vae_config(vae).latent_channels == WAN22_VAE.latent_channels
    table = formats.Wan22 if is_22 else formats.Wan21
    return torch.tensor(table.latent_rgb_factors), torch.tensor(table.latent_rgb_factors_bias)


def probe_colours(vae: WanVAE) -> Colours:
    """Take the colours of a VAE's latents off its decoder, at the mean latent."""
    weight = vae.conv2.weight
    channels = vae.config.latent_channels
    probes = torch.zeros(channels + 1, channels, 1, 1, 1, device=weight.device, dtype=weight.dtype)
    probes[range(1, channels + 1), range(channels)] = 1
    colours = vae.decode(probes, clamp=False).float().mean(dim=(2, 3, 4)).cpu()
    return colours[1:] - colours[:1], colours[0]
