"""One line of evaluation.jsonl: the same prompt answered before and after, with everything measured on both answers.

The schema is in docs/files.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from humanward.errors import InputError
from humanward.records import read_jsonl, write_jsonl


@dataclass(frozen=True)
class Answer:
    """One response and its measurements; None means not measured or not measurable, never 0.

    ``tokens``: response tokens, the end token included. ``ended``: the model stopped by itself.
    ``toxicity``: the judge's P(hate) in [0, 1]. ``reference_nll``: sum over the response tokens of -log p under the
    reference model, nats. ``sequence_kl``: sum over the sampled tokens of log pi - log pi_ref, nats (estimator k1; 0
    for the model before training). ``reward``: the score that was optimised. ``gold``: a scorer that was held out.
    ``reward_parts``: by name, what the reward was made of: the sources of a sum, the members of an ensemble.
    """

    text: str
    tokens: int
    ended: bool
    toxicity: float | None
    reference_nll: float
    sequence_kl: float | None
    reward: float | None
    gold: float | None
    reward_parts: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRow:
    """Sample number ``sample`` of one prompt, before and after alignment; rows of one prompt form a cluster."""

    prompt_id: str
    prompt: str
    sample: int
    before: Answer
    after: Answer


def check_rows(rows: Sequence[EvaluationRow], where: str = "evaluation rows") -> None:
    """Raise InputError for no rows, a repeated (prompt, sample), one id with two prompts, or impossible numbers."""
    if not rows:
        raise InputError(f"{where}: 0 rows; evaluate at least one prompt")
    seen: set[tuple[str, int]] = set()
    prompts: dict[str, str] = {}
    for row in rows:
        name = f"{where}: prompt_id {row.prompt_id!r} sample {row.sample}"
        if (row.prompt_id, row.sample) in seen:
            raise InputError(f"{name} appears twice; number the samples of a prompt apart")
        seen.add((row.prompt_id, row.sample))
        if prompts.setdefault(row.prompt_id, row.prompt) != row.prompt:
            raise InputError(f"{name} has another prompt than an earlier row of this id; give each prompt its own id")
        for side, answer in (("before", row.before), ("after", row.after)):
            _check_answer(answer, f"{name}, {side}")


def read_rows(path: Path) -> list[EvaluationRow]:
    """All rows of an evaluation.jsonl, checked; InputError names the file and what is wrong."""
    rows = read_jsonl(path, EvaluationRow)
    check_rows(rows, str(path))
    return rows


def write_rows(path: Path, rows: Iterable[EvaluationRow]) -> int:
    """Check and write rows, all or nothing; returns how many."""
    rows = list(rows)
    check_rows(rows, str(path))
    return write_jsonl(path, rows)


def _check_answer(answer: Answer, where: str) -> None:
    if answer.tokens < 0:
        raise InputError(f"{where}: tokens={answer.tokens} is negative; count the response tokens")
    numbers = {name: getattr(answer, name) for name in ("toxicity", "reference_nll", "sequence_kl", "reward", "gold")}
    for name, value in {**numbers, **answer.reward_parts}.items():
        if value is None and name != "reference_nll":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{where}: {name}={value!r} is not a finite number; write null for what was not measured")
    if answer.toxicity is not None and not 0 <= answer.toxicity <= 1:
        raise InputError(f"{where}: toxicity={answer.toxicity} is outside 0 to 1; give the probability of the label")
