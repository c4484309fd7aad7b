"""Is more labelling worth it? Accuracy of reward models trained on growing shares of the same prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humanward.evaluation.reward_accuracy import as_json
from humanward.evaluation.reward_measures import paired
from humanward.evaluation.statistics import accuracy

WORTH = 0.01
"""Accuracy: a gain for twice the pairs that is surely below it is called none."""


@dataclass(frozen=True)
class CurvePoint:
    """Outcomes (N,) on the same held-out pairs, the mean over seeds, of models trained on ``pairs`` of ``prompts``."""

    share: float
    prompts: int
    pairs: int
    right: NDArray[np.float64]


def learning_curve(points: Sequence[CurvePoint], clusters: Sequence[str], *, seed: int) -> dict[str, Any]:
    """What reward_evaluation.json holds under ``learning_curve``.

    ``per_doubling`` is the slope of accuracy over log2(pairs), by least squares over the points: a sum over held-out
    pairs, so its interval resamples prompts as any other. ``last_step`` is the largest share less the one before.
    """
    x = np.array([math.log2(point.pairs) for point in points])
    slope = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    each = np.stack([point.right for point in points])
    gain = paired(np.zeros(each.shape[1]), slope @ each, clusters, seed=seed)
    last = paired(points[-2].right, points[-1].right, clusters, seed=seed)
    return {
        "points": [
            {
                "share": point.share,
                "prompts": point.prompts,
                "pairs": point.pairs,
                "accuracy": as_json(accuracy(point.right, clusters, seed=seed)),
            }
            for point in points
        ],
        "per_doubling": gain,
        "last_step": {**last, "factor": points[-1].pairs / points[-2].pairs},
        "worth": worth(gain["ci95"]),
    }


def worth(ci95: Sequence[float] | None) -> str:
    """``yes`` where twice the pairs surely gained, ``no`` where they surely gained less than a point; ``unsure``."""
    if ci95 is None:
        return "unsure"
    return "yes" if ci95[0] > 0 else "no" if ci95[1] < WORTH else "unsure"
