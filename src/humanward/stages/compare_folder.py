"""The folder of a comparison: shared/, runs/ALGORITHM-seedN/, and what each run starts from and leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from humanward.algorithm_config import ALGORITHM_SECTIONS, ALGORITHMS, OFF_POLICY
from humanward.config import RunConfig, load_config
from humanward.errors import InputError, writing
from humanward.evaluation.compare_tables import RunResult, State
from humanward.evaluation.rows import read_rows
from humanward.run_dir import CONFIG, METRICS, STAGES, RunDir, new_folder, open_run, write_text
from humanward.stages.compare_plan import Plan, resolved

SHARED, FRONTIER, RUNS, LOGS, ATTEMPTS = "shared", "frontier", "runs", "logs", "attempts.json"
LOCK = ".lock"
_NAME = re.compile(r"(.+)-seed(\d+)")

FILES_OF = {
    "prompts": ("prompts.jsonl",),
    "sample": ("completions.jsonl",),
    "feedback": ("completions.jsonl", "rankings.jsonl", "preferences.jsonl"),
    "reward": ("reward_model", "reward.json"),
}
"""What each shared stage leaves for the others."""


@dataclass(frozen=True)
class Slot:
    """One run of a comparison: its run directory, and the log of what it would tell a person."""

    path: Path
    log: Path
    title: str

    def run(self) -> RunDir | None:
        """The run that has begun here, if one has."""
        return open_run(self.path, None) if (self.path / CONFIG).exists() else None

    def finished(self) -> bool:
        """Whether the run has its report."""
        run = self.run()
        return run is not None and "report" in run.stages()

    def attempts(self) -> list[dict[str, Any]]:
        """All attempts at the run, in order: how each ended, its seconds, its peak memory, its threads."""
        file = self.path / ATTEMPTS
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []

    def record_attempt(self, **facts: Any) -> None:
        """Append an attempt."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        write_text(self.path / ATTEMPTS, json.dumps([*self.attempts(), {"ended": ended, **facts}], indent=1) + "\n")


class CompareDir:
    """A comparison's folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.shared = path, path / SHARED

    def slot(self, algorithm: str, seed: int) -> Slot:
        """The run of one algorithm and seed."""
        name = f"{algorithm}-seed{seed}"
        return Slot(self.path / RUNS / name, self.path / LOGS / f"{name}.log", f"{algorithm} seed {seed}")

    @property
    def frontier(self) -> Slot:
        """The run that draws the best of n on the test prompts, where no algorithm of the comparison does."""
        return Slot(self.path / FRONTIER, self.path / LOGS / f"{FRONTIER}.log", FRONTIER)

    def present(self) -> list[tuple[str, int]]:
        """The runs that have begun, by algorithm in the usual order, then by seed."""
        found = []
        for folder in (self.path / RUNS).glob("*"):
            match = _NAME.fullmatch(folder.name)
            if match and match[1] in ALGORITHMS and (folder / CONFIG).exists():
                found.append((match[1], int(match[2])))
        return sorted(found, key=lambda item: (ALGORITHMS.index(item[0]), item[1]))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse a second comparison in the same folder at the same time, where the system has locks."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK).open("w")
        with file:
            try:
                import fcntl
            except ImportError:  # Windows
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"{self.path}: another comparison is at work here; wait for it, or stop it") from None
            yield

    def check(self, plan: Plan) -> None:
        """Raise InputError for a folder of something else, or of a comparison with another base configuration."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file, not a folder; name a folder with --out")
        if self.path.is_dir() and not self.shared.is_dir() and any(p.name != LOCK for p in self.path.iterdir()):
            what = "is a run directory" if (self.path / CONFIG).exists() else "holds other files"
            raise InputError(f"{self.path}: {what}, not a comparison; choose an empty or new folder with --out")
        wanted = [(self.shared, plan.shared()), (self.frontier.path, plan.shared())]
        wanted += [(self.slot(name, seed).path, plan.config(name, seed)) for name, seed in self.present()]
        for folder, config in wanted:
            file = folder / CONFIG
            if (folder / STAGES).exists() and (present := load_config(file)).to_toml() != config.to_toml():
                raise InputError(_refusal(self.path, folder.name, present, config))

    def check_origin(self, slot: Slot) -> None:
        """Raise InputError for a run that started from shared stages which have been run again since."""
        run, shared = slot.run(), open_run(self.shared, None).stages()
        for stage, record in ({} if run is None else run.stages()).items():
            if stage in FILES_OF and record != shared.get(stage):
                raise InputError(
                    f"{slot.path}: started from another {stage} stage than {self.shared} has now; delete the run, and "
                    "the same command runs it again"
                )

    def begin(self, slot: Slot, config: RunConfig, stages: Sequence[str]) -> None:
        """Make a run directory, whole or not at all, with the shared stages' files and records."""
        shared = open_run(self.shared, None)
        with writing(slot.path):
            slot.path.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(slot.path) as new:
            for stage in stages:
                for name in FILES_OF[stage]:
                    _copy(self.shared / name, new / name)
            if "reward" in stages:
                rows = [row for row in shared.metrics() if any(key.startswith("reward/") for key in row)]
                write_text(new / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
            kept = {name: record for name, record in shared.stages().items() if name in stages}
            write_text(new / STAGES, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
            write_text(new / CONFIG, config.to_toml())

    def result(self, algorithm: str, seed: int) -> RunResult:
        """What a run left, for the comparison."""
        slot = self.slot(algorithm, seed)
        attempts, name = slot.attempts(), str(slot.path.relative_to(self.path))
        threads = tuple(one["threads"] for one in attempts if one.get("threads"))
        costs = {
            "wall_seconds": round(sum(one["seconds"] for one in attempts), 1) if attempts else None,
            "peak_gigabytes": _highest(attempts, "peak_gigabytes"),
            "peak_gpu_gigabytes": _highest(attempts, "peak_gpu_gigabytes"),
        }
        run = slot.run()
        if run is None or not slot.finished():
            error = attempts[-1]["error"] if attempts else None
            state: State = "failed" if error else "unfinished"
            return RunResult(algorithm, seed, name, state, error, costs=costs, threads=threads)
        return RunResult(
            algorithm,
            seed,
            name,
            "finished",
            rows=read_rows(run.file("evaluation.jsonl")),
            report=json.loads(run.file("report.json").read_text(encoding="utf-8")),
            costs={**costs, "align_seconds": run.stages()["align"]["seconds"], **budget(run)},
            threads=threads,
        )


def budget(run: RunDir) -> dict[str, float | None]:
    """What a finished run trained on: ``episodes`` sampled, ``sequences`` that went through an optimizer step (one
    counts each time), ``optimizer_steps`` of the policy."""
    config = run.config
    if config.algorithm == "best-of-n":
        return {"episodes": 0, "sequences": 0, "optimizer_steps": 0}
    rows = run.metrics()
    if config.algorithm in OFF_POLICY:
        align = run.stages()["align"]
        return {"episodes": 0, "sequences": align.get("sequences"), "optimizer_steps": align.get("steps")}
    steps = [row for row in rows if "ppo/step" in row]
    warmup = config.ppo.critic_warmup_steps if config.algorithm == "ppo" else 0
    learnt = sum(int(row["ppo/optimizer_steps"]) for row in steps if row["ppo/step"] > warmup)
    return {
        "episodes": len(steps) * config.ppo.rollout_size,
        "sequences": learnt * config.ppo.minibatch_size,
        "optimizer_steps": learnt,
    }


def settings(config: RunConfig) -> dict[str, Any]:
    """The options that belong to the algorithm, as ``section.option``."""
    values = resolved(config)
    return {
        f"{section}.{key}": value for section in ALGORITHM_SECTIONS for key, value in values.get(section, {}).items()
    }


def _copy(source: Path, target: Path) -> None:
    """A copy: of files because some of them grow, of a folder as links, because it is only ever replaced as a whole."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    elif source.exists():
        shutil.copy2(source, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _highest(attempts: list[dict[str, Any]], name: str) -> float | None:
    known = [one[name] for one in attempts if one.get(name) is not None]
    return max(known) if known else None


def _refusal(path: Path, run: str, present: RunConfig, wanted: RunConfig) -> str:
    """The line about a configuration that is another one: the first key that differs."""
    old, new = _flat(resolved(present)), _flat(resolved(wanted))
    different = [key for key in (old | new) if old.get(key) != new.get(key)]
    more = f" and {len(different) - 1} more" if len(different) > 1 else ""
    key = different[0]
    return (
        f"{path}: belongs to a comparison with another configuration ({key} is {old.get(key)!r} in {run} and "
        f"{new.get(key)!r} here{more}); choose another folder with --out"
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
