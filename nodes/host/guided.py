"""A MODEL of ComfyUI's as the core's denoiser: whatever loader, LoRA, format or patch made it.

ComfyUI prepares a MODEL (memory, hooks, wrappers, patches) around one call of a sampler. So ours is
that sampler: ``with_model`` hands the prepared model to a function, and the core's own loop runs
inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.model_base
import comfy.patcher_extension
import comfy.samplers
import torch

from ...swift_core.errors import CheckpointError, PromptError
from ...swift_core.flow.solvers import Velocity
from ...swift_core.geometry import Patch
from ...swift_core.model.config import WAN22_TI2V_5B, DiTConfig
from ...swift_core.segments.denoiser import SegmentContext
from ...swift_core.shapes import Float, Tensor
from .conditioning import Conditioning


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The prompts for a MODEL.

    Attributes:
        negative: None where nothing guides.
        cfg: 1 means one pass without the negative prompt.
    """

    positive: Conditioning
    negative: Conditioning | None
    cfg: float

    def __post_init__(self) -> None:
        if self.cfg != 1 and self.negative is None:
            raise PromptError(
                f"cfg {self.cfg:g} guides away from a negative prompt, but there is none; connect "
                "one (it may be empty) or set cfg to 1."
            )


def model_config(model: Any) -> DiTConfig:
    """Tell the sizes of a MODEL's DiT.

    Raises:
        CheckpointError: if it is no Wan model.
    """
    inner = model.model
    if not isinstance(inner, comfy.model_base.WAN21):  # WAN22 is one too
        raise CheckpointError(
            f"the MODEL input holds {type(inner).__name__}, which is no Wan model: connect "
            "Wan2.2-TI2V-5B, or its form with 96 input channels, for Stage II; Wan2.2-I2V-A14B, or "
            "TI2V-5B, for Stage I."
        )
    sizes, dit = inner.model_config.unet_config, inner.diffusion_model
    time, height, width = dit.patch_size
    return replace(
        WAN22_TI2V_5B,
        in_channels=dit.patch_embedding.weight.shape[1],
        out_channels=inner.latent_format.latent_channels,
        dim=sizes["dim"],
        ffn_dim=sizes["ffn_dim"],
        heads=sizes["num_heads"],
        layers=sizes["num_layers"],
        patch=Patch(time=time, height=height, width=width),
    )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a MODEL is shown of a window of latent frames beside the noise.

    Attributes:
        targets: for each frame, 1 where it is sampled and 0 where it is given.
        latent: normalised; it goes into the extra input channels, where there are any.
        is_masked: whether a mask of what is given goes there too (A14B).
    """

    targets: Float[Tensor, " t"]
    latent: Float[Tensor, "1 c t h w"]
    is_masked: bool = False


class PreparedModel:
    """A MODEL that ComfyUI has brought and prepared, for as long as ``with_model`` lasts."""

    def __init__(self, guider: Any, extra_args: dict[str, Any], positions: _Positions) -> None:
        self._guider = guider
        self._options = extra_args["model_options"]
        self._seed = extra_args["seed"]
        self._positions = positions

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._guider.model_patcher.load_device

    def open(self, shown: Shown, positions: Sequence[int]) -> Velocity:
        """Prepare a window of frames.

        Args:
            positions: place in time of each frame.

        Returns:
            ``(latent, sigma) -> velocity`` of all of its frames, fp32.
        """
        conditions = self._conditions(shown)

        def velocity(latent: Tensor, sigma: float) -> Tensor:
            # Whoever opened last must not leave its prompts to whoever asks now.
            self._guider.conds = conditions
            self._positions.frames = tuple(positions)
            level = torch.full((1,), sigma, device=self.device)
            clean = self._guider(latent, level, model_options=self._options, seed=self._seed)
            return (latent - clean.float()) / sigma

        return velocity

    def _conditions(self, shown: Shown) -> dict[str, list[dict[str, Any]]]:
        """Have ComfyUI read the prompts for this window."""
        _, _, frames, height, width = shown.latent.shape
        mask = shown.targets.to(self.device).view(1, 1, frames, 1, 1)
        extra: dict[str, Any] = {
            "concat_latent_image": self._guider.inner_model.process_latent_out(shown.latent.clone())
        }
        if shown.is_masked:
            extra["concat_mask"] = mask.expand(1, 1, frames, height, width)
        conditions = {
            name: [{**condition, **extra} for condition in prompts]
            for name, prompts in self._guider.original_conds.items()
        }
        comfy.samplers.preprocess_conds_hooks(conditions)
        return comfy.samplers.process_conds(
            self._guider.inner_model,
            shown.latent,
            conditions,
            self.device,
            shown.latent,
            None if shown.is_masked else mask.expand(1, 1, frames, height, width),
            self._seed,
        )


@dataclass(frozen=True, kw_only=True)
class ModelDenoiser:
    """A prepared MODEL behind the segment sampler's protocol."""

    model: PreparedModel

    def open(self, context: SegmentContext) -> Velocity:
        """Prepare a segment, whose conditions look back at the targets."""
        segment = context.segment
        where = segment.target_slice
        frames = torch.zeros(len(segment.latent_frames))
        frames[where] = 1
        predict = self.model.open(
            Shown(targets=frames, latent=context.reference), segment.positions
        )

        def velocity(targets: Tensor, sigma: float) -> Tensor:
            latent = context.reference.clone()
            latent[:, :, where] = targets
            return predict(latent, sigma)[:, :, where]

        return velocity


@dataclass
class _Positions:
    """Where the frames of the window at hand stand in time."""

    frames: tuple[int, ...] = ()

    def forward(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Have Wan's forward pass count frames our way; afterwards it counts its own again."""
        dit = executor.class_obj
        encode, patched = dit.rope_encode, vars(dit).get("rope_encode")
        dit.rope_encode = partial(self._encode, encode)
        try:
            return executor(*args, **kwargs)
        finally:
            del dit.rope_encode
            if patched is not None:
                dit.rope_encode = patched

    def _encode(
        self, encode: Callable[..., Tensor], frames: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Give Wan's rotary phases for frames that do not follow one another."""
        if len(self.frames) != frames or kwargs.get("t_start"):
            return encode(frames, *args, **kwargs)
        placed = [encode(1, *args, t_start=frame, **kwargs) for frame in self.frames]
        return torch.cat(placed, dim=1)


class _OurSampler:
    """What ComfyUI calls as a sampler: it runs the body with the prepared model."""

    def __init__(self, body: Callable[[PreparedModel], Tensor], positions: _Positions) -> None:
        self._body = body
        self._positions = positions
        self.made: Tensor | None = None

    def sample(self, guider: Any, _sigmas: Tensor, extra_args: dict[str, Any], *_: Any) -> Tensor:
        """Run the body."""
        self.made = self._body(PreparedModel(guider, extra_args, self._positions))
        return self.made


def with_model(
    model: Any,
    guidance: Guidance,
    body: Callable[[PreparedModel], Float[Tensor, "1 c t h w"]],
    *,
    window: tuple[int, ...],
    sigmas: Sequence[float],
    seed: int,
) -> Float[Tensor, "1 c t h w"]:
    """Have ComfyUI bring and prepare a MODEL, and run a function with it.

    Args:
        body: gives a normalised latent.
        window: ``b c t h w`` of the largest window that the model will see: what ComfyUI makes
            room for.
        sigmas: noise levels that the body will ask for; some patches want to know.

    Returns:
        What the body gave.
    """
    positions = _Positions()
    # A copy of the patcher: the caller's MODEL keeps its own way of counting frames.
    model = model.clone()
    model.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "swift_i2v", positions.forward
    )
    guider = comfy.samplers.CFGGuider(model)
    prompts = {"positive": guidance.positive}
    if guidance.cfg != 1 and guidance.negative is not None:
        prompts["negative"] = guidance.negative
    guider.inner_set_conds(prompts)
    guider.set_cfg(guidance.cfg)
    sampler = _OurSampler(body, positions)
    nothing = torch.zeros(window)
    guider.sample(nothing, nothing, sampler, torch.tensor(sigmas), disable_pbar=True, seed=seed)
    assert sampler.made is not None, "ComfyUI runs the sampler that it is given"
    return sampler.made
