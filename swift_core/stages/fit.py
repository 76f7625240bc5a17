"""One stage of a run, fitted into a device's memory, before a weight is read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import torch

from ..errors import BudgetError
from ..geometry import PixelShape, latent_frames_of
from ..memory.residency import SLOTS, Residency, fit_residency
from ..memory.working import Step
from ..model.config import DiTConfig
from ..model.dit import FP32_ISLANDS, WanDiT
from ..precision import is_island
from ..shapes import Tensor
from ..text.umt5 import UMT5Config, umt5_shapes
from ..vae.bands import WHOLE
from ..vae.config import VAEConfig
from ..vae.memory import VaePlan, decode_peak, plan_decode, plan_encode
from ..weights.lora_sizes import AddedBytes


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """One stage's share.

    Attributes:
        words: how it will run.
        placed: the same as numbers: blocks and how many are resident, or bands, over how many
            levels, and whether their state is parked.
        device_nbytes: the most that is on the device.
        host_nbytes: that stay in host memory: blocks that are streamed, LoRAs in the others, parked
            state. Weights that are mapped and brought to the device once only pass through.
        copied_nbytes: what goes to the device beside the work, in all; as much may come back
            meanwhile.
    """

    words: str
    placed: Mapping[str, int]
    device_nbytes: int
    host_nbytes: int
    copied_nbytes: int = 0


def dit_nbytes(
    config: DiTConfig, *, compute: torch.dtype, packed_nbytes: int | None = None
) -> tuple[int, int]:
    """Give the bytes of one block's weights, and of all weights outside the blocks.

    Args:
        packed_nbytes: of the file, where matrices stay packed in 8 bits.
    """
    with torch.device("meta"):
        one = WanDiT(replace(config, layers=1))

    def nbytes(name: str, parameter: Tensor) -> int:
        if is_island(name, FP32_ISLANDS):
            return 4 * parameter.numel()
        packs = packed_nbytes is not None and parameter.ndim == 2
        return (1 if packs else compute.itemsize) * parameter.numel()

    sizes = {name: nbytes(name, parameter) for name, parameter in one.named_parameters()}
    block = sum(size for name, size in sizes.items() if name.startswith("blocks."))
    fixed = sum(sizes.values()) - block
    # A file may keep more in 16 bits than its matrices' neighbours: then that is shared out.
    more = max(0, (packed_nbytes or 0) - fixed - config.layers * block)
    return block + more // config.layers, fixed


def text_nbytes(
    config: UMT5Config, *, compute: torch.dtype, packed_nbytes: int | None = None
) -> tuple[int, int]:
    """Give the bytes of all weights, and of those there at once if layers come in turn."""
    sizes = {name: math.prod(shape) for name, shape in umt5_shapes(config).items()}
    total = sum(sizes.values())
    apart = sum(size for name, size in sizes.items() if not name.startswith("blocks."))
    nbytes = packed_nbytes or compute.itemsize * total
    layer = (total - apart) // config.layers
    return nbytes, nbytes * (apart + SLOTS * layer) // total


@dataclass(frozen=True)
class Fitted:
    """A stage that fits."""

    stage: StageMemory


@dataclass(frozen=True)
class FittedDiT(Fitted):
    """A DiT's stage.

    Attributes:
        residency: where its blocks are.
        kept_nbytes: that stay with it between steps: the prompts that it has read.
    """

    residency: Residency
    kept_nbytes: int


@dataclass(frozen=True)
class FittedVAE(Fitted):
    """A VAE's stage."""

    plan: VaePlan


@dataclass(frozen=True)
class Fit:
    """Fit single stages into a device's memory.

    Attributes:
        budget_nbytes: for one stage with all of its weights.
        compute: number format of weights that are not packed, and of all work.
        vae_nbytes: for a VAE beside its weights; None: what the budget leaves.
        host_nbytes: for state that is parked; None: as it wants.
    """

    budget_nbytes: int
    compute: torch.dtype
    vae_nbytes: int | None
    host_nbytes: int | None = None

    def text(self, config: UMT5Config, packed_nbytes: int | None) -> Fitted:
        """Fit a text encoder; what a prompt's few hundred tokens take is nothing beside it.

        Raises:
            BudgetError: if it does not fit; so do the others.
        """
        total, visiting = text_nbytes(config, compute=self.compute, packed_nbytes=packed_nbytes)
        if total <= self.budget_nbytes:
            placed = {"blocks": config.layers, "resident": config.layers}
            return Fitted(
                StageMemory(words="all layers", placed=placed, device_nbytes=total, host_nbytes=0)
            )
        if visiting > self.budget_nbytes:
            raise BudgetError(
                f"the text encoder takes at least {in_gb(visiting)} with its layers one after the "
                f"other, {in_gb(self.budget_nbytes)} are free",
                least_nbytes=visiting,
            )
        words = f"{config.layers} layers, one after the other"
        placed = {"blocks": config.layers, "resident": 0}
        return Fitted(
            StageMemory(words=words, placed=placed, device_nbytes=visiting, host_nbytes=total)
        )

    def dit(
        self, config: DiTConfig, step: Step, packed_nbytes: int | None, added: AddedBytes
    ) -> FittedDiT:
        """Fit a DiT, and what LoRAs add to it."""
        block, fixed = dit_nbytes(config, compute=self.compute, packed_nbytes=packed_nbytes)
        made: Residency = fit_residency(
            blocks=config.layers,
            block_nbytes=block + added.block,
            fixed_nbytes=fixed + added.fixed,
            working_nbytes=step.nbytes(config, compute=self.compute),
            budget_nbytes=self.budget_nbytes,
        )
        stage = StageMemory(
            words=made.words,
            placed={"blocks": made.blocks, "resident": made.resident},
            device_nbytes=made.device_nbytes,
            host_nbytes=made.streamed_nbytes + made.resident * added.block,
            copied_nbytes=step.passes * made.streamed_nbytes,
        )
        return FittedDiT(stage, made, step.kept_nbytes(config, compute=self.compute))

    def encode(self, config: VAEConfig, shape: PixelShape) -> FittedVAE:
        """Fit the encode of a clip."""
        return self._vae(plan_encode, config, shape)

    def decode(self, config: VAEConfig, shape: PixelShape) -> FittedVAE:
        """Fit the decode of a clip."""
        return self._vae(plan_decode, config, shape)

    def _vae(self, plan: Callable[..., VaePlan], config: VAEConfig, shape: PixelShape) -> FittedVAE:
        made = plan(
            config,
            shape,
            compute=self.compute,
            budget_nbytes=self._beside_weights(config, shape),
            host_nbytes=self.host_nbytes,
        )
        banding, parked = made.banding, made.peak.parked_nbytes
        words = "whole frames"
        if banding.bands > 1:
            words = f"{banding.bands} bands over {banding.levels} levels"
        words += f", {in_gb(parked)} of state parked in host memory" if parked else ""
        stage = StageMemory(
            words=words,
            placed=asdict(banding),
            device_nbytes=made.peak.nbytes,
            host_nbytes=parked,
            # With each chunk all of it comes, and all of it goes back at the same time.
            copied_nbytes=parked * latent_frames_of(shape.pixel_frames),
        )
        return FittedVAE(stage, made)

    def _beside_weights(self, config: VAEConfig, shape: PixelShape) -> int:
        if self.vae_nbytes is not None:
            return self.vae_nbytes
        whole = decode_peak(config, shape.height, shape.width, self.compute, WHOLE)
        return self.budget_nbytes - whole.weights_nbytes


def in_gb(nbytes: int) -> str:
    """Write bytes for people."""
    return f"{nbytes / 1e9:.1f} GB"
