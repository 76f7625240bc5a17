"""Pictures of what is being sampled: by a tiny autoencoder, or by a line from values to colours.

Which, ComfyUI's preview method says, for our nodes as for its own: none makes no pictures, taesd
asks for a tiny autoencoder (TAE) from models/vae_approx, the others take colours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.cli_args
import comfy.latent_formats
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import latent_preview
import torch
from einops import rearrange
from PIL import Image
from torch.nn import functional as F

from ...swift_core.progress import Progress
from ...swift_core.shapes import Float, Tensor
from ...swift_core.vae.autoencoder import WanVAE
from ...swift_core.vae.config import WAN22_VAE
from .progress import PREVIEW_WIDTH
from .vae import RawVAE, open_vae, vae_config

_log = logging.getLogger(__name__)

THUMBNAILS = 8
"""Columns of the strip under the preview."""

TAE_VALUES = 450 * 8**2
"""Numbers that a TAE holds at a time for each latent value of the one frame that it draws.

Measured without numbers: at most 436 for each pixel that its last layers work on, and those are 8
to a side of a latent value for both of Wan's.
"""

_OTHER_TAE = "taew2_2"
"""Where ComfyUI's table names a TAE for Wan2.2, it is another make; this one fits as well."""

Draw = Callable[[Float[Tensor, "c h w"]], Image.Image]
"""Makes a picture of one latent frame, normalised."""

Colours = tuple[Float[Tensor, "c 3"], Float[Tensor, "3"]]
"""A line from normalised latent values to colours in [-1, 1]: factors and offset."""


class Previewer:
    """Draw what is being sampled, over a strip with one thumbnail for each segment.

    Args:
        draw: makes the pictures.
    """

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._thumbnails: dict[int, Image.Image] = {}

    def show(self, progress: Progress) -> Image.Image:
        """Draw the clean estimate in the middle of the segment, and what is known of the others."""
        assert progress.preview is not None, "asked only where there is one"
        latent = progress.preview
        picture = self._draw(latent[0, :, latent.shape[2] // 2])
        scale = PREVIEW_WIDTH / picture.width
        large = picture.resize((PREVIEW_WIDTH, max(1, round(picture.height * scale))))
        if progress.segments == 1:
            return large
        columns = min(THUMBNAILS, progress.segments)
        width = PREVIEW_WIDTH // columns
        height = max(1, round(large.height * width / PREVIEW_WIDTH))
        self._thumbnails[progress.segment] = large.resize((width, height))
        rows = -(-progress.segments // columns)
        sheet = Image.new("RGB", (PREVIEW_WIDTH, large.height + rows * height))
        sheet.paste(large, (0, 0))
        for segment, thumbnail in self._thumbnails.items():
            row, column = divmod(segment, columns)
            sheet.paste(thumbnail, (column * width, large.height + row * height))
        return sheet


def make_previewer(vae: Any) -> Previewer | None:
    """Give what draws a VAE input's latents; None where ComfyUI's preview method is none.

    Raises:
        CheckpointError: if it is none that the core knows.
    """
    table = _latent_format(vae)
    if not _wants_previews():
        return None
    if isinstance(vae.first_stage_model, RawVAE):
        return Previewer(_ColourDraw(probe_colours(open_vae(vae, memory_required=0))))
    colours = _ColourDraw(published_colours(table))
    if _method() != comfy.cli_args.LatentPreviewMethod.TAESD:
        return Previewer(colours)
    try:
        tae = _find_tae(table, vae.device)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, it is only a preview's
        _log.warning("SwiftI2V: previews without a TAE, because its file does not load: %s", error)
        tae = None
    return Previewer(colours if tae is None else _TaeDraw(tae, colours))


def make_own_previewer(open_own: Callable[[], WanVAE]) -> Previewer | None:
    """Give what draws the latents of a VAE of ours.

    Args:
        open_own: gives the VAE; asked only where there are to be pictures.
    """
    return Previewer(_ColourDraw(probe_colours(open_own()))) if _wants_previews() else None


def published_colours(table: Any) -> Colours:
    """Give the colours of a published VAE's latents by ComfyUI's table."""
    return torch.tensor(table.latent_rgb_factors), torch.tensor(table.latent_rgb_factors_bias)


def probe_colours(vae: WanVAE) -> Colours:
    """Take the colours of a VAE's latents off its decoder, at the mean latent."""
    weight = vae.conv2.weight
    channels = vae.config.latent_channels
    probes = torch.zeros(channels + 1, channels, 1, 1, 1, device=weight.device, dtype=weight.dtype)
    probes[range(1, channels + 1), range(channels)] = 1
    colours = vae.decode(probes, clamp=False).float().mean(dim=(2, 3, 4)).cpu()
    return colours[1:] - colours[:1], colours[0]


class _ColourDraw:
    """Draw by a line from values to colours: one pixel for each latent value."""

    def __init__(self, colours: Colours) -> None:
        self._factors, self._bias = colours

    def __call__(self, frame: Float[Tensor, "c h w"]) -> Image.Image:
        values = rearrange(frame.float().cpu(), "c h w -> h w c")
        colours = F.linear(values, self._factors.T, self._bias).add(1).div(2).clamp(0, 1)
        return Image.fromarray(colours.mul(255).round().to(torch.uint8).numpy())


class _TaeDraw:
    """Draw by a TAE; where that fails, once and for all by colours.

    Args:
        tae: ComfyUI's previewer around it.
        colours: draws when it has failed.
    """

    def __init__(self, tae: Any, colours: Draw) -> None:
        self._tae = tae
        self._colours = colours

    def __call__(self, frame: Float[Tensor, "c h w"]) -> Image.Image:
        if self._tae is not None:
            try:
                drawn: Image.Image = self._tae.decode_latent_to_preview(frame[None, :, None])
            except comfy.model_management.InterruptProcessingException:
                raise
            except Exception as error:  # noqa: BLE001 - a run is worth more than its preview
                _log.warning("SwiftI2V: previews go on without a TAE, because it failed: %s", error)
                self._tae = None
            else:
                return drawn
        return self._colours(frame)


def _method() -> Any:
    return comfy.cli_args.args.preview_method


def _wants_previews() -> bool:
    return _method() != comfy.cli_args.LatentPreviewMethod.NoPreviews


def _latent_format(vae: Any) -> Any:
    is_22 = vae_config(vae).latent_channels == WAN22_VAE.latent_channels
    return comfy.latent_formats.Wan22() if is_22 else comfy.latent_formats.Wan21()


def _find_tae(table: Any, device: torch.device) -> Any:
    """Load the TAE for a kind of latents where the user has one; with one line of log if not."""
    make = getattr(latent_preview, "TAEHVPreviewerImpl", None)
    if make is None:
        _log.warning("SwiftI2V: previews without a TAE: this ComfyUI knows none for videos.")
        return None
    names = folder_paths.get_filename_list("vae_approx")
    cores = table.taesd_decoder_name
    if cores and any(name.startswith(cores) for name in names):
        previewer = latent_preview.get_previewer(device, table)
    else:
        path = _other_tae(names) if table.latent_channels == WAN22_VAE.latent_channels else None
        if path is None:
            _log.warning("SwiftI2V: previews without a TAE: models/vae_approx has no %s.", cores)
            return None
        loaded = comfy.sd.VAE(comfy.utils.load_torch_file(path, safe_load=True))
        loaded.throw_exception_if_invalid()
        loaded.first_stage_model.show_progress_bar = False
        previewer = make(loaded)
    tae: Any = getattr(previewer, "taesd", None)
    if isinstance(tae, comfy.sd.VAE):
        # ComfyUI's own figure is for clips: for one frame at 2K it would send the DiT away.
        tae.memory_used_decode = _tae_memory
    return previewer


def _other_tae(names: list[str]) -> str | None:
    """Find the other make of TAE for Wan2.2; no pickle."""
    for name in names:
        if name.startswith(_OTHER_TAE) and name.endswith(".safetensors"):
            path: str | None = folder_paths.get_full_path("vae_approx", name)
            return path
    return None


def _tae_memory(shape: tuple[int, ...], dtype: torch.dtype) -> float:
    return TAE_VALUES * dtype.itemsize * shape[-2] * shape[-1]
