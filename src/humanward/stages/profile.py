"""``align --profile``: where a run's time and memory went, by phase and by operator."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from humanward.errors import writing
from humanward.rl.phases import Spent
from humanward.rl.trainer import PHASES

FILE = "profile.json"
OPERATOR_STEP = 2
"""The step whose operators are recorded: the first warms caches up. Recording slows it, so no phase counts it."""

OPERATORS = 15


class StepProfile:
    """Sums what each phase of the steps took, and records one step's operators."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps: list[dict[str, float]] = []
        self._phases: dict[str, Spent] = {}
        self._operators: list[dict[str, Any]] = []

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around step ``number`` of the run, counted from 1."""
        if number != OPERATOR_STEP:
            yield
            return
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # below that it writes two lines about itself
        with profile(activities=activities) as recorded:
            yield
        self._operators = _operators(recorded, on_device=self._device.type == "cuda")

    def add(self, number: int, spent: dict[str, Spent], tokens: float) -> None:
        """What step ``number`` spent, and how many tokens it sampled."""
        if number == OPERATOR_STEP:
            return
        self._steps.append({"step": number, "tokens": tokens, **{name: one.seconds for name, one in spent.items()}})
        for name, one in spent.items():
            total = self._phases.setdefault(name, Spent())
            total.seconds += one.seconds
            total.cpu_seconds += one.cpu_seconds
            total.peak = max(total.peak, one.peak)

    def content(self) -> dict[str, Any]:
        """What profile.json holds; docs/files.md names its fields."""
        whole = sum(self._phases[name].seconds for name in PHASES if name in self._phases)
        count = max(1, len(self._steps))
        phases = [
            {
                "name": name,
                "seconds": one.seconds / count,
                "share": one.seconds / whole if whole else 0.0,
                "cpu_seconds": one.cpu_seconds / count,
                "peak_memory": one.peak,
            }
            for name, one in sorted(self._phases.items(), key=lambda item: _place(item[0]))
        ]
        sampled = sum(step["tokens"] for step in self._steps)
        return {
            "device": str(self._device),
            "steps": len(self._steps),
            "seconds_per_step": whole / count,
            "sampled_tokens_per_second": self._rate("sample", sampled),
            "learnt_tokens_per_second": self._rate("learn", sampled),
            "phases": phases,
            "operators": self._operators,
            "by_step": self._steps,
        }

    def _rate(self, phase: str, tokens: float) -> float | None:
        one = self._phases.get(phase)
        return tokens / one.seconds if one is not None and one.seconds else None

    def write(self, folder: Path) -> dict[str, Any]:
        """Write profile.json; returns its content."""
        content = self.content()
        with writing(folder / FILE):
            (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return content


def read_profile(file: Path) -> dict[str, Any] | None:
    """The content of profile.json, where the align stage wrote one."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _place(name: str) -> tuple[int, int]:
    """Phases in the order of a step, what lies inside one after it."""
    outer, _, inner = name.partition(": ")
    parts = ("", "forward", "backward", "optimizer")
    return PHASES.index(outer), parts.index(inner)


def _operators(recorded: Any, *, on_device: bool) -> list[dict[str, Any]]:
    """The operators with the most time of their own: seconds, calls, share of all."""
    name = "self_device_time_total" if on_device else "self_cpu_time_total"
    rows = sorted(recorded.key_averages(), key=lambda row: -getattr(row, name))
    whole = sum(getattr(row, name) for row in rows) or 1.0
    return [
        {"name": row.key, "seconds": getattr(row, name) / 1e6, "share": getattr(row, name) / whole, "calls": row.count}
        for row in rows[:OPERATORS]
    ]


def table(content: dict[str, Any]) -> list[str]:
    """The profile as lines for the terminal."""
    lines = [f"{'phase':<18} {'seconds':>8} {'share':>6} {'cpu s':>8} {'peak MiB':>9}"]
    for one in content["phases"]:
        outer, _, inner = one["name"].partition(": ")
        name = f"  {inner}" if inner else outer
        peak = f"{one['peak_memory'] / 2**20:.0f}" if one["peak_memory"] else "-"
        lines.append(
            f"{name:<18} {one['seconds']:>8.3f} {one['share']:>6.1%} {one['cpu_seconds']:>8.3f} {peak:>9}".rstrip()
        )
    lines.append(f"{'a step':<18} {content['seconds_per_step']:>8.3f}, the mean of {content['steps']}")
    for key, words in (("sampled_tokens_per_second", "sampled"), ("learnt_tokens_per_second", "learnt")):
        if content[key] is not None:
            lines.append(f"{content[key]:,.0f} response tokens a second {words}")
    return lines
