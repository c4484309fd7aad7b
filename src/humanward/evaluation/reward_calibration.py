"""Do a reward's probabilities come true? Expected calibration error, reliability, and what chance alone would give."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humanward.reward.calibration import fit_temperature, probability

BINS = 10
"""Of equal width from .5 to 1: the probability of the answer that the reward prefers."""
SIMULATIONS = 2_000
FOLDS = 5

Floats = NDArray[np.float64]


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike) -> float:
    """Sum over bins of (share of pairs) * |share right - mean confidence|; inputs (N,), confidences in [.5, 1].

    Source: Guo et al. 2017 (arXiv 1706.04599), equation 3, with the two answers of a pair as the classes.
    """
    p, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    gaps = np.bincount(_bins(p), weights=hits - p, minlength=BINS)
    return float(np.abs(gaps).sum() / len(p))


def calibration(differences: ArrayLike, temperature: float | ArrayLike, *, seed: int) -> dict[str, Any]:
    """What reward_evaluation.json holds of probabilities sigmoid(d / T) for differences d (N,), chosen less rejected.

    ``ece`` with ``band``, the 95 % band of a perfectly calibrated model of the same confidences: pairs drawn right with
    exactly the stated probability, ``SIMULATIONS`` times; ``inside`` where the error is not above it. ``nll`` in nats a
    pair. ``bins`` with the mean confidence, the share right and, of the simulation, what 95 % of it gave.
    """
    d = np.asarray(differences, dtype=np.float64)
    confidence = probability(np.abs(d), temperature)  # type: ignore[arg-type]
    right = (np.sign(d) + 1) / 2
    places = _bins(confidence)
    counts = np.bincount(places, minlength=BINS)
    sums = np.bincount(places, weights=confidence, minlength=BINS)
    drawn = _simulated(confidence, places, seed)
    errors = np.abs(drawn - sums).sum(1) / len(d)
    band = [float(x) for x in np.quantile(errors, [0.025, 0.975])]
    ece = expected_calibration_error(confidence, right)
    hits = np.bincount(places, weights=right, minlength=BINS)
    bins = []
    for place in np.flatnonzero(counts):
        within = np.quantile(drawn[:, place] / counts[place], [0.025, 0.975])
        bins.append(
            {
                "low": 0.5 + place * 0.5 / BINS,
                "high": 0.5 + (place + 1) * 0.5 / BINS,
                "n": int(counts[place]),
                "confidence": float(sums[place] / counts[place]),
                "right": float(hits[place] / counts[place]),
                "band": [float(x) for x in within],
            }
        )
    nll = float(np.logaddexp(0, -d / np.asarray(temperature)).mean())
    return {"ece": ece, "band": band, "inside": ece <= band[1], "nll": nll, "n": len(d), "bins": bins}


def cross_fitted(differences: ArrayLike, clusters: Sequence[Hashable], *, seed: int) -> Floats:
    """(N,) temperatures, each fitted on the other folds: no pair has a part in its own. Folds hold whole prompts.

    With fewer prompts than folds, a fold a prompt.
    """
    d = np.asarray(differences, dtype=np.float64)
    names = list(dict.fromkeys(clusters))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = {names[place]: number % min(FOLDS, len(names)) for number, place in enumerate(order)}
    fold = np.array([fold_of[cluster] for cluster in clusters])
    found = np.empty(len(d))
    for number in range(fold.max() + 1):
        rest = d[fold != number]
        found[fold == number] = fit_temperature(rest if len(rest) else d).value
    return found


def _bins(confidence: Floats) -> NDArray[np.int64]:
    return np.clip(((confidence - 0.5) * 2 * BINS).astype(np.int64), 0, BINS - 1)


def _simulated(confidence: Floats, places: NDArray[np.int64], seed: int) -> Floats:
    """(SIMULATIONS, BINS) numbers of right pairs where every pair is right with its stated probability."""
    random = np.random.default_rng(seed)
    member = np.zeros((len(confidence), BINS), dtype=np.float32)
    member[np.arange(len(confidence)), places] = 1
    step = max(1, 4_000_000 // len(confidence))
    parts = []
    for start in range(0, SIMULATIONS, step):
        size = min(step, SIMULATIONS - start)
        parts.append((random.random((size, len(confidence))) < confidence).astype(np.float32) @ member)
    return np.concatenate(parts).astype(np.float64)
