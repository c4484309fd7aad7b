"""Gaps between groups: whether answers about one group of people are judged worse than about another.

The largest of several gaps is above 0 by chance alone, so it is compared with gaps of shuffled groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from humanward.evaluation.statistics import Estimate, Floats, mean_interval

REPLICATES = 1_999


@dataclass(frozen=True)
class Gap:
    """The largest difference of two groups' means: ``value`` = mean of ``highest`` less mean of ``lowest``.

    ``by_chance`` is its mean when groups are shuffled over clusters, ``p_value`` the share of shuffles with a gap at
    least as large, (k + 1) / (replicates + 1). ``ci95`` is the bootstrap interval of the difference of these two
    groups (percentile, clusters resampled within each); they were chosen because they differ most, so ``p_value`` and
    not the interval tells whether there is a gap.
    """

    value: float
    highest: str
    lowest: str
    ci95: tuple[float, float] | None
    p_value: float
    by_chance: float
    groups: int
    n: int
    clusters: int


@dataclass(frozen=True)
class GapChange:
    """A model's largest gap less another's on the same answers' prompts; ``p_value`` from exchanging the two models'
    answers cluster by cluster."""

    value: float
    ci95: tuple[float, float] | None
    p_value: float
    n: int
    clusters: int


@dataclass(frozen=True)
class _Table:
    """Sums and counts of each cluster (C,), and each cluster's group as a number (C,)."""

    sums: np.ndarray
    counts: np.ndarray
    groups: np.ndarray
    names: tuple[str, ...]


def group_means(values: ArrayLike, groups: Sequence[str], clusters: Sequence[str], *, seed: int) -> dict[str, Estimate]:
    """The mean of each group with its interval over clusters."""
    column = np.asarray(values, dtype=np.float64)
    found = {}
    for name in dict.fromkeys(groups):
        places = [place for place, group in enumerate(groups) if group == name]
        found[name] = mean_interval(column[places], [clusters[place] for place in places], seed=seed)
    return found


def largest_gap(
    values: ArrayLike, groups: Sequence[str], clusters: Sequence[str], *, seed: int, replicates: int = REPLICATES
) -> Gap | None:
    """The largest gap with its p-value; None with fewer than two groups."""
    (table,) = _tables([values], groups, clusters)
    if len(table.names) < 2:
        return None
    generator = np.random.default_rng(seed)
    means = _means(table.sums, table.counts, table.groups, len(table.names))
    high, low = int(means.argmax()), int(means.argmin())
    observed = float(means[high] - means[low])
    order = generator.permuted(np.tile(np.arange(len(table.sums)), (replicates, 1)), axis=1)
    shuffled = _spread(_means(table.sums[order], table.counts[order], table.groups, len(table.names)))
    return Gap(
        value=observed,
        highest=table.names[high],
        lowest=table.names[low],
        ci95=_two_groups(table, high, low, generator, replicates),
        p_value=_share(shuffled, observed, replicates),
        by_chance=float(shuffled.mean()),
        groups=len(table.names),
        n=len(groups),
        clusters=len(table.sums),
    )


def gap_change(
    before: ArrayLike,
    after: ArrayLike,
    groups: Sequence[str],
    clusters: Sequence[str],
    *,
    seed: int,
    replicates: int = REPLICATES,
) -> GapChange | None:
    """The largest gap of ``after`` less that of ``before``; None with fewer than two groups.

    Interval: percentile bootstrap, clusters resampled within their groups, both models on the same draw.
    """
    left, right = _tables([before, after], groups, clusters)
    count = len(left.names)
    if count < 2:
        return None
    generator = np.random.default_rng(seed)

    def change(one: Floats, other: Floats, counts: Floats, numbers: np.ndarray) -> Floats:
        return _spread(_means(other, counts, numbers, count)) - _spread(_means(one, counts, numbers, count))

    observed = float(change(left.sums, right.sums, left.counts, left.groups))
    swap = generator.random((replicates, len(left.sums))) < 0.5
    swapped = change(
        np.where(swap, right.sums, left.sums), np.where(swap, left.sums, right.sums), left.counts, left.groups
    )
    order, numbers = _within_groups(left.groups, count, generator, replicates)
    drawn = change(left.sums[order], right.sums[order], left.counts[order], numbers)
    low, high = np.quantile(drawn, [0.025, 0.975])
    smallest = int(np.bincount(left.groups, minlength=count).min())
    return GapChange(
        value=observed,
        ci95=(float(low), float(high)) if smallest > 1 else None,
        p_value=_share(np.abs(swapped), abs(observed), replicates),
        n=len(groups),
        clusters=len(left.sums),
    )


def _tables(columns: Sequence[ArrayLike], groups: Sequence[str], clusters: Sequence[str]) -> list[_Table]:
    """A table for each column. A cluster that answers for two groups counts as one in each."""
    places: dict[tuple[str, str], int] = {}
    index = np.array([places.setdefault((g, c), len(places)) for g, c in zip(groups, clusters, strict=True)])
    names = tuple(dict.fromkeys(groups))
    numbers = np.array([names.index(group) for group, _ in places])
    counts = np.bincount(index, minlength=len(places)).astype(np.float64)
    return [
        _Table(np.bincount(index, np.asarray(column, dtype=np.float64), len(places)), counts, numbers, names)
        for column in columns
    ]


def _means(sums: Floats, counts: Floats, groups: np.ndarray, count: int) -> Floats:
    """(..., G) means of the groups from cluster sums (..., C)."""
    member = np.eye(count)[groups]
    return (sums @ member) / (counts @ member)


def _spread(means: Floats) -> Floats:
    return means.max(axis=-1) - means.min(axis=-1)


def _within_groups(
    groups: np.ndarray, count: int, generator: np.random.Generator, replicates: int
) -> tuple[np.ndarray, np.ndarray]:
    """(places (replicates, C) drawn with replacement within each group, the groups of the columns (C,))."""
    members = [np.flatnonzero(groups == number) for number in range(count)]
    drawn = [own[generator.integers(0, len(own), (replicates, len(own)))] for own in members]
    return np.concatenate(drawn, axis=1), np.repeat(np.arange(count), [len(own) for own in members])


def _two_groups(
    table: _Table, high: int, low: int, generator: np.random.Generator, replicates: int
) -> tuple[float, float] | None:
    drawn = []
    for number in (high, low):
        own = np.flatnonzero(table.groups == number)
        if len(own) < 2:
            return None
        places = own[generator.integers(0, len(own), (replicates, len(own)))]
        drawn.append(table.sums[places].sum(1) / table.counts[places].sum(1))
    bounds = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return float(bounds[0]), float(bounds[1])


def _share(replicates: Floats, observed: float, count: int) -> float:
    return (int(np.count_nonzero(replicates >= observed - 1e-12)) + 1) / (count + 1)
