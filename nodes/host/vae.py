"""VAE inputs as VAEs of the core: their sizes, their weights, and the memory to ask ComfyUI for.

What a VAE input may be: a VAE of ComfyUI's that holds Wan's weights, from whatever loader, or one
of ours in ComfyUI's clothes (``exact_vae``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ...swift_core.errors import BudgetError, CheckpointError
from ...swift_core.geometry import PixelShape
from ...swift_core.precision import Precision
from ...swift_core.progress import Observer, ignore
from ...swift_core.shapes import Float, Tensor
from ...swift_core.stages.runtime import Runtime
from ...swift_core.vae.autoencoder import WanVAE
from ...swift_core.vae.config import WAN21_VAE, WAN22_VAE, VAEConfig
from ...swift_core.vae.memory import VaePlan, plan_decode, plan_encode
from .memory import bring, make_runtime, most_nbytes, room_for


class RawVAE(nn.Module):
    """A VAE of ours, as ComfyUI calls one: whole clips, raw latents."""

    def __init__(self, vae: WanVAE) -> None:
        super().__init__()
        self.vae = vae

    def encode(self, pixels: Float[Tensor, "b 3 p h w"], **_: Any) -> Float[Tensor, "b c t i j"]:
        """Encode pixels in [-1, 1]."""
        return self.vae.denormalize(self.vae.encode(pixels))

    def decode(self, raw_latent: Float[Tensor, "b c t i j"], **_: Any) -> Tensor:
        """Decode to pixels in [-1, 1]."""
        return self.vae.decode(self.vae.normalize(raw_latent))


def vae_config(vae: Any) -> VAEConfig:
    """Tell which VAE a VAE input is, without moving a weight.

    Raises:
        CheckpointError: if it is none that the core knows.
    """
    if vae is None:
        raise CheckpointError(
            "there is no VAE: choose one in Load SwiftI2V Models, or its bundled set, or connect "
            "VAELoader."
        )
    channels = getattr(vae, "latent_channels", 0)
    model = getattr(vae, "first_stage_model", None)
    if isinstance(model, RawVAE):
        return model.vae.config
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
    """Give a VAE input as one of ours, on its device and in its number format.

    Weights that are there are shared and not copied, and ComfyUI's module stays as it is.

    Args:
        memory_required: bytes for what it computes.

    Raises:
        CheckpointError: if it is none that the core knows.
    """
    config = vae_config(vae)
    bring(vae.patcher, memory_required=memory_required + _more_than_booked(vae))
    if isinstance(vae.first_stage_model, RawVAE):
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
    # Where ComfyUI streams weights on demand they are still elsewhere, and in their file's number
    # format: then, and only then, this makes a copy for as long as it works.
    return view.to(vae.device, vae.vae_dtype).eval().requires_grad_(False)


def _more_than_booked(vae: Any) -> int:
    """Tell by how much a VAE's weights at work exceed what ComfyUI makes room for.

    It counts them in their file's number format where it casts them only as they are used.
    """
    return max(0, _working_weights(vae) - int(vae.patcher.model_size()))


def _working_weights(vae: Any) -> int:
    """Tell how large a VAE's weights are in the number format that it computes in."""
    return weights_nbytes(vae_config(vae), vae_precision(vae).weights)


def vae_runtime(vae: Any, observe: Observer = ignore) -> Runtime:
    """Compute where ComfyUI has a VAE computed, in its number formats."""
    return make_runtime(
        vae_precision(vae),
        observe,
        device=vae.device,
        patcher=vae.patcher,
        most_nbytes=_allowed(vae),
    )


def room_beside(vae: Any) -> int:
    """Tell what a VAE may compute in at most, beside its weights: on its device, and by the loader.

    This is what a device with nothing else on it has.
    """
    most = most_nbytes(vae.patcher.load_device, weights_nbytes=_working_weights(vae))
    allowed = _allowed(vae)
    return most if allowed is None else min(most, allowed)


def _allowed(vae: Any) -> int | None:
    """Give what the loader's memory budget leaves beside the weights; None without one."""
    budget = budget_of(vae)
    return None if budget is None else beside_weights(budget, _working_weights(vae))


def budget_of(vae: Any) -> int | None:
    """Give the loader's memory budget; VAEs of other loaders have none."""
    return getattr(vae, "budget_nbytes", None)


def beside_weights(budget_nbytes: int, weights_nbytes: int) -> int:
    """Tell what a budget for weights and work together leaves for the work."""
    return max(0, budget_nbytes - weights_nbytes)


def weights_nbytes(config: VAEConfig, dtype: torch.dtype) -> int:
    """Tell how large a VAE's weights are."""
    return sum(p.numel() * dtype.itemsize for p in without_weights(config).parameters())


@lru_cache(maxsize=4)
def without_weights(config: VAEConfig) -> WanVAE:
    """Give a VAE for what its weights do not matter to."""
    with torch.device("meta"):
        return WanVAE(config)


@contextmanager
def saying_what_helps(budget_nbytes: int | None) -> Iterator[None]:
    """Add to a refusal what the user can do.

    Args:
        budget_nbytes: the loader's; None without one.
    """
    try:
        yield
    except BudgetError as error:
        said = str(error)
        if not said.endswith("."):  # it names no way out
            said += ". Choose a smaller video, or free memory."
        if budget_nbytes is not None:
            said += f" memory_gb of Load SwiftI2V Models allows {budget_nbytes / 1e9:g} GB."
        raise BudgetError(said, share=error.share, least_nbytes=error.least_nbytes) from error


def encode_memory(vae: Any, shape: PixelShape) -> float:
    """Tell what to ask of ComfyUI for encoding a clip: what the plan takes, and no more.

    The plan is that for a device with nothing else on it. What is free in the end decides once
    more: then it may be in finer bands.

    Raises:
        BudgetError: if no plan fits even then.
        CheckpointError: if the VAE is none that the core knows.
    """
    return _memory(plan_encode, vae, shape)


def decode_memory(vae: Any, shape: PixelShape) -> float:
    """Tell what to ask of ComfyUI for decoding a clip; see ``encode_memory``."""
    return _memory(plan_decode, vae, shape)


def _memory(plan: Callable[..., VaePlan], vae: Any, shape: PixelShape) -> float:
    made = plan(
        vae_config(vae),
        shape,
        compute=vae_precision(vae).compute,
        budget_nbytes=room_beside(vae),
    )
    return room_for(made.peak.working_nbytes)
