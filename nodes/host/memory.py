"""Our modules under ComfyUI's memory manager: it makes room for them and may evict them."""

from __future__ import annotations

from typing import Any, TypeVar

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from ...swift_core.errors import BudgetError
from ...swift_core.memory.working import Step
from ...swift_core.model.config import DiTConfig
from ...swift_core.model.dit import WanDiT
from ...swift_core.precision import Precision
from ...swift_core.progress import Observer, ignore
from ...swift_core.stages.fit import dit_nbytes
from ...swift_core.stages.runtime import Runtime
from ...swift_core.weights.slots import Slot

SHARE_OF_FREE = 0.85
"""Of the memory that ComfyUI says is free: a convolution's own workspace takes some too."""

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """A patcher for modules that are not made of ComfyUI's own layers: they move as a whole."""

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: float = 0,  # noqa: ARG002 - nothing of such a module can stay behind
        force_patch_weights: bool = False,  # noqa: ARG002 - it has no patches
        full_load: bool = False,  # noqa: ARG002 - it always is
    ) -> None:
        """Move the module, and keep the books as ComfyUI does."""
        self.model.to(device_to)
        self.model.device = device_to
        self.model.model_lowvram = False
        self.model.lowvram_patch_counter = 0
        self.model.model_loaded_weight_memory = self.model_size()
        self.model.current_weight_patches_uuid = self.patches_uuid


def manage(module: nn.Module) -> WholePatcher:
    """Put a module of ours under ComfyUI's memory manager."""
    return WholePatcher(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def bring(patcher: Any, *, memory_required: float = 0) -> None:
    """Have a model brought to its device, and room made for its work.

    Args:
        memory_required: bytes for what it computes.
    """
    # ComfyUI's own models may stay behind in part or come as they are used: that is its business.
    comfy.model_management.load_models_gpu(
        [patcher],
        memory_required=memory_required,
        force_full_load=isinstance(patcher, WholePatcher),
    )


def managed_slot(slot: Slot[ConfigT, ModuleT], precision: Precision) -> Slot[ConfigT, ModuleT]:
    """Give a slot whose module ComfyUI's memory manager brings and may evict.

    The module is built when it is first wanted, and once. A DiT can be cancelled between its
    blocks, not only between steps.

    Args:
        precision: of the module, whatever a runtime asks for.
    """
    held: list[WholePatcher] = []

    def load(_precision: Precision) -> ModuleT:
        if not held:
            module = slot.load(precision)
            if isinstance(module, WanDiT):
                for block in module.blocks:
                    block.register_forward_pre_hook(stop_if_interrupted)
            held.append(manage(module))
        bring(held[0])
        brought: ModuleT = held[0].model
        return brought

    return Slot(config=slot.config, source=slot.source, load=load)


def make_runtime(
    precision: Precision,
    observe: Observer = ignore,
    *,
    device: torch.device | None = None,
    patcher: Any = None,
    most_nbytes: int | None = None,
) -> Runtime:
    """Compute where ComfyUI computes, in the memory that it says is free.

    Args:
        device: another one than ComfyUI's main one.
        patcher: of the model that works: newer versions of ComfyUI count as free what they take
            back from models by themselves, and tell so by it.
        most_nbytes: for a VAE beside its weights, however much is free.
    """
    place = comfy.model_management.get_torch_device() if device is None else device
    ask = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)

    def free_nbytes() -> int:
        free = usable_nbytes(ask(place), place)
        return free if most_nbytes is None else min(free, most_nbytes)

    return Runtime(device=place, precision=precision, observe=observe, free_nbytes=free_nbytes)


def most_nbytes(device: torch.device, *, weights_nbytes: int) -> int:
    """Tell what a model may compute in at most: beside its weights, with all else gone."""
    total = comfy.model_management.get_total_memory(device)
    return usable_nbytes(total - weights_nbytes, device)


def check_whole(
    config: DiTConfig, step: Step, *, precision: Precision, budget_nbytes: int | None
) -> None:
    """Refuse a DiT of ours, which ComfyUI brings as a whole, where it is allowed less memory.

    Args:
        step: the largest that it will be asked for.
        budget_nbytes: for weights and work together; None: as much as there is.

    Raises:
        BudgetError: saying what would do.
    """
    if budget_nbytes is None:
        return
    block, fixed = dit_nbytes(config, compute=precision.weights)
    working = step.nbytes(config, compute=precision.compute)
    least = fixed + config.layers * block + working
    if least > budget_nbytes:
        raise BudgetError(
            f"the DiT takes {_in_gb(least)} GB ({_in_gb(working)} GB of it for one step). Choose a "
            "smaller video or shorter segments, or raise memory_gb: that of Load SwiftI2V Models "
            f"allows {_in_gb(budget_nbytes)} GB.",
            least_nbytes=least,
        )


def _in_gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g}"


def usable_nbytes(nbytes: float, device: torch.device) -> int:
    """Tell how many bytes of so many may be planned with."""
    return max(0, int(SHARE_OF_FREE * (nbytes - _reserved(device))))


def _reserved(device: torch.device) -> int:
    """Tell what ComfyUI keeps free for others on a device."""
    if device.type == "cpu":
        return 0
    return int(comfy.model_management.extra_reserved_memory())


def room_for(nbytes: int) -> float:
    """Tell what to ask of ComfyUI, so that as many bytes as planned may be used afterwards.

    What it keeps free for others it adds itself.
    """
    return nbytes / SHARE_OF_FREE


def stop_if_interrupted(*_: object) -> None:
    """Raise what ComfyUI raises when the user has pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()
