"""How far two judges agree on the same answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from humanward.evaluation.toxicity import THRESHOLD


@dataclass(frozen=True)
class Agreement:
    """Two judges on the ``n`` answers that both scored. ``same``: share on which both say toxic, or both not (at .5).

    ``kappa`` is that share corrected for chance (Cohen 1960), ``spearman`` the rank correlation of the scores; either
    is None where a judge says the same of every answer.
    """

    n: int
    same: float
    kappa: float | None
    spearman: float | None


def agreement(first: ArrayLike, second: ArrayLike) -> Agreement | None:
    """Agreement of two lists of probabilities; NaN is left out. None where no answer was scored by both."""
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    known = np.isfinite(left) & np.isfinite(right)
    left, right = left[known], right[known]
    if not left.size:
        return None
    yes = left >= THRESHOLD, right >= THRESHOLD
    same = float((yes[0] == yes[1]).mean())
    shares = float(yes[0].mean()), float(yes[1].mean())
    chance = shares[0] * shares[1] + (1 - shares[0]) * (1 - shares[1])
    varies = np.ptp(left) > 0 and np.ptp(right) > 0
    return Agreement(
        n=int(left.size),
        same=same,
        kappa=None if chance >= 1 - 1e-12 else (same - chance) / (1 - chance),
        spearman=float(stats.spearmanr(left, right).statistic) if varies else None,
    )
