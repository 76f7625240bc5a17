"""Decoding: a LATENT becomes an IMAGE batch, or a VIDEO without one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

import folder_paths
import torch
from comfy_api.latest import io

from ..swift_core.errors import MediaError
from ..swift_core.media.background import BackgroundWriter
from ..swift_core.media.codecs import CODECS, WORST_QUALITY, VideoCodec
from ..swift_core.media.video_write import VideoWriter
from ..swift_core.progress import Phase
from ..swift_core.shapes import Float, Tensor
from .host.latents import clip_shape, decode_images, decode_stream, from_latent
from .host.progress import NodeProgress
from .host.video import written_video
from .schema import advanced, make_schema
from .settings import read_choice

AUTOMATIC = -1


def _latent_input() -> Any:
    return io.Latent.Input("samples", tooltip="CSG 2K Sampler's latent, or any Wan latent.")


def _vae_input() -> Any:
    return io.Vae.Input("vae", tooltip="The VAE that the latent was made with.")


class VAEDecodeTiled(io.ComfyNode):
    """Decode a latent to an IMAGE batch, as a stream, without tiles that need blending."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the bare id ``VAEDecodeTiled`` is core's."""
        return make_schema(
            node_id="SwiftVAEDecodeTiled",
            display_name="SwiftI2V VAE Decode (Tiled)",
            description=(
                "Decodes a Wan latent as a stream of 4 frames at a time: the same frames as a "
                "decode in one piece, without blended tiles and their seams. Gives an IMAGE batch; "
                "for long 2K clips SwiftI2V VAE Decode to Video takes far less memory."
            ),
            search_aliases=["swifti2v decode", "vae decode", "tiled decode"],
            inputs=[_latent_input(), _vae_input()],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="All frames of the clip.")
            ],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any) -> io.NodeOutput:
        """Decode into memory that is allocated once."""
        latent, shape = from_latent(samples, vae), clip_shape(samples, vae)
        frames = torch.empty((shape.pixel_frames, shape.height, shape.width, 3))
        decode_images(latent, vae, into=frames, observe=_observer(latent))
        return io.NodeOutput(frames)


class VAEDecodeToVideo(io.ComfyNode):
    """Decode a latent straight into a video file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return make_schema(
            node_id="SwiftVAEDecodeToVideo",
            display_name="SwiftI2V VAE Decode to Video",
            description=(
                "Decodes a Wan latent straight into a video file: frames are stored as they come, "
                "so a long 2K clip never lies in memory. Save Video writes it with the workflow "
                "inside."
            ),
            search_aliases=["swifti2v decode", "vae decode", "video", "save video"],
            inputs=[
                _latent_input(),
                _vae_input(),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=120.0,
                    step=1.0,
                    round=0.001,
                    tooltip="Frames per second: 16 for Wan2.2-A14B's motion, 24 for TI2V-5B's.",
                ),
                io.Combo.Input(
                    "codec",
                    options=[codec.value for codec in VideoCodec],
                    default=VideoCodec.H264.value,
                    tooltip=(
                        "h264 plays everywhere; hevc10 has 10 bits and fewer bands in skies; "
                        "prores is for editing; ffv1 is lossless."
                    ),
                ),
                advanced(
                    io.Int.Input(
                        "quality",
                        default=AUTOMATIC,
                        min=AUTOMATIC,
                        max=WORST_QUALITY,
                        tooltip=(
                            "Rate factor of h264 and hevc10: 0 is best and largest, 51 worst; -1 "
                            "takes the codec's usual."
                        ),
                    )
                ),
            ],
            outputs=[
                io.Video.Output("video", display_name="video", tooltip="For core's Save Video.")
            ],
        )

    @classmethod
    def execute(
        cls, samples: dict[str, Any], vae: Any, fps: float, codec: str, quality: int = AUTOMATIC
    ) -> io.NodeOutput:
        """Decode into a file in ComfyUI's temp folder, which ComfyUI empties itself."""
        chosen = read_choice(VideoCodec, "codec", codec)
        latent, shape = from_latent(samples, vae), clip_shape(samples, vae)
        name = f"swift_{uuid4().hex[:12]}{CODECS[chosen].suffixes[0]}"
        path = Path(folder_paths.get_temp_directory()) / name
        writer = VideoWriter(
            path,
            codec=chosen,
            frames_per_second=Fraction(fps).limit_denominator(1001),
            height=shape.height,
            width=shape.width,
            quality=_quality(chosen, quality),
        )
        with BackgroundWriter(writer) as background:
            for chunk in decode_stream(latent, vae, observe=_observer(latent)):
                background.write(chunk)
        return io.NodeOutput(written_video(path))


def _quality(codec: VideoCodec, quality: int) -> int | None:
    """Read the widget; it cannot be left out, as the core's own message would have it."""
    if quality < 0:
        return None
    if CODECS[codec].quality is None:
        raise MediaError(f"{codec.value} has one quality only: set quality to -1.")
    return quality


def _observer(latent: Float[Tensor, "1 c t h w"]) -> NodeProgress:
    return NodeProgress({Phase.DECODE: latent.shape[2]})
