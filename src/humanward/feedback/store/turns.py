"""In which order tasks come: those most worth another opinion first.

A task with opinions comes before one without, so that its overlap is completed, the least settled first; tasks without
opinions come by the ``uncertainty`` imported with them (of a reward-model ensemble, say), then as they arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Tiers = Sequence[Sequence[str]]


def turn(opinions: Sequence[Sequence[Tiers]], uncertainty: float | None) -> float:
    """Lower comes first: -2 to -1 with opinions, -1 to 0 without; ``opinions[i]`` are the rankings by criterion i."""
    judged = [rankings for rankings in opinions if rankings]
    if judged:
        return -1 - max(consensus_uncertainty(rankings) for rankings in judged)
    return -squash(uncertainty)


def squash(uncertainty: float | None) -> float:
    """0 to 1, rising with any uncertainty of 0 or more; 0 for none."""
    return 0.0 if uncertainty is None else uncertainty / (1 + uncertainty)


def consensus_uncertainty(rankings: Sequence[Tiers]) -> float:
    """How open the order of the answers is, 0 to 1: the mean over their pairs of 4 p (1 - p).

    p is the mean of a Beta(1, 1) belief that the first answer is the better one, after every ranking that says so, with
    a tie counted half for each.
    """
    places = [_places(tiers) for tiers in rankings if tiers]
    if not places:
        return 1.0
    total, count = 0.0, 0
    for first, second in combinations(sorted(set().union(*places)), 2):
        judged = [place for place in places if first in place and second in place]
        wins = sum((p[first] < p[second]) + 0.5 * (p[first] == p[second]) for p in judged)
        share = (wins + 1) / (len(judged) + 2)
        total += 4 * share * (1 - share)
        count += 1
    return total / count if count else 1.0


def disagreement(rankings: Sequence[Tiers]) -> float | None:
    """The share of pairs of answers that two annotators judged differently, a tie being a third outcome.

    None below two rankings.
    """
    places = [_places(tiers) for tiers in rankings if tiers]
    differing = total = 0
    for one, other in combinations(places, 2):
        for first, second in combinations(sorted(one.keys() & other.keys()), 2):
            total += 1
            differing += _sign(one, first, second) != _sign(other, first, second)
    return differing / total if total else None


def _places(tiers: Tiers) -> dict[str, int]:
    return {answer: place for place, tier in enumerate(tiers) for answer in tier}


def _sign(places: dict[str, int], first: str, second: str) -> int:
    return (places[first] > places[second]) - (places[first] < places[second])
