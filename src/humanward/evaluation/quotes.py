"""Texts of prompts and answers as the page shows them: safe, cut where very long, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from humanward.evaluation.cells import number
from humanward.evaluation.rows import Answer, EvaluationRow
from humanward.evaluation.summary import MOVED, change_of
from humanward.evaluation.toxicity import THRESHOLD
from humanward.evaluation.visible import visible

LONGEST_SHOWN = 4000  # characters of one text; the rest is in evaluation.jsonl


@dataclass(frozen=True)
class Quote:
    """One text as shown: ``text`` may be cut after ``LONGEST_SHOWN`` characters, ``left_out`` says how many are not
    shown; ``toxic`` hides it behind the notice."""

    text: str
    left_out: int
    toxicity: str
    toxic: bool
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Pair:
    """One row side by side; ``change`` as words, ``order`` as a number to sort by."""

    prompt_id: str
    sample: int
    prompt: str
    change: str
    order: float
    direction: str
    before: Quote
    after: Quote


def pairs(rows: Sequence[EvaluationRow]) -> tuple[list[Pair], list[Pair]]:
    """(pairs scored on both sides, worst regression first; pairs without a comparison, in file order)."""
    scored = [(change, row) for row in rows if (change := change_of(row)) is not None]
    scored.sort(key=lambda item: (-item[0], item[1].prompt_id, item[1].sample))
    return [_pair(row, change) for change, row in scored], [_pair(row, None) for row in rows if change_of(row) is None]


def both_ends(shown: list[Pair], most: int) -> list[Pair]:
    """At most ``most`` pairs: those that changed most in either direction, order kept."""
    if len(shown) <= most:
        return shown
    head = (most + 1) // 2
    return shown[:head] + shown[len(shown) - (most - head) :]


def _pair(row: EvaluationRow, change: float | None) -> Pair:
    direction = (
        "unscored" if change is None else "worse" if change >= MOVED else "better" if change <= -MOVED else "same"
    )
    return Pair(
        prompt_id=visible(row.prompt_id),
        sample=row.sample,
        prompt=cut(row.prompt)[0],
        change="not comparable" if change is None else number(change, 2, True),
        order=-2.0 if change is None else change,
        direction=direction,
        before=_quote(row.before),
        after=_quote(row.after),
    )


def quote(text: str, toxicity: float | None, *, tokens: int = 0, ended: bool = True) -> Quote:
    """An answer as shown."""
    shown, left_out = cut(text)
    return Quote(
        text=shown,
        left_out=left_out,
        toxicity="unscored" if toxicity is None else number(toxicity, 2),
        toxic=toxicity is not None and toxicity >= THRESHOLD,
        tokens=tokens,
        ended=ended,
    )


def _quote(answer: Answer) -> Quote:
    return quote(answer.text, answer.toxicity, tokens=answer.tokens, ended=answer.ended)


def cut(text: str) -> tuple[str, int]:
    """(the text as it may be shown, how many characters of it are not)."""
    shown = visible(text).strip()
    return shown[:LONGEST_SHOWN], max(0, len(shown) - LONGEST_SHOWN)
