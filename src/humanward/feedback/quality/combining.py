"""Several annotators' rankings as one: weighed by reliability, or the order that they agree on best."""

from __future__ import annotations

from collections.abc import Sequence

from humanward.feedback.quality.consensus import consensus
from humanward.feedback.quality.davidson import fit_davidson, reliability
from humanward.feedback.quality.outcomes import outcomes_of
from humanward.records import Ranking, content_id

CONSENSUS = "consensus"
"""The annotator's name of an agreed ranking."""


def annotator_weights(rankings: Sequence[Ranking]) -> dict[str, float]:
    """What each annotator's word weighs: the reliability by the noisy Davidson model, at least 0."""
    data = outcomes_of(rankings)
    if not len(data):
        return {}
    fit = fit_davidson(data)
    return {name: max(0.0, reliability(float(b))) for name, b in zip(data.annotators, fit.discrimination, strict=True)}


def consensus_rankings(rankings: Sequence[Ranking]) -> tuple[tuple[Ranking, ...], dict[str, float]]:
    """(one ranking for every set of answers that somebody ranked, the strength of every answer by its id).

    It says "none acceptable" where most of its rankings do, and is simulated where all are. An answer that is judged by
    several criteria has the strength of the last.
    """
    data = outcomes_of(rankings)
    if not len(data):
        return (), {}
    agreed: list[Ranking] = []
    strength: dict[str, float] = {}
    votes: dict[tuple[str, str, frozenset[str]], list[bool]] = {}
    for ranking in rankings:
        ids = frozenset(c for tier in ranking.tiers for c in tier)
        votes.setdefault((ranking.prompt_id, ranking.criterion, ids), []).append(ranking.none_acceptable)
    for one in consensus(rankings, data, fit_davidson(data)):
        none = votes[one.prompt_id, one.criterion, frozenset(one.strength)]
        strength.update(one.strength)
        agreed.append(
            Ranking(
                id=content_id(CONSENSUS, one.prompt_id, one.criterion, repr(one.tiers)),
                prompt_id=one.prompt_id,
                tiers=one.tiers,
                annotator=CONSENSUS,
                none_acceptable=sum(none) > len(none) / 2,
                criterion=one.criterion,
                simulated=one.simulated,
            )
        )
    return tuple(agreed), strength
