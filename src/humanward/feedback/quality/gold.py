"""Gold items: sets of answers whose right order is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from humanward.records import Ranking

Gold = Mapping[tuple[str, frozenset[str]], Sequence[Sequence[str]]]
"""The right tiers by (criterion, completion ids)."""


def gold_parts(rankings: Iterable[Ranking], gold: Gold) -> dict[str, list[tuple[float, float]]]:
    """By annotator, for every gold item ranked: (pairs judged right, pairs)."""
    found: dict[str, list[tuple[float, float]]] = {}
    for ranking in rankings:
        ids = frozenset(c for tier in ranking.tiers for c in tier)
        right = gold.get((ranking.criterion, ids))
        if right is not None:
            found.setdefault(ranking.annotator, []).append(pairs_right(right, ranking.tiers))
    return found


def pairs_right(gold: Sequence[Sequence[str]], tiers: Sequence[Sequence[str]]) -> tuple[float, int]:
    """(pairs judged as gold has them, pairs of gold); a tie where gold is strict counts half, as does the reverse."""
    truth, said = _places(gold), _places(tiers)
    good, total = 0.0, 0
    for first, second in combinations(sorted(truth), 2):
        total += 1
        if first not in said or second not in said:
            continue
        right = _sign(truth[second] - truth[first])
        given = _sign(said[second] - said[first])
        good += 1.0 if right == given else 0.5 if 0 in (right, given) else 0.0
    return good, total


def _places(tiers: Sequence[Sequence[str]]) -> dict[str, int]:
    return {answer: place for place, tier in enumerate(tiers) for answer in tier}


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
