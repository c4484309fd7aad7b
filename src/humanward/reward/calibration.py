"""Temperature: how a difference of scores becomes the probability that people prefer the first answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

LEAST, LARGEST = 1e-3, 1e3


@dataclass(frozen=True)
class Temperature:
    """P(first preferred) = sigmoid(difference / ``value``). ``nll`` in nats a pair, before (at 1) and after, over ``n``
    strict pairs. ``bounded`` where the best value lies outside 0.001 to 1000: the pairs are all right, or no better
    than chance."""

    value: float
    nll_before: float
    nll_after: float
    n: int
    bounded: bool


def fit_temperature(differences: ArrayLike, weights: Sequence[float] | None = None) -> Temperature:
    """The temperature that makes the differences (N,), chosen less rejected of held-out strict pairs, most likely.

    Minimises the weighted mean of log(1 + exp(-d / T)), which is convex in 1 / T. Source: Guo et al. 2017 (arXiv
    1706.04599), section 4.2, for two classes.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) == 0 or not np.isfinite(d).all():
        raise ValueError(f"a temperature needs finite differences, got {len(d)}")
    share = np.ones(len(d)) if weights is None else np.asarray(weights, dtype=np.float64)

    def nll(log_t: float) -> float:
        return float(np.average(np.logaddexp(0, -d / np.exp(log_t)), weights=share))

    found = minimize_scalar(nll, bounds=(np.log(LEAST), np.log(LARGEST)), method="bounded", options={"xatol": 1e-6})
    value = float(np.exp(found.x))
    bounded = not LEAST * 1.01 < value < LARGEST / 1.01
    return Temperature(value, nll(0.0), nll(float(found.x)), len(d), bounded)


def probability(differences: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """(N,) sigmoid(difference / temperature), without overflow."""
    return np.exp(-np.logaddexp(0, -np.asarray(differences, dtype=np.float64) / temperature))
