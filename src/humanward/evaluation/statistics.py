"""Intervals and tests for items that come in groups: several responses or pairs of one prompt.

Every item weighs the same; what is resampled, flipped or left out is always a whole prompt (the cluster), because
the responses to one prompt are not independent. C is the number of clusters, N the number of items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import ndtr, ndtri

from humanward.errors import InputError

RESAMPLES = 9_999
PERMUTATIONS = 9_999
_CHUNK = 2_000_000  # elements of a resampling matrix held at once

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Estimate:
    """A mean, rate or ratio: ``n`` items in ``clusters`` prompts; ``ci95`` is None where no interval exists."""

    value: float
    ci95: tuple[float, float] | None
    n: int
    clusters: int


@dataclass(frozen=True)
class Difference:
    """After minus before on the same items; ``effect_size`` is None when the differences do not vary."""

    mean: float
    ci95: tuple[float, float] | None
    p_value: float
    effect_size: float | None
    n: int
    clusters: int

    @property
    def excludes_zero(self) -> bool:
        """True when there is an interval and zero lies outside it."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)


def cluster_sums(clusters: Sequence[Hashable], *columns: ArrayLike) -> Floats:
    """(C, K) sums of each of the K columns (N,) over the items of each cluster, clusters in order of appearance.

    Raises InputError for no items, columns of another length, or values that are not finite.
    """
    if len(clusters) == 0:
        raise InputError("statistics: 0 items; give at least one")
    place: dict[Hashable, int] = {}
    index = np.array([place.setdefault(cluster, len(place)) for cluster in clusters])
    sums = np.zeros((len(place), len(columns)))
    for k, column in enumerate(columns):
        values = np.asarray(column, dtype=np.float64)
        if values.shape != index.shape:
            raise InputError(f"statistics: {values.size} values for {index.size} clusters; give one value an item")
        if not np.isfinite(values).all():
            raise InputError("statistics: a value is not finite; leave unscored items out and count them")
        np.add.at(sums[:, k], index, values)
    return sums


def ratio(sums: Floats) -> Floats:
    """(...,) first column over second of (..., 2) sums: the mean when the second counts items."""
    return sums[..., 0] / sums[..., 1]


def bca_interval(
    columns: Floats,
    statistic: Statistic = ratio,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    small_sample: bool = True,
) -> tuple[float, float] | None:
    """Bias-corrected and accelerated bootstrap interval of ``statistic`` of the column sums, clusters resampled.

    ``columns`` (C, K) are sums per cluster; ``statistic`` maps (..., K) totals to (...,). The acceleration comes from
    the jackknife over clusters. Source: Efron 1987, "Better Bootstrap Confidence Intervals", section 3.
    Deviation with ``small_sample``: the nominal tails are widened to Phi(-t sqrt(C/(C-1))), t the Student quantile
    with C-1 degrees of freedom, because bootstrap intervals of a mean are too narrow when C is small
    (Hesterberg 2015, arXiv 1411.5279, section 5.3).
    None with fewer than two clusters, or when a resample leaves the statistic undefined.
    """
    count = len(columns)
    if count < 2:
        return None
    total = columns.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(statistic(total))
        left_out = statistic(total - columns)
        replicates = statistic(_resampled_totals(columns, resamples, seed))
    if not (math.isfinite(estimate) and np.isfinite(left_out).all() and np.isfinite(replicates).all()):
        return None
    deviation = left_out.mean() - left_out
    tolerance = 1e-12 * max(1.0, abs(estimate))
    if np.abs(deviation).max() <= tolerance:
        return estimate, estimate
    acceleration = float((deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5))
    below = np.count_nonzero(replicates < estimate - tolerance)
    not_above = np.count_nonzero(replicates <= estimate + tolerance)
    bias = float(ndtri(np.clip((below + not_above) / (2 * resamples), 0.5 / resamples, 1 - 0.5 / resamples)))
    reach = float(ndtri((1 + level) / 2))
    if small_sample:
        reach = math.sqrt(count / (count - 1)) * float(stats.t.ppf((1 + level) / 2, count - 1))
    low, high = (_bca_quantile(z, bias, acceleration) for z in (-reach, reach))
    bounds = np.quantile(replicates, [low, high])
    return float(bounds[0]), float(bounds[1])


def mean_interval(
    values: ArrayLike, clusters: Sequence[Hashable], *, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """The mean of all items (N,) with its 95 % interval over clusters."""
    columns = cluster_sums(clusters, values, np.ones(len(clusters)))
    return Estimate(
        float(ratio(columns.sum(axis=0))),
        bca_interval(columns, seed=seed, resamples=resamples),
        len(clusters),
        len(columns),
    )


def paired_difference(
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
) -> Difference:
    """Mean of after - before over the same items, with interval, permutation p-value and effect size."""
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    columns = cluster_sums(clusters, change, np.ones(len(clusters)))
    return Difference(
        mean=float(ratio(columns.sum(axis=0))),
        ci95=bca_interval(columns, seed=seed, resamples=resamples),
        p_value=sign_flip_p_value(columns[:, 0], seed=seed, permutations=permutations),
        effect_size=cohens_d(ratio(columns)),
        n=len(clusters),
        clusters=len(columns),
    )


def sign_flip_p_value(sums: ArrayLike, *, seed: int, permutations: int = PERMUTATIONS) -> float:
    """Two-sided p-value of "each cluster's difference is as likely positive as negative", from sign flips of (C,) sums.

    All 2^C flips when there are at most ``permutations`` + 1 of them, else (k + 1) / (permutations + 1) with k the
    random flips at least as far from 0 as the observed total. Never 0.
    Source: Phipson and Smyth 2010, "Permutation p-values should never be zero".
    """
    values = np.asarray(sums, dtype=np.float64)
    count = len(values)
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if 2**count <= permutations + 1:
        flips = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs((2 * flips - 1) @ values) >= observed))
    generator = np.random.default_rng(seed)
    extreme = 0
    for size in _chunk_sizes(permutations, count):
        signs = 2.0 * generator.integers(0, 2, size=(size, count), dtype=np.int8) - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ values) >= observed))
    return (extreme + 1) / (permutations + 1)


def cohens_d(differences: ArrayLike) -> float | None:
    """Mean over standard deviation (n - 1) of paired differences, one a cluster (d_z); None when they do not vary."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return None
    deviation = float(values.std(ddof=1))
    return None if deviation <= 1e-12 * max(1.0, float(np.abs(values).max())) else float(values.mean()) / deviation


def outcomes(chosen: ArrayLike, rejected: ArrayLike) -> Floats:
    """(N,) 1 where the first score is higher, 0 where it is lower, .5 where they tie."""
    first, second = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(f"outcomes: {first.size} and {second.size} scores; give one of each an item")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("outcomes: a score is not finite; leave unscored items out and count them")
    return (np.sign(first - second) + 1) / 2


def win_rate(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Share of items on which ``ours`` scores higher, ties half: wr(m, m) = .5 and wr(a, b) = 1 - wr(b, a)."""
    return float(outcomes(ours, theirs).mean())


def accuracy(results: ArrayLike, clusters: Sequence[Hashable], *, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Mean of outcomes in {0, .5, 1} with its 95 % interval over clusters.

    Where every cluster is all right or all wrong alike the bootstrap cannot vary; the interval is then the exact
    binomial one over clusters (Clopper-Pearson), not a point.
    """
    estimate = mean_interval(results, clusters, seed=seed, resamples=resamples)
    if not 0 <= estimate.value <= 1:
        raise InputError(f"accuracy: the mean outcome is {estimate.value}; outcomes are 0, .5 (tie) or 1")
    if estimate.value not in (0.0, 1.0):
        return estimate
    bound = 0.025 ** (1 / estimate.clusters)
    exact = (bound, 1.0) if estimate.value == 1 else (0.0, 1 - bound)
    return Estimate(estimate.value, exact, estimate.n, estimate.clusters)


def accuracy_difference(
    ours: ArrayLike, baseline: ArrayLike, clusters: Sequence[Hashable], *, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """Accuracy of ``ours`` minus that of ``baseline``, outcomes on the same items, paired and clustered."""
    return paired_difference(baseline, ours, clusters, seed=seed, resamples=resamples)


def _bca_quantile(z: float, bias: float, acceleration: float) -> float:
    """Where BCa reads the replicates for a normal quantile z: Phi(z0 + (z0 + z) / (1 - a (z0 + z)))."""
    shifted = bias + z
    scale = 1 - acceleration * shifted
    if scale <= 0:  # beyond the pole of the transformation the bound is the extreme replicate
        return 1.0 if shifted > 0 else 0.0
    return float(ndtr(bias + shifted / scale))


def _resampled_totals(columns: Floats, resamples: int, seed: int) -> Floats:
    """(resamples, K) totals of C clusters drawn with replacement."""
    generator = np.random.default_rng(seed)
    count = len(columns)
    parts = []
    for size in _chunk_sizes(resamples, count):
        drawn = generator.integers(0, count, size=(size, count))
        parts.append(np.stack([column[drawn].sum(axis=1) for column in columns.T], axis=-1))
    return np.concatenate(parts)


def _chunk_sizes(rows: int, width: int) -> list[int]:
    size = max(1, _CHUNK // max(1, width))
    return [min(size, rows - start) for start in range(0, rows, size)]
