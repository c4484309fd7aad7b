"""Intervals over several seeds that answered the same prompts: seeds and prompts are both a sample.

Y[s, p] is seed s (of S) on prompt p (of P), answers of one prompt averaged. Every seed answers the same prompts, so
seeds and prompts are crossed: Y[s, p] = mean + seed + prompt + rest. An interval over seed means alone takes the
prompts for the only ones there are; a bootstrap of five seeds takes five for many (both simulated: docs/compare.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from humanward.errors import InputError
from humanward.evaluation.statistics import Floats

TIE = 0.01  # judged toxicity, or the gold score, closer than this counts as a tie
SMALLEST_P = 1e-12


@dataclass(frozen=True)
class OverSeeds:
    """A mean over seeds, and over prompts where ``prompts`` is not None. ``ci95`` is None with one seed.

    ``spread`` is the standard deviation of the seeds' own means (S - 1), None with one.
    """

    value: float
    ci95: tuple[float, float] | None
    seeds: int
    prompts: int | None
    spread: float | None


@dataclass(frozen=True)
class SeedDifference:
    """A difference of two algorithms on the same seeds and prompts; ``p_value`` belongs to ``ci95`` and is None where
    that is; ``p_holm`` is adjusted for all pairs that were compared (``holm``)."""

    value: float
    ci95: tuple[float, float] | None
    p_value: float | None
    p_holm: float | None
    seeds: int
    prompts: int | None

    @property
    def excludes_zero(self) -> bool:
        """True when there is an interval and zero lies outside it."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)


@dataclass(frozen=True)
class Errors:
    """The squared standard error of a mean in two parts: of seeds (S - 1 degrees of freedom) with the rest, and what
    another draw of prompts adds (P - 1)."""

    of_seeds: float
    of_prompts: float
    seeds: int
    prompts: int

    def half_width(self, p: float) -> float:
        """Half the width of the two-sided interval that leaves ``p`` outside:
        sqrt(t[S-1]^2 of_seeds + t[P-1]^2 of_prompts), t the Student quantiles at 1 - p/2.

        Each part has its own degrees of freedom (Howe 1974; Graybill and Wang 1980; "square-and-add", Zou and Donner
        2008). Equal to Student's interval over seed means where prompts do not differ.
        """
        squared = 0.0
        for part, count in ((self.of_seeds, self.seeds), (self.of_prompts, self.prompts)):
            if part > 0:
                squared += float(stdtrit(count - 1, p / 2)) ** 2 * part
        return math.sqrt(squared)

    def p_value(self, mean: float) -> float:
        """The p whose interval around ``mean`` ends at 0, found by bisection; never below ``SMALLEST_P``."""
        if self.half_width(1.0) >= abs(mean):
            return 1.0
        low, high = math.log(SMALLEST_P), 0.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.half_width(math.exp(middle)) >= abs(mean) else (low, middle)
        return math.exp(high)


def errors(table: ArrayLike) -> Errors | None:
    """The standard error of the mean of a (S, P) table from its analysis of variance; None with one seed.

    With mean squares of seeds MS, prompts MP and the rest MR (two-way layout, one value a cell):
    of_seeds = MS / (S P), whose expectation is var(seed) / S + var(rest) / (S P); of_prompts = max(0, MP - MR) / (S P),
    whose expectation is var(prompt) / P. With one prompt the first alone.
    """
    values = _table(table)
    seeds, prompts = values.shape
    if seeds < 2:
        return None
    mean, by_seed, by_prompt = values.mean(), values.mean(axis=1), values.mean(axis=0)
    seed_square = prompts * float(by_seed.var(ddof=1))
    if prompts == 1:
        return Errors(seed_square / seeds, 0.0, seeds, 1)
    prompt_square = seeds * float(by_prompt.var(ddof=1))
    rest = values - by_seed[:, None] - by_prompt[None, :] + mean
    rest_square = float((rest**2).sum()) / ((seeds - 1) * (prompts - 1))
    cells = seeds * prompts
    return Errors(seed_square / cells, max(0.0, prompt_square - rest_square) / cells, seeds, prompts)


def crossed(table: ArrayLike) -> OverSeeds:
    """The mean of a (S, P) table with its 95 % interval over seeds and prompts."""
    values = _table(table)
    mean, error = float(values.mean()), errors(values)
    return OverSeeds(mean, _around(mean, error), len(values), values.shape[1], _spread(values.mean(axis=1)))


def over_seeds(values: ArrayLike) -> OverSeeds:
    """The mean of one number a seed (S,) with Student's 95 % interval: for what is not a mean over prompts."""
    column = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    found = crossed(column)
    return OverSeeds(found.value, found.ci95, found.seeds, None, found.spread)


def crossed_difference(ours: ArrayLike, theirs: ArrayLike) -> SeedDifference:
    """Mean of ours - theirs, both (S, P) on the same seeds and prompts, with interval and p-value (not adjusted)."""
    left, right = _table(ours), _table(theirs)
    if left.shape != right.shape:
        raise InputError(f"comparison: tables of {left.shape} and {right.shape}; give the same seeds and prompts")
    change = left - right
    mean, error = float(change.mean()), errors(change)
    p_value = None if error is None else error.p_value(mean)
    return SeedDifference(mean, _around(mean, error), p_value, None, *change.shape)


def difference_over_seeds(ours: ArrayLike, theirs: ArrayLike) -> SeedDifference:
    """The same for one number a seed (S,)."""
    columns = (np.asarray(side, dtype=np.float64).reshape(-1, 1) for side in (ours, theirs))
    found = crossed_difference(*columns)
    return SeedDifference(found.value, found.ci95, found.p_value, None, found.seeds, None)


def relative(after: ArrayLike, before: ArrayLike) -> OverSeeds | None:
    """mean(after) / mean(before) - 1 with its 95 % interval by the delta method; None where mean(before) is 0.

    With R the ratio of the means, the mean of (after - R before) / mean(before) over the cells has, to first order, the
    error of R; its table goes through the same analysis of variance.
    """
    top, bottom = _table(after), _table(before)
    base = float(bottom.mean())
    if base == 0:
        return None
    share = float(top.mean()) / base
    error = errors((top - share * bottom) / base)
    by_seed = top.mean(axis=1) / bottom.mean(axis=1) - 1 if (bottom.mean(axis=1) != 0).all() else None
    spread = None if by_seed is None else _spread(by_seed)
    return OverSeeds(share - 1, _around(share - 1, error), len(top), top.shape[1], spread)


def wins(ours: ArrayLike, theirs: ArrayLike, *, tie: float = TIE) -> Floats:
    """1 where ``ours`` is higher than ``theirs`` by more than ``tie``, 0 where it is lower by more, else .5."""
    change = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    # A difference of exactly the tie must not depend on how .31 - .30 rounds.
    return np.where(np.abs(change) <= tie + 1e-12, 0.5, (np.sign(change) + 1) / 2)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) adjusted p-values, in the order given; None stays None and is not counted.

    The i-th smallest of m is multiplied by m - i + 1, none may be below an earlier one, and none exceeds 1.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = highest
    return adjusted


def _around(mean: float, error: Errors | None) -> tuple[float, float] | None:
    if error is None:
        return None
    half = error.half_width(0.05)
    return mean - half, mean + half


def _spread(means: Floats) -> float | None:
    return float(means.std(ddof=1)) if len(means) > 1 else None


def _table(values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise InputError(f"comparison: a table of shape {table.shape}; give one value for every seed and prompt")
    if not np.isfinite(table).all():
        raise InputError("comparison: a value is not finite; leave unscored prompts out and count them")
    return table
