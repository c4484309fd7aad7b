"""The quality of some rankings in one report: agreement, reliability, gold items, warnings, what people dispute."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from humanward.feedback.quality.consensus import consensus
from humanward.feedback.quality.davidson import DavidsonFit, fit_davidson, reliability
from humanward.feedback.quality.dawid_skene import DawidSkeneFit, fit_dawid_skene
from humanward.feedback.quality.gold import Gold, gold_parts
from humanward.feedback.quality.outcomes import Outcomes, outcomes_of
from humanward.feedback.statistics import (
    AnnotatorStatistics,
    Bootstrap,
    Estimate,
    FeedbackStatistics,
    feedback_statistics,
)
from humanward.preferences import current_rankings
from humanward.records import Ranking

Z = 1.959963984540054
"""Of a 95 % interval."""
ENOUGH = 10
"""Below so many rankings nobody is warned of."""
DISPUTED = 20


@dataclass(frozen=True)
class Notice:
    """Something to look at, not a verdict: ``code`` is stable."""

    code: str
    message: str


@dataclass(frozen=True)
class AnnotatorQuality:
    """``reliability`` by the noisy Davidson model (davidson.reliability), ``accuracy`` by Dawid and Skene, ``gold`` the
    share of pairs of gold items judged right.
    """

    annotator: str
    simulated: bool
    reliability: Estimate
    accuracy: float | None
    gold: Estimate
    warnings: tuple[Notice, ...]


@dataclass(frozen=True)
class Disputed:
    """A set of answers on which the consensus is least settled; ``tiers`` is that consensus, best first."""

    prompt_id: str
    criterion: str
    tiers: tuple[tuple[str, ...], ...]
    uncertainty: float
    rankings: int


@dataclass(frozen=True)
class QualityReport:
    """Everything. ``tie`` and ``converged`` are the model's (davidson.DavidsonFit); None without comparisons."""

    statistics: FeedbackStatistics
    by_criterion: dict[str, FeedbackStatistics]
    annotators: tuple[AnnotatorQuality, ...]
    disputed: tuple[Disputed, ...]
    tie: float | None
    converged: bool | None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def quality_report(
    rankings: Sequence[Ranking], gold: Gold | None = None, *, resamples: int = 1000, seed: int = 0
) -> QualityReport:
    """The report on the rankings in force; ``gold`` is the right order of some sets of answers (gold.py)."""
    live = current_rankings(rankings)
    whole = feedback_statistics(rankings, resamples=resamples, seed=seed)
    criteria = list(dict.fromkeys(ranking.criterion for ranking in live))
    by_criterion = {
        name: feedback_statistics([r for r in rankings if r.criterion == name], resamples=resamples, seed=seed)
        for name in criteria
    }
    data = outcomes_of(live)
    fit = fit_davidson(data) if len(data) else None
    skene = fit_dawid_skene(data) if len(data) else None
    parts = gold_parts(live, gold or {})
    bootstrap = Bootstrap(resamples, seed)
    people = tuple(
        _annotator(person, data, fit, skene, bootstrap.ratio(parts.get(person.annotator, [])), live, whole)
        for person in whole.annotators
    )
    return QualityReport(
        statistics=whole,
        by_criterion=by_criterion,
        annotators=people,
        disputed=_disputed(live, data, fit),
        tie=None if fit is None else fit.tie,
        converged=None if fit is None else fit.converged,
    )


def _annotator(
    person: AnnotatorStatistics,
    data: Outcomes,
    fit: DavidsonFit | None,
    skene: DawidSkeneFit | None,
    gold: Estimate,
    live: Sequence[Ranking],
    whole: FeedbackStatistics,
) -> AnnotatorQuality:
    estimate, accuracy = Estimate(None, None, 0), None
    # A name alone says nothing against itself: reliability is known only through others' rankings of the same answers.
    if fit is not None and skene is not None and person.agreement is not None:
        number = data.annotators.index(person.annotator)
        b, sd = float(fit.discrimination[number]), float(fit.discrimination_sd[number])
        interval = (reliability(b - Z * sd), reliability(b + Z * sd))
        estimate = Estimate(reliability(b), interval, int((data.annotator == number).sum()))
        accuracy = float(skene.accuracy[number])
    own = [ranking for ranking in live if ranking.annotator == person.annotator]
    return AnnotatorQuality(
        person.annotator,
        person.simulated,
        estimate,
        accuracy,
        gold,
        tuple(_warnings(person, own, estimate, gold, whole)),
    )


def _warnings(
    person: AnnotatorStatistics,
    own: Sequence[Ranking],
    trust: Estimate,
    gold: Estimate,
    whole: FeedbackStatistics,
) -> list[Notice]:
    found: list[Notice] = []
    if person.rankings < ENOUGH:
        return found
    usual = (whole.seconds or {}).get("median")
    if person.median_seconds is not None and usual and len(whole.annotators) > 1 and person.median_seconds < usual / 4:
        found.append(
            Notice("fast", f"median {person.median_seconds:.1f} s a ranking; that of everybody is {usual:.1f} s")
        )
    bias = person.position
    if bias.p_value is not None and bias.first_share is not None and bias.n >= ENOUGH and bias.p_value < 0.001:
        found.append(
            Notice(
                "position", f"the best answer was the first shown in {bias.first_share:.0%}, not {bias.expected:.0%}"
            )
        )
    if (shape := _repeated(own)) is not None:
        found.append(Notice("pattern", f"{shape[1]:.0%} of the rankings are {shape[0]} in the order shown"))
    if person.tie_share is not None and person.tie_share > 0.9:
        found.append(Notice("ties", f"{person.tie_share:.0%} of the pairs are ties"))
    if trust.ci95 is not None and trust.ci95[1] < 0.3:
        found.append(Notice("unreliable", f"reliability {trust.value:.2f}: hardly better than guessing"))
    if gold.value is not None and gold.n >= 5 and gold.value < 0.6:
        found.append(Notice("gold", f"{gold.value:.0%} right on {gold.n} gold items"))
    return found


def _repeated(own: Sequence[Ranking]) -> tuple[str, float] | None:
    """A ranking by place on the screen that comes again and again (three answers or more), and its share."""
    shapes: Counter[str] = Counter()
    for ranking in own:
        if len(ranking.shown_order) > 2 and ranking.tiers:
            letter = {c: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i] for i, c in enumerate(ranking.shown_order[:26])}
            shapes[" > ".join(" = ".join(sorted(letter.get(c, "?") for c in tier)) for tier in ranking.tiers)] += 1
    total = sum(shapes.values())
    if total < ENOUGH:
        return None
    shape, count = shapes.most_common(1)[0]
    # A sixth is what chance gives three answers without ties; half of ten or more has a chance below 1 in 100.
    return (shape, count / total) if count / total > 0.5 else None


def _disputed(live: Sequence[Ranking], data: Outcomes, fit: DavidsonFit | None) -> tuple[Disputed, ...]:
    if fit is None:
        return ()
    several = [one for one in consensus(live, data, fit) if one.rankings > 1]
    several.sort(key=lambda one: -one.uncertainty)
    return tuple(
        Disputed(one.prompt_id, one.criterion, one.tiers, one.uncertainty, one.rankings) for one in several[:DISPUTED]
    )
