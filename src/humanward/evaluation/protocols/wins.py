"""Win rates: who wins each prompt, how sure that is, and whether a judge prefers a place rather than an answer.

An outcome is 1 where the first model wins, 0 where the second does, .5 for a tie, NaN where it is not known. So the
win rate of (a, b) and that of (b, a) sum to 1, and a model against itself has .5.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from humanward.evaluation.statistics import accuracy, outcomes, paired_difference

FIRST, SECOND, TIE = "first", "second", "tie"
"""A judge's verdict on the answer shown first, the one shown second, or neither."""


@dataclass(frozen=True)
class WinRate:
    """The first model's share of wins, ties half. ``p_value`` and ``effect_size`` are for its distance from .5.

    ``unscored`` counts comparisons without a known outcome, which are in no other number. ``longer_wins``: of the
    decided comparisons between answers of unequal length, the share that the longer answer won, None without any.
    """

    value: float
    ci95: tuple[float, float] | None
    p_value: float
    effect_size: float | None
    n: int
    clusters: int
    wins: int
    ties: int
    losses: int
    unscored: int
    longer_wins: float | None


@dataclass(frozen=True)
class PositionBias:
    """How a judge that saw both orders contradicts itself.

    ``consistent``: share of the ``n`` comparisons parsed in both orders in which both verdicts name the same answer, or
    both a tie. ``first_both`` and ``second_both``: comparisons in which the answer shown first (second) won in both
    orders, so that the place decided. ``p_value``: binomial, that the one happens as often as the other; None where
    neither happened. ``prefers`` is the place that it favours where p < .05.
    """

    n: int
    consistent: float | None
    first_both: int
    second_both: int
    p_value: float | None
    prefers: str | None


def combine_orders(first_shown: str | None, second_shown: str | None) -> float:
    """The outcome for a model from two verdicts: with its answer shown first, and with it shown second.

    A judge that disagrees with itself has not decided: a tie. NaN where a verdict is missing.
    """
    if first_shown is None or second_shown is None:
        return float("nan")
    mirrored = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}[second_shown]
    return {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}[first_shown] if first_shown == mirrored else 0.5


def position_bias(verdicts: Sequence[tuple[str | None, str | None]]) -> PositionBias:
    """What (verdict with a model's answer first, verdict with it second) show of the judge over many comparisons."""
    known = [(one, other) for one, other in verdicts if one is not None and other is not None]
    first = sum(pair == (FIRST, FIRST) for pair in known)
    second = sum(pair == (SECOND, SECOND) for pair in known)
    agree = sum(pair in ((FIRST, SECOND), (SECOND, FIRST), (TIE, TIE)) for pair in known)
    p_value = float(stats.binomtest(first, first + second).pvalue) if first + second else None
    biased = p_value is not None and p_value < 0.05
    return PositionBias(
        n=len(known),
        consistent=agree / len(known) if known else None,
        first_both=first,
        second_both=second,
        p_value=p_value,
        prefers=(FIRST if first > second else SECOND) if biased else None,
    )


def score_outcomes(ours: ArrayLike, theirs: ArrayLike) -> np.ndarray:
    """(N,) outcomes of two models' scores of the same prompts; NaN where either is not known."""
    left, right = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    found = np.full(left.shape, np.nan)
    known = np.isfinite(left) & np.isfinite(right)
    found[known] = outcomes(left[known], right[known])
    return found


def win_rate_of(
    results: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    seed: int,
    lengths: tuple[ArrayLike, ArrayLike] | None = None,
) -> WinRate | None:
    """The win rate of outcomes (N,), with its interval over clusters; None where no outcome is known.

    ``lengths`` are those of the two models' answers, in any unit.
    """
    values = np.asarray(results, dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        return None
    places = np.flatnonzero(known).tolist()
    decided = values[places]
    groups = [clusters[place] for place in places]
    found = accuracy(decided, groups, seed=seed)
    apart = paired_difference(np.full(len(decided), 0.5), decided, groups, seed=seed)
    return WinRate(
        value=found.value,
        ci95=found.ci95,
        p_value=apart.p_value,
        effect_size=apart.effect_size,
        n=found.n,
        clusters=found.clusters,
        wins=int((decided == 1).sum()),
        ties=int((decided == 0.5).sum()),
        losses=int((decided == 0).sum()),
        unscored=int((~known).sum()),
        longer_wins=_longer_wins(decided, places, lengths),
    )


def _longer_wins(
    decided: np.ndarray, places: Sequence[int], lengths: tuple[ArrayLike, ArrayLike] | None
) -> float | None:
    if lengths is None:
        return None
    left, right = (np.asarray(side, dtype=np.float64)[places] for side in lengths)
    clear = (decided != 0.5) & (left != right)
    return float((decided[clear] == (left > right)[clear]).mean()) if clear.any() else None
