"""Where a run computes, in which number formats, in which memory, and who is told."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from ..errors import BudgetError
from ..memory.host import free_host_nbytes
from ..memory.layers import visit_by_layer
from ..memory.read_ahead import ReadingOrder
from ..memory.residency import Residency, fit_residency
from ..memory.streaming import BlockStream, StreamReport, block_nbytes, stream_blocks
from ..memory.working import Step
from ..model.attention_backends import FastAttention, use_attention
from ..model.compiled import compile_blocks, release_blocks
from ..model.config import DiTConfig
from ..model.dit import WanDiT
from ..precision import Precision
from ..progress import Observer, ignore
from ..shapes import Float, Tensor
from ..slabs import Slabs
from ..text.encoder import TextEncoder
from ..weights.slots import Slot, TextConfig
from .resources import Resources

_log = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def log_streamed(name: str, report: StreamReport) -> None:
    """Say in the log what streaming took."""
    _log.info("%s: %s", name, report.describe())


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What every stage of a run needs beside its data.

    Attributes:
        device: where models and latents are.
        precision: number formats of the models; latents are fp32 between steps.
        observe: told of every step and chunk; what it raises passes through every stage.
        free_nbytes: asked how much memory a VAE may take beside its weights; None: what the budget
            leaves, or as it wants.
        budget_nbytes: asked how much memory a stage may take, weights and work together; blocks of
            a DiT that do not fit are streamed. None: no bound.
        slabs: host memory that streaming locks; one model leaves it to the next.
        streamed: told the name of each DiT that was let go and what streaming its blocks took.
        attention: what computes the self-attention of DiTs; None is PyTorch's own.
        compiles: whether DiT blocks are compiled.
        reads_ahead: whether the next model's files are read while one computes.
        is_under_way: whether something has been made already that must not be lost: then what seems
            not to fit is tried all the same, in the smallest way.
        order: keeps the files of one model ahead; made for a run.
    """

    device: torch.device
    precision: Precision
    observe: Observer = ignore
    free_nbytes: Callable[[], int] | None = None
    budget_nbytes: Callable[[], int] | None = None
    slabs: Slabs | None = None
    streamed: Callable[[str, StreamReport], None] = log_streamed
    attention: FastAttention | None = None
    compiles: bool = False
    reads_ahead: bool = False
    is_under_way: bool = False
    order: ReadingOrder | None = None

    @property
    def attention_name(self) -> str:
        """Name what computes self-attention, by now."""
        return "sdpa" if self.attention is None else self.attention.name

    def resources(self) -> Resources:
        """Tell what a run may use now."""
        budget, room = self.budget_nbytes, self.free_nbytes
        return Resources(
            device_nbytes=None if budget is None else budget(),
            vae_nbytes=None if room is None else room(),
            host_nbytes=free_host_nbytes(),
        )

    def load(self, slot: Slot[ConfigT, ModuleT]) -> ModuleT:
        """Load a model of a set onto the device; it is gone when the caller lets go of it.

        What streaming has locked is unlocked: a VAE parks its state in host memory.
        """
        if self.slabs is not None:
            self.slabs.clear()
        self._tidy()
        model = slot.load(self.precision).to(self.device)
        use_attention(model, self.attention)
        self._loaded(slot)
        return model

    def load_text(
        self, slot: Slot[TextConfig, TextEncoder], *, by_layer: bool = False
    ) -> TextEncoder:
        """Load a text encoder; where it does not fit, its layers come one after the other.

        Args:
            by_layer: whether they do so anyway.
        """
        encoder = slot.load(self.precision)
        layers, budget = encoder.layers(), self.budget_nbytes
        nbytes = sum(parameter.nbytes for parameter in encoder.parameters())
        fits = not by_layer and (budget is None or nbytes <= budget())
        if fits or not layers:
            encoder.to(self.device)
        else:
            _log.info("%s: its layers come one after the other", slot.source)
            visit_by_layer(encoder, layers, self.device)
        self._loaded(slot)
        return encoder

    def load_dit(
        self, slot: Slot[DiTConfig, WanDiT], step: Step, *, beside_nbytes: int = 0
    ) -> WanDiT:
        """Load a DiT; where memory is bounded, as many of its blocks stay on the device as fit.

        Args:
            step: the largest that it will be asked for.
            beside_nbytes: that something else will want while it is there.

        Raises:
            BudgetError: if not even two blocks fit at a time.
        """
        self._tidy()
        dit = slot.load(self.precision)
        use_attention(dit, self.attention)
        if self.compiles:
            compile_blocks(dit)
        if self.budget_nbytes is None:
            dit.to(self.device)
        else:
            self._stream(slot, dit, step, budget_nbytes=self.budget_nbytes() - beside_nbytes)
        self._loaded(slot)
        return dit

    def _stream(
        self, slot: Slot[DiTConfig, WanDiT], dit: WanDiT, step: Step, *, budget_nbytes: int
    ) -> None:
        largest, fixed = block_nbytes(dit)
        sizes = {
            "blocks": slot.config.layers,
            "block_nbytes": largest,
            "fixed_nbytes": fixed,
            "working_nbytes": step.nbytes(slot.config, compute=self.precision.compute),
        }
        try:
            residency = fit_residency(**sizes, budget_nbytes=budget_nbytes)
        except BudgetError as error:
            if not self.is_under_way:
                raise
            _log.warning("%s; trying with all blocks streamed", error)
            residency = Residency(**sizes, resident=0)
        _log.info("%s: %s", slot.source, residency.describe())
        stream_blocks(dit, residency, device=self.device, slabs=self.slabs)

    def let_go(self, slot: Slot[DiTConfig, WanDiT], dit: WanDiT) -> None:
        """End a DiT's work: tell what streaming took, and leave locked memory to others."""
        release_blocks(dit)
        if isinstance(dit.stream, BlockStream):
            report = dit.stream.report()
            dit.stream.close()
            dit.stream = None
            if report.copied_nbytes:
                self.streamed(slot.source, report)

    def _tidy(self) -> None:
        """Give back what the last model has left: or weights would come to lie between its parts.

        PyTorch keeps freed memory in large pieces, and gives none back of which a part is in use.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _loaded(self, slot: Slot[ConfigT, ModuleT]) -> None:
        if self.order is not None:
            self.order.loaded(slot.files)

    def place(self, tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Bring a tensor to the device, in the compute format."""
        return tensor.to(self.device, self.precision.compute)
