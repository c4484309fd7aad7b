"""Noisy Bradley–Terry with ties: how good each answer is, and how reliable each annotator, from their comparisons.

Davidson (1970, JASA 65, 317-328) with a discrimination for every annotator, as Chen et al. (2013, WSDM, Crowd-BT)
give Bradley–Terry a reliability: with d = b_a (s_i - s_j) and Z = exp(d/2) + exp(-d/2) + v, annotator a finds i better
with probability exp(d/2) / Z, j better with exp(-d/2) / Z, and both equal with v / Z. b_a = 1 is the typical annotator,
0 one who guesses, below 0 one who contradicts. Priors keep what few comparisons say finite: s ~ N(0, 1),
b ~ N(1, spread^2), log v ~ N(0, 1). Without any tie v is 0, which is Bradley–Terry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from humanward.feedback.quality.outcomes import Outcomes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DavidsonFit:
    """The most likely values under the priors: ``strength`` (answers), ``discrimination`` (annotators), its standard
    deviation (Laplace, strengths held), v in ``tie``, and whether the fit ended by itself.
    """

    strength: Array
    discrimination: Array
    discrimination_sd: Array
    tie: float
    converged: bool

    def probabilities(self, first: int, second: int, discrimination: float = 1.0) -> tuple[float, float, float]:
        """(first better, tie, second better) for an annotator of that discrimination."""
        d = discrimination * (self.strength[first] - self.strength[second])
        better, worse = math.exp(d / 2), math.exp(-d / 2)
        total = better + worse + self.tie
        return better / total, self.tie / total, worse / total


def fit_davidson(
    data: Outcomes, *, strength_sd: float = 1.0, spread: float = 0.5, tolerance: float = 1e-9, limit: int = 2000
) -> DavidsonFit:
    """The fit; with ``spread=0`` all annotators are typical."""
    answers, people = len(data.answers), len(data.annotators)
    ties = bool((data.outcome == 0).any())

    def split(x: Array) -> tuple[Array, Array, float]:
        s = x[:answers]
        b = x[answers : answers + people] if spread else np.ones(people)
        return s, b, float(np.exp(x[-1])) if ties else 0.0

    def loss(x: Array) -> tuple[float, Array]:
        s, b, v = split(x)
        difference = s[data.first] - s[data.second]
        d = b[data.annotator] * difference
        log_z = _log_z(d, v)
        picked = np.where(data.outcome == 0, x[-1] if ties else 0.0, data.outcome * d / 2)
        value = -float(data.weight @ (picked - log_z)) + float(s @ s) / (2 * strength_sd**2)
        slope = data.weight * (data.outcome / 2 - _slope(d, log_z))
        by_difference = slope * b[data.annotator]
        gradient = np.zeros_like(x)
        gradient[:answers] = s / strength_sd**2
        np.add.at(gradient, data.first, -by_difference)
        np.add.at(gradient, data.second, by_difference)
        if spread:
            value += float((b - 1) @ (b - 1)) / (2 * spread**2)
            own = np.bincount(data.annotator, slope * difference, minlength=people)
            gradient[answers : answers + people] = (b - 1) / spread**2 - own
        if ties:
            value += x[-1] ** 2 / 2
            gradient[-1] = x[-1] - float(data.weight @ ((data.outcome == 0) - v * np.exp(-log_z)))
        return value, gradient

    start = np.concatenate([np.zeros(answers), np.ones(people if spread else 0), np.zeros(int(ties))])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", tol=tolerance, options={"maxiter": limit})
    s, b, v = split(found.x)
    difference = s[data.first] - s[data.second]
    d = b[data.annotator] * difference
    information = np.bincount(data.annotator, data.weight * difference**2 * curvature(d, v), minlength=people) + (
        1 / spread**2 if spread else np.inf
    )
    return DavidsonFit(s, np.asarray(b), 1 / np.sqrt(information), v, bool(found.success))


def curvature(d: Array, v: float) -> Array:
    """The second derivative of log Z by d: how much one comparison tells about it."""
    log_z = _log_z(d, v)
    return (np.exp(d / 2 - log_z) + np.exp(-d / 2 - log_z)) / 4 - _slope(d, log_z) ** 2


def reliability(discrimination: float) -> float:
    """tanh(b / 2), -1 to 1: by how much more often the annotator prefers the better than the worse of two answers whose
    qualities differ by one standard deviation of the prior, ties apart.
    """
    return math.tanh(discrimination / 2)


def _log_z(d: Array, v: float) -> Array:
    top = np.abs(d) / 2
    return top + np.log1p(np.exp(-2 * top) + v * np.exp(-top))


def _slope(d: Array, log_z: Array) -> Array:
    return (np.exp(d / 2 - log_z) - np.exp(-d / 2 - log_z)) / 2
