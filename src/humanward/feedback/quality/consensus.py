"""What the annotators together say about the answers of a prompt: an order with ties, and how settled it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtr

from humanward.feedback.quality.davidson import DavidsonFit, curvature
from humanward.feedback.quality.outcomes import Outcomes
from humanward.feedback.statistics import by_answers
from humanward.preferences import current_rankings
from humanward.records import Ranking


@dataclass(frozen=True)
class Consensus:
    """One set of answers, from ``rankings`` rankings: ``tiers`` best first, ``strength`` by completion id.

    ``uncertainty``, 0 to 1: the mean over pairs of 4 p (1 - p), p the posterior probability that the first is better.
    """

    prompt_id: str
    criterion: str
    tiers: tuple[tuple[str, ...], ...]
    strength: dict[str, float]
    uncertainty: float
    rankings: int
    simulated: bool


def consensus(rankings: Sequence[Ranking], data: Outcomes, fit: DavidsonFit) -> tuple[Consensus, ...]:
    """Of every set of answers that somebody ranked, in order of appearance; ``fit`` is of ``data``, of ``rankings``."""
    number = {answer: index for index, answer in enumerate(data.answers)}
    place: dict[tuple[int, int], list[int]] = {}
    for row, pair in enumerate(zip(data.first.tolist(), data.second.tolist(), strict=True)):
        place.setdefault(pair, []).append(row)
    groups: dict[str, list[Ranking]] = {}
    for ranking in current_rankings(rankings):
        groups.setdefault(ranking.prompt_id, []).append(ranking)
    found = []
    for group in groups.values():
        for same in by_answers(group):
            ids = sorted(c for tier in same[0].tiers for c in tier)
            if len(ids) > 1:
                numbers = [number[same[0].criterion, c] for c in ids]
                found.append(_consensus(same, ids, numbers, place, data, fit))
    return tuple(found)


def _consensus(
    same: Sequence[Ranking],
    ids: Sequence[str],
    numbers: Sequence[int],
    place: dict[tuple[int, int], list[int]],
    data: Outcomes,
    fit: DavidsonFit,
) -> Consensus:
    k = len(ids)
    precision = np.eye(k)
    for i, j in combinations(range(k), 2):
        rows = place.get((numbers[i], numbers[j]), []) + place.get((numbers[j], numbers[i]), [])
        b = fit.discrimination[data.annotator[rows]]
        d = b * (fit.strength[numbers[i]] - fit.strength[numbers[j]])
        told = float((data.weight[rows] * b**2 * curvature(d, fit.tie)).sum())
        precision[[i, j], [i, j]] += told
        precision[[i, j], [j, i]] -= told
    covariance = np.linalg.inv(precision)
    doubt = 0.0
    for i, j in combinations(range(k), 2):
        variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
        p = float(ndtr((fit.strength[numbers[i]] - fit.strength[numbers[j]]) / np.sqrt(variance)))
        doubt += 4 * p * (1 - p)
    return Consensus(
        prompt_id=same[0].prompt_id,
        criterion=same[0].criterion,
        tiers=_tiers(ids, numbers, fit),
        strength={c: float(fit.strength[n]) for c, n in zip(ids, numbers, strict=True)},
        uncertainty=doubt / (k * (k - 1) / 2),
        rankings=len(same),
        simulated=all(ranking.simulated for ranking in same),
    )


def _tiers(ids: Sequence[str], numbers: Sequence[int], fit: DavidsonFit) -> tuple[tuple[str, ...], ...]:
    """By strength; an answer joins the tier before it when a tie with that tier's best is the likeliest outcome."""
    order = sorted(range(len(ids)), key=lambda i: (-fit.strength[numbers[i]], ids[i]))
    tiers: list[list[int]] = []
    for i in order:
        if tiers:
            better, tie, _ = fit.probabilities(numbers[tiers[-1][0]], numbers[i])
            if tie > better or fit.strength[numbers[tiers[-1][0]]] == fit.strength[numbers[i]]:
                tiers[-1].append(i)
                continue
        tiers.append([i])
    return tuple(tuple(ids[i] for i in tier) for tier in tiers)
