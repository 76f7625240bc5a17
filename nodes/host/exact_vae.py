"""VAEs whose decode and encode are ours in every node: exact, as a stream, in bounded memory.

ComfyUI's own VAE Decode runs a whole clip at once, and where that does not fit it blends tiles. The
VAEs that come from our loader go on as our nodes do instead, with the same weights in the same
place: of ComfyUI's class only the two methods that take whole clips are overridden, so its memory
manager, its tiled nodes and whatever copies or saves a VAE meet what they know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.sd
import torch

from ...swift_core.errors import GeometryError
from ...swift_core.progress import Phase
from ...swift_core.shapes import Float, Tensor
from ...swift_core.vae.autoencoder import WanVAE
from .latents import clip_shape, decode_images, encode_images, from_latent
from .memory import WholePatcher
from .progress import NodeProgress
from .vae import RawVAE

BYTES_PER_PIXEL = 3000
"""Working memory of a small VAE per pixel of a frame, generously; for ComfyUI's tiled nodes."""


class ExactVAE(comfy.sd.VAE):
    """A VAE of ComfyUI's that holds Wan's weights, and that decodes and encodes as our nodes do.

    Attributes:
        budget_nbytes: what it may take, weights and work together; None: what there is.
    """

    budget_nbytes: int | None = None

    def decode(
        self, samples_in: Float[Tensor, "b c t h w"], vae_options: Mapping[str, Any] | None = None
    ) -> Float[Tensor, "b p i j 3"]:
        """Decode clips, one after the other, into memory that is allocated once.

        Raises:
            BudgetError: if there is too little memory for it.
            GeometryError: if these are no clips of this VAE's.
        """
        if vae_options:  # none is for a Wan VAE: ComfyUI says so
            return super().decode(samples_in, vae_options)
        shape = clip_shape({"samples": samples_in}, self)
        images = torch.empty(
            (len(samples_in), shape.pixel_frames, shape.height, shape.width, 3),
            device=self.output_device,
            dtype=self._output_dtype(),
        )
        for index in range(len(samples_in)):
            latent = from_latent({"samples": samples_in[index : index + 1]}, self)
            observe = NodeProgress({Phase.DECODE: latent.shape[2]})
            decode_images(latent, self, into=images[index], observe=observe)
        return images

    def encode(self, pixel_samples: Tensor) -> Float[Tensor, "b c t i j"]:
        """Encode one clip of frames, or a batch of clips.

        As ComfyUI does it, sides are cut to what the latent can have, and so is the length.

        Raises:
            BudgetError: if there is too little memory for it.
            GeometryError: if these are no pictures of 3 channels.
        """
        clips = pixel_samples.unsqueeze(0) if pixel_samples.ndim == 4 else pixel_samples
        made = [self._encode_clip(clip) for clip in clips]
        return torch.cat(made).to(self.output_device, self._output_dtype())

    def _encode_clip(self, pictures: Float[Tensor, "p h w c"]) -> Float[Tensor, "1 c t i j"]:
        clip = self.vae_encode_crop_pixels(pictures) if pictures.ndim == 4 else pictures
        if clip.ndim != 4 or clip.shape[-1] != 3:
            shape = "x".join(str(side) for side in pictures.shape)
            raise GeometryError(
                f"the pictures are {shape}; this VAE encodes frames x height x width x 3 (red, "
                "green, blue): connect an IMAGE without transparency."
            )
        steps = self.downscale_ratio[0](len(clip))
        observe = NodeProgress({Phase.REFERENCE: steps})
        return encode_images(clip[: self.upscale_ratio[0](steps)], self, observe=observe)

    def _output_dtype(self) -> torch.dtype:
        """Give the number format that nodes hand on; older versions of ComfyUI know one."""
        ask = getattr(self, "vae_output_dtype", None)
        return torch.float32 if ask is None else ask()


class SwiftVAE(ExactVAE):
    """A VAE of ours that works in every node that takes a VAE."""

    def __init__(self, vae: WanVAE, dtype: torch.dtype) -> None:
        # Not ComfyUI's own initialiser: it tells architectures apart by keys, and knows not ours.
        size = vae.config.compression
        time, space = size.time, size.space
        self.first_stage_model = RawVAE(vae)
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
