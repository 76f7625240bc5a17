"""What a whole run took, phase by phase: an observer with a clock, and a runtime that it follows.

The device is waited for only where one phase ends or another begins, so that nothing is held up
within. Memory is asked after every unit of work: tensors are counted as they are made, not as the
device gets to them.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from swift_core.memory.streaming import StreamReport
from swift_core.progress import Phase, Progress
from swift_core.stages.fit import StageMemory
from swift_core.stages.runtime import Runtime

from .machine import Machine, host_peak_nbytes
from .rows import Row


@dataclass
class Span:
    """What one phase took so far; see ``Row``."""

    seconds: float = 0.0
    load_seconds: float = 0.0
    write_seconds: float = 0.0
    peak_nbytes: int = 0
    reserved_nbytes: int = 0
    host_nbytes: int = 0
    copied_nbytes: int = 0
    copy_seconds: float = 0.0
    waited_seconds: float = 0.0
    units: int = 0

    @property
    def hidden_share(self) -> float | None:
        """Give the share of the streaming's time that work went on in; None without streaming."""
        if not self.copy_seconds:
            return None
        return max(0.0, 1 - self.waited_seconds / self.copy_seconds)

    @property
    def facts(self) -> dict[str, Any]:
        """Give what a row has no column for."""
        facts: dict[str, Any] = {"units": self.units}
        if self.copy_seconds:
            facts["copy_seconds"] = self.copy_seconds
            facts["copy_nbytes_per_second"] = self.copied_nbytes / self.copy_seconds
        return facts


def planned_facts(planned: StageMemory) -> dict[str, Any]:
    """Give what the plan says of a phase beside its memory on the device.

    What a VAE parks is known from here alone: streaming tells of DiTs only.
    """
    facts: dict[str, Any] = {"plan": planned.words}
    if planned.copied_nbytes:
        facts["planned_copied_nbytes"] = planned.copied_nbytes
    return facts


class Watch:
    """Listen to a run, and add up what each phase took.

    Args:
        finished: called with each phase that has come to its end, or that more is known of.
    """

    def __init__(self, machine: Machine, finished: Callable[[Phase], None]) -> None:
        self.spans: dict[Phase, Span] = {}
        self.machine = machine
        self._finished = finished
        self._phase: Phase | None = None
        self._loading = self._writing = 0.0
        self._is_loading = False
        machine.synchronize()
        machine.clear()
        self.began = self._last = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Take one unit of work; what went on since the last one belongs to its phase."""
        phase = progress.phase
        ends = progress.step == progress.steps and progress.segment == progress.segments - 1
        if ends or phase is not self._phase:
            self.machine.synchronize()
        span = self.spans.setdefault(phase, Span())
        now = time.perf_counter()
        span.seconds += now - self._last - self._loading - self._writing
        span.load_seconds += self._loading
        span.write_seconds += self._writing
        span.peak_nbytes = max(span.peak_nbytes, self.machine.peak_nbytes() or 0)
        span.reserved_nbytes = max(span.reserved_nbytes, self.machine.reserved_nbytes() or 0)
        span.host_nbytes = max(span.host_nbytes, host_peak_nbytes() or 0)
        span.units += 1
        self._phase = phase
        self._loading = self._writing = 0.0
        self.machine.reset_peak()
        self._last = now
        if ends:
            self._finished(phase)

    @contextmanager
    def loading(self) -> Generator[None, None, None]:
        """Count the time within as loading, once if one loads within another."""
        if self._is_loading:
            yield
            return
        self.machine.synchronize()
        begin = time.perf_counter()
        self._is_loading = True
        try:
            yield
        finally:
            self._is_loading = False
        self.machine.synchronize()
        self._loading += time.perf_counter() - begin

    @contextmanager
    def writing(self) -> Generator[None, None, None]:
        """Count the time within as writing the video."""
        begin = time.perf_counter()
        yield
        self._writing += time.perf_counter() - begin

    @property
    def rest_seconds(self) -> float:
        """Give the time of writing after the last unit of work: the encoder empties itself."""
        return self._writing

    def streamed(self, _name: str, report: StreamReport) -> None:
        """Take what streaming took in the phase that is going on; it is told at its very end."""
        if self._phase is not None:
            span = self.spans[self._phase]
            span.copied_nbytes += report.copied_nbytes
            span.copy_seconds += report.copy_seconds
            span.waited_seconds += report.waited_seconds
            self._finished(self._phase)

    def row(
        self,
        phase: Phase,
        *,
        group: str,
        flops: float | None,
        planned: StageMemory | None,
    ) -> Row:
        """Give what a phase took, and what the plan says of it."""
        span = self.spans[phase]
        on_device = self.machine.is_cuda
        return Row(
            name=phase.value,
            group=group,
            seconds=span.seconds,
            flops=flops,
            load_seconds=span.load_seconds,
            write_seconds=span.write_seconds,
            peak_nbytes=span.peak_nbytes if on_device else None,
            reserved_nbytes=span.reserved_nbytes if on_device else None,
            predicted_nbytes=None if planned is None else planned.device_nbytes,
            host_nbytes=span.host_nbytes or None,
            copied_nbytes=span.copied_nbytes,
            hidden_share=span.hidden_share,
            facts=span.facts | ({} if planned is None else planned_facts(planned)),
        )


@dataclass(frozen=True, kw_only=True)
class WatchedRuntime(Runtime):
    """A runtime whose loading is timed."""

    watch: Watch

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """Load a model, and count the time."""
        with self.watch.loading():
            return super().load(*args, **kwargs)

    def load_text(self, *args: Any, **kwargs: Any) -> Any:
        """Load a text encoder, and count the time."""
        with self.watch.loading():
            return super().load_text(*args, **kwargs)

    def load_dit(self, *args: Any, **kwargs: Any) -> Any:
        """Load a DiT, and count the time."""
        with self.watch.loading():
            return super().load_dit(*args, **kwargs)


def watched(runtime: Runtime, watch: Watch) -> WatchedRuntime:
    """Let a watch follow a runtime."""
    known: dict[str, Any] = {field.name: getattr(runtime, field.name) for field in fields(Runtime)}
    known |= {"streamed": watch.streamed, "watch": watch}
    return WatchedRuntime(**known)
