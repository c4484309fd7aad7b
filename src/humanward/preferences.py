"""From rankings to preference pairs: strict pairs, tie records, weights, margins, grouped by prompt.

Every strict pair of a prompt weighs 1 / (number of its strict pairs), so that each prompt weighs 1 however many answers
and annotators it had, and all pairs of a prompt stay together: pairs shuffled over an epoch overfit (Ouyang et al.
2022, arXiv:2203.02155, section 3.5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, NamedTuple

from humanward.errors import InputError
from humanward.prompts import check_splits, content_key
from humanward.records import Completion, Preference, Prompt, Ranking


@dataclass(frozen=True)
class PreferenceSet:
    """Pairs and tie records, those of a prompt consecutive and within it those of a ranking; and what gave none.

    ``identical`` counts pairs dropped because both sides are the same text; ``superseded`` rankings that a later one of
    the same annotator replaced or withdrew; ``none_acceptable`` rankings whose annotator accepted no answer;
    ``without_pairs`` rankings that gave neither pair nor tie.
    """

    preferences: tuple[Preference, ...]
    identical: int = 0
    superseded: int = 0
    none_acceptable: int = 0
    without_pairs: int = 0

    @property
    def pairs(self) -> int:
        """How many strict pairs."""
        return sum(not preference.tie for preference in self.preferences)

    @property
    def ties(self) -> int:
        """How many tie records."""
        return sum(preference.tie for preference in self.preferences)


class Pair(NamedTuple):
    """One pair of a prompt: ``chosen`` and ``rejected`` are indices into ``PromptPairs.texts``."""

    chosen: int
    rejected: int
    weight: float
    margin: float | None
    tie: bool
    criterion: str = "overall"


@dataclass(frozen=True)
class PromptPairs:
    """All pairs of one prompt, under one criterion or all together; ``texts`` holds each completion text once."""

    prompt: Prompt
    texts: tuple[str, ...]
    pairs: tuple[Pair, ...]
    criterion: str = "overall"


def current_rankings(rankings: Iterable[Ranking]) -> tuple[Ranking, ...]:
    """The rankings that count: of an annotator's rankings of the same answers under the same criterion, the last.

    A last one that is a withdrawal (no tiers, and not "none acceptable") leaves nothing. A ranking without an annotator
    name is never replaced, as two of them may come from two people.
    """
    last: dict[tuple[object, ...], Ranking] = {}
    for index, ranking in enumerate(rankings):
        shown = frozenset(ranking.shown_order or _ids(ranking))
        key = (ranking.prompt_id, ranking.criterion, ranking.annotator, ranking.annotator or index, shown)
        last[key] = ranking
    return tuple(ranking for ranking in last.values() if ranking.tiers or ranking.none_acceptable)


def derive_preferences(
    prompts: Iterable[Prompt],
    completions: Iterable[Completion],
    rankings: Sequence[Ranking],
    *,
    locations: Sequence[str] = (),
    criterion: str | None = None,
    none_acceptable: Literal["keep", "drop"] = "keep",
    count_ties: bool = False,
    grades: Mapping[str, float] | None = None,
    trust: Mapping[str, float] | None = None,
) -> PreferenceSet:
    """Pairs of all rankings (of ``criterion`` alone when given): K answers without ties give K(K-1)/2.

    ``locations[i]`` says where ``rankings[i]`` stands, for messages. Strict pairs of a prompt and criterion weigh
    1 / their number and tie records 0; with ``count_ties`` pairs and ties weigh alike. With ``trust``, of 0 or more by
    annotator (1 when not named), the weights are in proportion to it and still sum to 1. ``margin`` is the distance in
    tiers, or the difference of ``grades`` (by completion id) when given; 0 for a tie without grades. A ranking marked
    "none acceptable" gives its pairs like any other (the better of two bad answers is still better) unless
    ``none_acceptable="drop"``; without tiers it gives none.

    Raises InputError for unknown ids, a completion of another prompt, an id named twice, tiers that are not a weak
    order over exactly the shown answers, fewer than two answers, or a prompt in two splits.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    texts = {completion.id: completion for completion in completions}
    check_splits(by_id.values())
    places = locations or [f"ranking {ranking.id}" for ranking in rankings]
    for ranking, where in zip(rankings, places, strict=True):
        check_ranking(ranking, by_id, texts, where)
    live = current_rankings(rankings)
    chosen = [r for r in live if criterion is None or r.criterion == criterion]
    unacceptable = sum(r.none_acceptable for r in chosen)
    groups: dict[str, dict[str, list[Preference]]] = {}
    identical = without_pairs = 0
    for ranking in chosen:
        if ranking.none_acceptable and none_acceptable == "drop":
            without_pairs += 1
            continue
        pairs = _pairs(ranking, by_id[ranking.prompt_id], texts, grades)
        distinct = [pair for pair in pairs if pair.chosen != pair.rejected]
        identical += len(pairs) - len(distinct)
        without_pairs += not distinct
        groups.setdefault(ranking.prompt_id, {}).setdefault(ranking.criterion, []).extend(distinct)
    weighted = (
        p for criteria in groups.values() for group in criteria.values() for p in _weigh(group, count_ties, trust)
    )
    return PreferenceSet(tuple(weighted), identical, len(rankings) - len(live), unacceptable, without_pairs)


def check_ranking(
    ranking: Ranking, prompts: Mapping[str, Prompt], completions: Mapping[str, Completion], where: str
) -> None:
    """Raise InputError, naming ``where`` and the id, unless it is a weak order over known answers of its prompt."""
    if ranking.prompt_id not in prompts:
        raise InputError(f"{where}: unknown prompt {ranking.prompt_id!r}; add it or drop the ranking")
    for completion_id in (*_ids(ranking), *ranking.shown_order):
        completion = completions.get(completion_id)
        if completion is None:
            raise InputError(f"{where}: unknown completion {completion_id!r}; add it or drop the ranking")
        if completion.prompt_id != ranking.prompt_id:
            raise InputError(
                f"{where}: completion {completion_id!r} answers prompt {completion.prompt_id!r}, "
                f"not {ranking.prompt_id!r}; rank answers of one prompt"
            )
    for completion_id, times in Counter(_ids(ranking)).items():
        if times > 1:
            raise InputError(f"{where}: completion {completion_id!r} is ranked {times} times; rank it once")
    if any(not tier for tier in ranking.tiers):
        raise InputError(f"{where}: holds an empty tier; every tier names at least one completion")
    if not ranking.tiers:
        return
    if len(_ids(ranking)) < 2:
        raise InputError(f"{where}: ranks {len(_ids(ranking))} completion; rank at least two")
    if ranking.shown_order and set(ranking.shown_order) != set(_ids(ranking)):
        odd = sorted(set(ranking.shown_order) ^ set(_ids(ranking)))[0]
        raise InputError(f"{where}: completion {odd!r} is only one of shown and ranked; rank exactly what was shown")


def group_by_prompt(preferences: Iterable[Preference], *, criteria_together: bool = False) -> tuple[PromptPairs, ...]:
    """The pairs by prompt and criterion, in order of first appearance, each completion text once.

    With ``criteria_together`` a prompt is one element whatever its criteria, so that a completion ranked under three of
    them is encoded once; the element's criterion is then "" where it has several.
    Raises InputError for one prompt id with two contents.
    """
    groups: dict[tuple[str, str], list[Preference]] = {}
    for preference in preferences:
        criterion = "" if criteria_together else preference.criterion
        groups.setdefault((preference.prompt_id, criterion), []).append(preference)
    result = []
    for (prompt_id, _), group in groups.items():
        if any(content_key(p.prompt) != content_key(group[0].prompt) for p in group if p.prompt != group[0].prompt):
            raise InputError(f"preferences: prompt id {prompt_id!r} names two different prompts; give each its own id")
        index: dict[str, int] = {}
        for preference in group:
            index.setdefault(preference.chosen, len(index))
            index.setdefault(preference.rejected, len(index))
        pairs = tuple(Pair(index[p.chosen], index[p.rejected], p.weight, p.margin, p.tie, p.criterion) for p in group)
        criteria = {p.criterion for p in group}
        result.append(PromptPairs(group[0].prompt, tuple(index), pairs, criteria.pop() if len(criteria) == 1 else ""))
    return tuple(result)


def check_straddling(preferences: Iterable[Preference]) -> None:
    """Raise InputError if a prompt, by content, has pairs in more than one split."""
    check_splits(replace(preference.prompt, split=preference.split) for preference in preferences)


def _ids(ranking: Ranking) -> tuple[str, ...]:
    return tuple(completion_id for tier in ranking.tiers for completion_id in tier)


def _pairs(
    ranking: Ranking, prompt: Prompt, completions: Mapping[str, Completion], grades: Mapping[str, float] | None
) -> list[Preference]:
    # Sorted within a tier, so that the order in which ties were written changes nothing.
    placed = [(tier, completion_id) for tier, ids in enumerate(ranking.tiers) for completion_id in sorted(ids)]
    return [
        Preference(
            prompt_id=prompt.id,
            chosen_id=better,
            rejected_id=worse,
            prompt=prompt,
            chosen=completions[better].text,
            rejected=completions[worse].text,
            tie=high == low,
            criterion=ranking.criterion,
            annotator=ranking.annotator,
            margin=float(low - high) if grades is None else _graded(grades, better, worse),
            ranking_id=ranking.id,
            split=prompt.split,
            simulated=ranking.simulated,
        )
        for (high, better), (low, worse) in combinations(placed, 2)
    ]


def _graded(grades: Mapping[str, float], better: str, worse: str) -> float | None:
    if better not in grades or worse not in grades:
        return None
    return grades[better] - grades[worse]


def _weigh(preferences: Sequence[Preference], count_ties: bool, trust: Mapping[str, float] | None) -> list[Preference]:
    shares = [
        (1.0 if trust is None else trust.get(p.annotator, 1.0)) if count_ties or not p.tie else 0.0 for p in preferences
    ]
    total = sum(shares)
    return [replace(p, weight=share / total if share else 0.0) for p, share in zip(preferences, shares, strict=True)]
