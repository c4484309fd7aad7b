"""The runs of a comparison as tables: every metric of every algorithm over seeds and prompts, or over seeds alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from humanward.errors import InputError
from humanward.evaluation.compare_statistics import wins
from humanward.evaluation.rows import Answer, EvaluationRow
from humanward.evaluation.statistics import Floats

State = Literal["finished", "failed", "unfinished"]


@dataclass(frozen=True)
class RunResult:
    """What one run left. ``folder`` is relative to the comparison's.

    Only a finished one has ``rows`` (evaluation.jsonl) and ``report`` (report.json). ``costs``: ``align_seconds``,
    ``wall_seconds``, ``peak_gigabytes``, ``peak_gpu_gigabytes``, ``episodes``, ``sequences``, ``optimizer_steps``; None
    where it is not known. ``threads``: of each attempt.
    """

    algorithm: str
    seed: int
    folder: str
    state: State
    error: str | None = None
    rows: Sequence[EvaluationRow] = ()
    report: Mapping[str, Any] | None = None
    costs: Mapping[str, float | None] = field(default_factory=dict)
    threads: Sequence[int] = ()


@dataclass(frozen=True)
class Metric:
    """A number that is compared. ``over_prompts``: it is a mean over the test prompts, so its interval respects them;
    the others have one number a run. ``kind`` says how it is written."""

    name: str
    label: str
    better: Literal["lower", "higher", ""]
    over_prompts: bool
    kind: Literal["bounded", "plain", "share", "change", "seconds", "gigabytes"]


METRICS = (
    Metric("toxicity", "Judged toxicity", "lower", True, "bounded"),
    Metric("reward", "Reward", "higher", True, "plain"),
    Metric("gold", "Gold reward", "higher", True, "plain"),
    Metric("win_rate", "Win rate against the reference, by the judge", "higher", True, "share"),
    Metric("gold_win_rate", "Win rate against the reference, by the gold reward", "higher", True, "share"),
    Metric("kl", "KL to the reference", "", True, "plain"),
    Metric("length", "Mean length", "", True, "plain"),
    Metric("distinct2", "Distinct-2, change", "higher", False, "change"),
    Metric("perplexity", "Perplexity under the reference, change", "", False, "change"),
    Metric("duplicates", "Duplicate answers", "lower", False, "share"),
    Metric("align_seconds", "Training time", "lower", False, "seconds"),
    Metric("wall_seconds", "Time of the whole run", "lower", False, "seconds"),
    Metric("peak_gigabytes", "Peak memory", "lower", False, "gigabytes"),
)
BY_NAME = {metric.name: metric for metric in METRICS}

# What a row gives; None where it was not measured, which becomes NaN and leaves the prompt out.
_CELLS: dict[str, Callable[[EvaluationRow], float | None]] = {
    "toxicity": lambda row: row.after.toxicity,
    "reward": lambda row: row.after.reward,
    "gold": lambda row: row.after.gold,
    "win_rate": lambda row: _win(row, "toxicity", -1.0),
    "gold_win_rate": lambda row: _win(row, "gold", 1.0),
    "kl": lambda row: row.after.sequence_kl,
    "length": lambda row: row.after.tokens,
    "before_toxicity": lambda row: row.before.toxicity,
    "before_reward": lambda row: row.before.reward,
    "before_gold": lambda row: row.before.gold,
    "before_length": lambda row: row.before.tokens,
}


@dataclass(frozen=True)
class Tables:
    """The finished runs of one algorithm: ``cells`` (S, P) by name, seeds and prompts in the order of ``seeds`` and
    ``prompts``, NaN where a prompt was not measured; ``numbers`` (S,) by name, NaN likewise."""

    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    cells: Mapping[str, Floats]
    numbers: Mapping[str, Floats]

    def at(self, name: str, seeds: Sequence[int] | None = None) -> Floats:
        """The table (S, P) or column (S,) of a name, of some seeds only if given."""
        table = self.cells[name] if name in self.cells else self.numbers[name]
        return table if seeds is None else table[[self.seeds.index(seed) for seed in seeds]]


def tables(runs: Sequence[RunResult], prompts: Sequence[str]) -> Tables:
    """The tables of one algorithm's finished runs, on ``prompts``.

    Raises InputError for a run that was evaluated on other prompts: runs are compared on the same ones.
    """
    finished = sorted((run for run in runs if run.state == "finished"), key=lambda run: run.seed)
    for run in finished:
        if others := {row.prompt_id for row in run.rows} ^ set(prompts):
            raise InputError(
                f"{run.folder}: was evaluated on other prompts than the other runs ({len(others)} differ); "
                "delete it, and the same command runs it again"
            )
    cells = {name: np.array([_by_prompt(run.rows, prompts, read) for run in finished]) for name, read in _CELLS.items()}
    numbers = {
        metric.name: np.array([_number(run, metric.name) for run in finished])
        for metric in METRICS
        if not metric.over_prompts
    }
    return Tables(tuple(run.seed for run in finished), tuple(prompts), cells, numbers)


def measured(*found: Floats) -> list[Floats] | None:
    """Tables on the prompts (or, of columns, None as soon as one seed lacks it) that all of them measured; None when
    none is left."""
    if found[0].ndim == 1:
        return list(found) if all(np.isfinite(column).all() for column in found) and len(found[0]) else None
    known = np.logical_and.reduce([np.isfinite(table).all(axis=0) for table in found])
    return [table[:, known] for table in found] if known.any() and len(found[0]) else None


def _by_prompt(rows: Sequence[EvaluationRow], prompts: Sequence[str], read: Callable[..., float | None]) -> list[float]:
    """(P,) the mean over a prompt's answers; NaN as soon as one was not measured."""
    values: dict[str, list[float]] = {prompt: [] for prompt in prompts}
    for row in rows:
        value = read(row)
        values[row.prompt_id].append(math.nan if value is None else float(value))
    return [float(np.mean(values[prompt])) for prompt in prompts]


def _win(row: EvaluationRow, name: str, sign: float) -> float | None:
    before, after = (_of(answer, name) for answer in (row.before, row.after))
    return None if before is None or after is None else float(wins(sign * after, sign * before))


def _of(answer: Answer, name: str) -> float | None:
    value: float | None = getattr(answer, name)
    return value


def _number(run: RunResult, name: str) -> float:
    if name in ("distinct2", "perplexity", "duplicates"):
        assert run.report is not None
        fluency = run.report["fluency"]
        before, after = fluency[f"{name}_before"], fluency[f"{name}_after"]
        if name == "duplicates":
            return after
        return math.nan if before in (None, 0) or after is None else after / before - 1
    value = run.costs.get(name)
    return math.nan if value is None else value
