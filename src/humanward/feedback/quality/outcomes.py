"""Rankings as comparisons of two answers each, numbered for the fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from humanward.feedback.statistics import rank_of
from humanward.preferences import current_rankings
from humanward.records import Ranking

Subject = tuple[str, str]
"""(criterion, completion id): an answer's quality may differ by criterion."""


@dataclass(frozen=True)
class Outcomes:
    """N comparisons by annotators: ``first`` and ``second`` number the answers in ``answers``, whose ids are in order
    within a comparison; ``outcome`` is 1 when the first is better, -1 when the second is, 0 for a tie.

    A ranking of K answers has K (K - 1) / 2 comparisons that are not independent; each weighs 2 / K, so that the
    ranking weighs K - 1, as many comparisons as could make it.
    """

    annotators: tuple[str, ...]
    answers: tuple[Subject, ...]
    annotator: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    outcome: NDArray[np.int64]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.outcome)


def outcomes_of(rankings: Sequence[Ranking]) -> Outcomes:
    """The comparisons of the rankings in force, annotators and answers numbered in order of appearance."""
    annotators: dict[str, int] = {}
    answers: dict[Subject, int] = {}
    rows: list[tuple[int, int, int, int, float]] = []
    for ranking in current_rankings(rankings):
        ranks = rank_of(ranking)
        if len(ranks) < 2:
            continue
        who = annotators.setdefault(ranking.annotator, len(annotators))
        number = {c: answers.setdefault((ranking.criterion, c), len(answers)) for c in ranks}
        for a, b in combinations(ranks, 2):
            rows.append((who, number[a], number[b], int(np.sign(ranks[b] - ranks[a])), 2 / len(ranks)))
    return _outcomes(tuple(annotators), tuple(answers), rows)


def _outcomes(
    annotators: tuple[str, ...], answers: tuple[Subject, ...], rows: Iterable[tuple[int, int, int, int, float]]
) -> Outcomes:
    table = list(rows)
    columns = [np.array([row[i] for row in table], dtype=np.int64) for i in range(4)]
    weight = np.array([row[4] for row in table], dtype=np.float64)
    return Outcomes(annotators, answers, columns[0], columns[1], columns[2], columns[3], weight)
