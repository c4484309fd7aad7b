"""Where a step's time goes, by phase; with ``detailed``, processor time and memory too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from humanward.models.machine import peak_resident, reset_peak


@dataclass
class Spent:
    """What a phase took: wall and processor seconds, and the largest memory held inside it in bytes (0: not known)."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak: int = 0


@dataclass
class Phases:
    """A clock for named blocks, which may lie inside each other.

    Without ``detailed`` it reads the clock twice a phase and nothing else: on CUDA, where work is queued, a phase then
    ends when its last kernel was queued. With it every phase waits for the device, and memory's peak is taken.
    """

    device: torch.device
    detailed: bool = False
    spent: dict[str, Spent] = field(default_factory=dict)
    _open: list[Spent] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add what the block takes to the phase ``name``."""
        phase = self.spent.setdefault(name, Spent())
        if self.detailed:
            self._wait()
            self._note_peak()
            self._open.append(phase)
        began, worked = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            if self.detailed:
                self._wait()
            phase.seconds += time.perf_counter() - began
            phase.cpu_seconds += time.process_time() - worked
            if self.detailed:
                self._note_peak()
                self._open.pop()

    def detail(self, name: str) -> AbstractContextManager[None]:
        """A phase inside another, timed only in detail: nothing is read otherwise."""
        return self(name) if self.detailed else nullcontext()

    def take(self) -> dict[str, Spent]:
        """What was spent since the last call."""
        found, self.spent = self.spent, {}
        return found

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _note_peak(self) -> None:
        """The peak since the last reading belongs to every phase that is open."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            peak = peak_resident()
            reset_peak()
        for phase in self._open:
            phase.peak = max(phase.peak, peak)
