"""How far people agree, and how they work: alpha, W, pairwise agreement with intervals, position bias, seconds.

All take the rankings that count (``preferences.current_rankings``). What is undefined is None, never 0: one annotator
alone, or answers that everybody tied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humanward.preferences import current_rankings
from humanward.records import Ranking

Array = NDArray[np.float64]
Metric = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, over ``n`` prompts resampled whole; None where undefined."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class PositionBias:
    """How often the single best answer stood first on the screen; ``expected`` is what a fair order gives.

    ``p_value`` is two-sided, normal approximation; ``best_at`` counts the best answer's places.
    """

    n: int
    first_share: float | None
    expected: float | None
    p_value: float | None
    best_at: dict[int, int]


@dataclass(frozen=True)
class AnnotatorStatistics:
    """One annotator's work; ``agreement`` is the share of pairs judged as the others did, None without others."""

    annotator: str
    simulated: bool
    rankings: int
    none_acceptable: int
    tie_share: float | None
    agreement: float | None
    position: PositionBias
    median_seconds: float | None


@dataclass(frozen=True)
class FeedbackStatistics:
    """The whole picture of some rankings. ``kendall_w`` is the mean over sets of answers that several people ranked,
    ``agreement`` the share of pairs that two annotators judged alike, ``agreement_strict`` without pairs either tied.
    """

    rankings: int
    superseded: int
    simulated: int
    prompts: int
    prompts_with_overlap: int
    none_acceptable: int
    pairs: int
    ties: int
    alpha: Estimate
    kendall_w: Estimate
    agreement: Estimate
    agreement_strict: Estimate
    position: PositionBias
    seconds: dict[str, float] | None
    annotators: tuple[AnnotatorStatistics, ...]


def krippendorff_alpha(values: ArrayLike, metric: Metric = "ordinal") -> float | None:
    """Krippendorff's alpha of ``values`` (annotators, units), NaN where missing; None where no disagreement can be.

    alpha = 1 - observed / expected disagreement over the coincidences of values within units. Units with one value are
    left out. Source: Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, sections B to E.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"values have shape {table.shape}; expected (annotators, units)")
    levels = np.unique(table[~np.isnan(table)])
    coincidences = sum((_coincidences(unit, levels) for unit in table.T), np.zeros((len(levels), len(levels))))
    return _alpha(coincidences, levels, metric)


def kendall_w(ranks: ArrayLike) -> float | None:
    """Kendall's coefficient of concordance of ``ranks`` (annotators m, answers n), corrected for ties.

    W = (12 S) / (m^2 (n^3 - n) - m T), S the squared deviations of the rank sums, T the sum of t^3 - t over the groups
    of t tied answers; None when everybody tied everything or there are fewer than two answers or annotators.
    Source: Kendall and Gibbons, Rank Correlation Methods, 5th edition, chapter 6.
    """
    table = np.asarray(ranks, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"ranks have shape {table.shape}; expected (annotators, answers)")
    m, n = table.shape
    if m < 2 or n < 2:
        return None
    places = np.array([_midranks(row) for row in table])
    sums = places.sum(axis=0)
    squares = float(((sums - sums.mean()) ** 2).sum())
    tied = sum(count**3 - count for row in table for count in np.unique(row, return_counts=True)[1])
    denominator = m**2 * (n**3 - n) - m * int(tied)
    return 12 * squares / denominator if denominator else None


def position_bias(rankings: Iterable[Ranking]) -> PositionBias:
    """Over the rankings that name one best answer and the order shown."""
    best_at: Counter[int] = Counter()
    chances = []
    for ranking in rankings:
        if ranking.tiers and len(ranking.tiers[0]) == 1 and ranking.tiers[0][0] in ranking.shown_order:
            best_at[ranking.shown_order.index(ranking.tiers[0][0]) + 1] += 1
            chances.append(1 / len(ranking.shown_order))
    n = len(chances)
    if not n:
        return PositionBias(0, None, None, None, {})
    spread = math.sqrt(sum(p * (1 - p) for p in chances))
    z = (best_at[1] - sum(chances)) / spread
    return PositionBias(
        n, best_at[1] / n, sum(chances) / n, math.erfc(abs(z) / math.sqrt(2)), dict(sorted(best_at.items()))
    )


def feedback_statistics(rankings: Sequence[Ranking], *, resamples: int = 1000, seed: int = 0) -> FeedbackStatistics:
    """Everything about the rankings that count. Intervals are percentiles of a bootstrap over whole prompts."""
    live = current_rankings(rankings)
    prompts = _by_prompt(live)
    overlapping = [group for group in prompts if any(len(same) > 1 for same in by_answers(group))]
    outcomes = [_outcomes(group) for group in overlapping]
    concordance = [[w for same in by_answers(group) if (w := _group_w(same)) is not None] for group in overlapping]
    bootstrap = Bootstrap(resamples, seed)
    times = [r.seconds_spent for r in live if r.seconds_spent is not None]
    pairs, ties = _count_pairs(live)
    return FeedbackStatistics(
        rankings=len(live),
        superseded=len(rankings) - len(live),
        simulated=sum(r.simulated for r in live),
        prompts=len(prompts),
        prompts_with_overlap=len(overlapping),
        none_acceptable=sum(r.none_acceptable for r in live),
        pairs=pairs,
        ties=ties,
        alpha=_alpha_estimate(overlapping, bootstrap),
        kendall_w=bootstrap.ratio([(sum(ws), len(ws)) for ws in concordance]),
        agreement=bootstrap.ratio([(same, total) for same, total, _, _ in outcomes]),
        agreement_strict=bootstrap.ratio([(same, total) for _, _, same, total in outcomes]),
        position=position_bias(live),
        seconds=_seconds(times),
        annotators=_annotators(live, overlapping),
    )


class Bootstrap:
    """Percentile intervals over resampled prompts (Efron 1979); each statistic draws the same resamples again."""

    def __init__(self, resamples: int, seed: int) -> None:
        self.resamples, self.seed = resamples, seed

    def weights(self, n: int) -> Array:
        """(resamples, n): how often each of n prompts was drawn."""
        generator = np.random.default_rng(self.seed)
        drawn = generator.multinomial(n, np.full(n, 1 / n), size=self.resamples)
        return drawn.astype(np.float64)

    def estimate(self, n: int, statistic: Callable[[Array], float | None]) -> Estimate:
        """``statistic`` of weights (n,) with its interval; no interval below two prompts or where it is undefined."""
        if not n:
            return Estimate(None, None, 0)
        value = statistic(np.ones(n))
        if value is None or n < 2:
            return Estimate(value, None, n)
        drawn = [x for row in self.weights(n) if (x := statistic(row)) is not None]
        low, high = np.quantile(drawn, (0.025, 0.975))
        return Estimate(value, (float(low), float(high)), n)

    def ratio(self, parts: Sequence[tuple[float, float]]) -> Estimate:
        """Sum of numerators over sum of denominators, over the items whose denominator is not 0."""
        table = np.array([part for part in parts if part[1]], dtype=np.float64).reshape(-1, 2)

        def statistic(weights: Array) -> float | None:
            return float(weights @ table[:, 0] / (weights @ table[:, 1]))

        return self.estimate(len(table), statistic)


def _alpha_estimate(prompts: Sequence[Sequence[Ranking]], bootstrap: Bootstrap) -> Estimate:
    """Ordinal alpha: a unit is one answer among the same answers of a prompt, its value the midrank."""
    units = [_unit_values(group) for group in prompts]
    levels = np.unique([value for group in units for unit in group for value in unit])
    matrices = np.array([sum(_coincidences(np.array(unit), levels) for unit in group) for group in units])

    def statistic(weights: Array) -> float | None:
        return _alpha(np.tensordot(weights, matrices, axes=1), levels, "ordinal")

    return bootstrap.estimate(len(units), statistic)


def _unit_values(rankings: Sequence[Ranking]) -> list[list[float]]:
    values = []
    for same in by_answers(rankings):
        if len(same) > 1:
            ranks = [rank_of(ranking) for ranking in same]
            values += [[rank[answer] for rank in ranks] for answer in ranks[0]]
    return values


def _coincidences(unit: Array, levels: Array) -> Array:
    """(V, V): the pairs of values within one unit, each weighted 1 / (values - 1); zeros below two values."""
    present = unit[~np.isnan(unit)]
    counts = np.array([(present == level).sum() for level in levels], dtype=np.float64)
    if len(present) < 2:
        return np.zeros((len(levels), len(levels)))
    return np.asarray((np.outer(counts, counts) - np.diag(counts)) / (len(present) - 1), dtype=np.float64)


def _alpha(coincidences: Array, levels: Array, metric: Metric) -> float | None:
    marginals = coincidences.sum(axis=1)
    total = marginals.sum()
    distances = _DISTANCES[metric](levels, marginals)
    expected = float((np.outer(marginals, marginals) * distances).sum())
    if not expected:
        return None
    return float(1 - (total - 1) * (coincidences * distances).sum() / expected)


def _nominal(levels: Array, _marginals: Array) -> Array:
    return np.asarray(levels[:, None] != levels[None, :], dtype=np.float64)


def _interval(levels: Array, _marginals: Array) -> Array:
    return np.asarray((levels[:, None] - levels[None, :]) ** 2, dtype=np.float64)


def _ordinal(_levels: Array, marginals: Array) -> Array:
    # The squared number of values between two ranks, each end counted half.
    middle = np.cumsum(marginals) - marginals / 2
    return np.asarray((middle[:, None] - middle[None, :]) ** 2, dtype=np.float64)


_DISTANCES: dict[Metric, Callable[[Array, Array], Array]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
}


def _midranks(values: Array) -> Array:
    """Ranks from 1; tied values share the mean of their places."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def rank_of(ranking: Ranking) -> dict[str, float]:
    """Midranks by completion id, in the order of the ids."""
    ranks: dict[str, float] = {}
    before = 0
    for tier in ranking.tiers:
        ranks.update(dict.fromkeys(tier, before + (len(tier) + 1) / 2))
        before += len(tier)
    return dict(sorted(ranks.items()))


def _by_prompt(rankings: Iterable[Ranking]) -> list[list[Ranking]]:
    groups: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault(ranking.prompt_id, []).append(ranking)
    return list(groups.values())


def by_answers(rankings: Iterable[Ranking]) -> list[list[Ranking]]:
    """The rankings of one prompt that order the same answers under the same criterion, by different annotators."""
    groups: dict[tuple[str, frozenset[str]], list[Ranking]] = {}
    for ranking in rankings:
        if ranking.tiers:
            key = (ranking.criterion, frozenset(c for tier in ranking.tiers for c in tier))
            groups.setdefault(key, []).append(ranking)
    return list(groups.values())


def _group_w(rankings: Sequence[Ranking]) -> float | None:
    return kendall_w([list(rank_of(ranking).values()) for ranking in rankings])


def _signs(ranking: Ranking) -> dict[tuple[str, str], int]:
    """By pair of ids in order: 1 when the first is better, -1 when the second is, 0 for a tie."""
    ranks = rank_of(ranking)
    return {(a, b): int(np.sign(ranks[b] - ranks[a])) for a, b in combinations(ranks, 2)}


def _compare(first: Ranking, second: Ranking) -> tuple[int, int, int, int]:
    """(equal, all, equal among strict, strict for both) over the pairs that both judged."""
    a, b = _signs(first), _signs(second)
    both = [(a[pair], b[pair]) for pair in a.keys() & b.keys()]
    strict = [(x, y) for x, y in both if x and y]
    return sum(x == y for x, y in both), len(both), sum(x == y for x, y in strict), len(strict)


def _outcomes(rankings: Sequence[Ranking]) -> tuple[int, int, int, int]:
    found = [_compare(first, second) for same in by_answers(rankings) for first, second in combinations(same, 2)]
    columns = np.array(found, dtype=np.int64).reshape(-1, 4).sum(axis=0)
    return int(columns[0]), int(columns[1]), int(columns[2]), int(columns[3])


def _count_pairs(rankings: Iterable[Ranking]) -> tuple[int, int]:
    pairs = ties = 0
    for ranking in rankings:
        sizes = [len(tier) for tier in ranking.tiers]
        tied = sum(size * (size - 1) // 2 for size in sizes)
        ties += tied
        pairs += sum(sizes) * (sum(sizes) - 1) // 2 - tied
    return pairs, ties


def _seconds(times: Sequence[float]) -> dict[str, float] | None:
    if not times:
        return None
    low, middle, high = (float(x) for x in np.quantile(times, (0.1, 0.5, 0.9)))
    return {"n": float(len(times)), "p10": low, "median": middle, "p90": high}


def _annotators(
    rankings: Sequence[Ranking], overlapping: Sequence[Sequence[Ranking]]
) -> tuple[AnnotatorStatistics, ...]:
    equal: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    for group in overlapping:
        for same in by_answers(group):
            for first, second in combinations(same, 2):
                if first.annotator == second.annotator:
                    continue
                agreed, total, _, _ = _compare(first, second)
                for name in (first.annotator, second.annotator):
                    equal[name] += agreed
                    compared[name] += total
    result = []
    for name in sorted({ranking.annotator for ranking in rankings}, key=_natural):
        own = [ranking for ranking in rankings if ranking.annotator == name]
        pairs, ties = _count_pairs(own)
        times = _seconds([r.seconds_spent for r in own if r.seconds_spent is not None])
        result.append(
            AnnotatorStatistics(
                annotator=name,
                simulated=any(ranking.simulated for ranking in own),
                rankings=len(own),
                none_acceptable=sum(ranking.none_acceptable for ranking in own),
                tie_share=ties / (pairs + ties) if pairs + ties else None,
                agreement=equal[name] / compared[name] if compared[name] else None,
                position=position_bias(own),
                median_seconds=times["median"] if times else None,
            )
        )
    return tuple(result)


def _natural(name: str) -> tuple[str, int, str]:
    """Sorts simulated-2 before simulated-10."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0), name
