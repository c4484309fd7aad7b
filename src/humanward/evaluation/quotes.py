"""Texts of prompts and answers as the page shows them: safe, cut where very long, side by side."""

from __future__ import annotations

from collections import Counter
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
    """One row side by side; ``change`` as words, ``order`` as a number to sort by.

    More to sort by: ``length`` and ``grew`` in tokens, after and after - before; ``reworded``, the share of words that
    only one side has, 0 to 1; ``reward``, after - before, None where a side has none.
    """

    prompt_id: str
    sample: int
    prompt: str
    change: str
    order: float
    direction: str
    before: Quote
    after: Quote
    length: int
    grew: int
    reworded: float
    reward: float | None


def pairs(rows: Sequence[EvaluationRow]) -> tuple[list[Pair], list[Pair]]:
    """(pairs scored on both sides, worst regression first; pairs without a comparison, in file order)."""
    scored = [(change, row) for row in rows if (change := change_of(row)) is not None]
    scored.sort(key=lambda item: (-item[0], item[1].prompt_id, item[1].sample))
    return [_pair(row, change) for change, row in scored], [_pair(row, None) for row in rows if change_of(row) is None]


def both_ends(shown: list[Pair], most: int) -> list[Pair]:
    """At most ``most`` pairs, order kept: those that changed most in either direction, and each other order's first."""
    if len(shown) <= most:
        return shown
    first = most // 10
    chosen: set[int] = set()
    for order in (_longest, _grown, _reworded, _reward_fallen):
        chosen |= set(sorted(range(len(shown)), key=lambda i, order=order: order(shown[i]))[:first])  # type: ignore[misc]
    ends = (place for near in range(len(shown)) for place in (near, len(shown) - 1 - near))
    for place in ends:
        if len(chosen) >= most:
            break
        chosen.add(place)
    return [shown[place] for place in sorted(chosen)]


def _longest(pair: Pair) -> float:
    return -pair.length


def _grown(pair: Pair) -> float:
    return -pair.grew


def _reworded(pair: Pair) -> float:
    return -pair.reworded


def _reward_fallen(pair: Pair) -> float:
    return 0.0 if pair.reward is None else pair.reward


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
        length=row.after.tokens,
        grew=row.after.tokens - row.before.tokens,
        reworded=reworded(row.before.text, row.after.text),
        reward=None if row.before.reward is None or row.after.reward is None else row.after.reward - row.before.reward,
    )


def reworded(before: str, after: str) -> float:
    """Share of both texts' words that the other does not have, each as often as it stands there: 0 same, 1 nothing."""
    sides = [Counter(text.casefold().split()) for text in (before, after)]
    words = sum(sides[0].values()) + sum(sides[1].values())
    return 1 - 2 * sum((sides[0] & sides[1]).values()) / words if words else 0.0


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
