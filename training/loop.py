"""The loop that every recipe goes through: step, log, save, resume.

A task knows its modules and the losses of a step; everything else is here. What a step draws
depends on its number alone (see ``chance``), so a run that was stopped and resumed is, on one
machine, the uninterrupted one bit for bit; with a budget in seconds the rates depend on the clock.

Checkpoints are safetensors, written beside the old one and renamed: never half a file.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from swift_core.errors import CheckpointError
from swift_core.shapes import Tensor

from .curves import CurveLog
from .optimizer import MuonAdam, Rates

_log = logging.getLogger(__name__)

WARM_STEPS = 20
FALL = 0.95
"""Share of the budget, at its end, over which the rates fall to nothing: a long fall, because at
full rates small batches leave a floor of noise."""

Losses = dict[str, Tensor]
"""By name; ``loss`` is the one that is stepped down."""


class Task(Protocol):
    """One recipe."""

    name: str
    rates: Rates

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Give the modules to train, by name."""
        ...

    def losses(self, step: int) -> Losses:
        """Compute the losses of a step; the same step always draws the same data."""
        ...


Stepping = Callable[[], AbstractContextManager[None]]
"""Surrounds each of the optimizer's steps, once the gradients are there."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a recipe may train, resumed runs counted in; whichever ends first.

    Attributes:
        seconds: of training, without start and evaluation.
        steps: of the optimizer.
    """

    seconds: float | None = None
    steps: int | None = None

    def spent(self, state: "RunState") -> float:
        """Give the share of the budget that is used up."""
        shares = [0.0]
        if self.seconds is not None:
            shares.append(state.seconds / self.seconds if self.seconds else 1.0)
        if self.steps is not None:
            shares.append(state.step / self.steps if self.steps else 1.0)
        return max(shares)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands.

    Attributes:
        step: steps made.
        seconds: spent in them.
    """

    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How to run a recipe.

    Attributes:
        out: folder of the run: checkpoints, logs, curves, weights.
        budget: when to stop.
        resume: whether to go on from the checkpoint in ``out``.
        save_every: seconds between checkpoints.
        log_every: steps between lines of the log.
        half: whether activations are bf16, by autocast; for GPUs.
    """

    out: Path
    budget: Budget
    resume: bool = False
    save_every: float = 60.0
    log_every: int = 10
    half: bool = False


def checkpoint_path(out: Path, task: str) -> Path:
    """Give where a task's checkpoint lies."""
    return out / f"{task}.checkpoint.safetensors"


def rate_share(spent: float, step: int) -> float:
    """Give the share of the full rates: up at once, level, then down to 0 in a line."""
    return min(1.0, (step + 1) / WARM_STEPS, max(0.0, (1 - spent) / FALL))


def train(
    task: Task,
    settings: RunSettings,
    *,
    on_save: Callable[[RunState], None] | None = None,
    stepping: Stepping = nullcontext,
) -> RunState:
    """Train until the budget is spent; the checkpoint in ``out`` is then the last step's.

    Raises:
        CheckpointError: if there is a checkpoint and the run is not to go on from it, or if the
            loss is no number any more.
    """
    path = checkpoint_path(settings.out, task.name)
    optimizer = MuonAdam(_parameters(task), task.rates)
    state = _begin(path, task, optimizer, resume=settings.resume)
    log = CurveLog(settings.out / f"{task.name}.csv", begin=state.step)
    device = next(iter(task.modules.values())).parameters().__next__().device
    saved = state.seconds
    while (spent := settings.budget.spent(state)) < 1:
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
            losses = task.losses(state.step)
        losses["loss"].backward()
        share = rate_share(spent, state.step)
        with stepping():
            optimizer.step(state.step, share=share)
        if state.step % settings.log_every == 0:
            _record(log, task, state, losses, share)
        state = replace(
            state, step=state.step + 1, seconds=state.seconds + time.perf_counter() - began
        )
        if state.seconds - saved > settings.save_every:
            save_run(path, task, optimizer, state)
            saved = state.seconds
            if on_save is not None:
                on_save(state)
    save_run(path, task, optimizer, state)
    log.plot()
    return state


def _parameters(task: Task) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{part}.{name}", parameter)
        for part, module in task.modules.items()
        for name, parameter in module.named_parameters()
    ]


def _begin(path: Path, task: Task, optimizer: MuonAdam, *, resume: bool) -> RunState:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return RunState()
    if not resume:
        raise CheckpointError(
            f"{path} is there already: go on from it with --resume, or choose another --out."
        )
    return load_run(path, task, optimizer)


def _record(log: CurveLog, task: Task, state: RunState, losses: Losses, share: float) -> None:
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not torch.isfinite(torch.tensor(values["loss"])):
        raise CheckpointError(
            f"the loss of {task.name} is {values['loss']} at step {state.step}; resume from the "
            "last checkpoint with lower rates."
        )
    log.add(step=state.step, seconds=state.seconds, share=share, **values)
    told = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    _log.info("%s step %d, %.0f s: %s", task.name, state.step, state.seconds, told)


def save_run(path: Path, task: Task, optimizer: MuonAdam, state: RunState) -> None:
    """Write modules, optimizer and place, whole or not at all."""
    tensors = {f"optimizer.{name}": value for name, value in optimizer.state.items()}
    for part, module in task.modules.items():
        tensors |= {f"module.{part}.{name}": t for name, t in module.state_dict().items()}
    place = json.dumps({"task": task.name, "step": state.step, "seconds": state.seconds})
    part_path = path.with_name(f".{path.name}.part")
    flat = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(flat, part_path, metadata={"swift_training": place})
    part_path.replace(path)


def load_run(path: Path, task: Task, optimizer: MuonAdam | None = None) -> RunState:
    """Read a run back.

    Raises:
        CheckpointError: if the file is no run of this task.
    """
    with safe_open(path, framework="pt", device="cpu") as file:
        place = json.loads((file.metadata() or {}).get("swift_training", "{}"))
        if place.get("task") != task.name:
            raise CheckpointError(f"{path} is no run of {task.name}; choose another --out.")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    for part, module in task.modules.items():
        stem = f"module.{part}."
        module.load_state_dict(
            {name.removeprefix(stem): t for name, t in tensors.items() if name.startswith(stem)}
        )
    if optimizer is not None:
        optimizer.load({name.removeprefix("optimizer."): t for name, t in tensors.items()})
    return RunState(step=place["step"], seconds=place["seconds"])
