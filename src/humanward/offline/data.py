"""What is learnt from one prompt: demonstrations (sft), pairs (dpo, ipo, orpo) or labelled responses (kto)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch

from humanward.errors import InputError
from humanward.preferences import group_by_prompt
from humanward.records import Label, Preference, Prompt

Unfinished = Collection[tuple[str, str]]
"""(prompt id, text) of the responses that sampling cut off: they are learnt from without an end token."""


@dataclass(frozen=True)
class Group:
    """A prompt with N responses, each text once; ``ended[i]`` says whether the end token belongs to ``texts[i]``."""

    prompt: Prompt
    texts: tuple[str, ...]
    ended: tuple[bool, ...]


@dataclass(frozen=True)
class Demonstrations(Group):
    """For sft: ``weights[i]`` is the share of the prompt's weight, 1 in all, that ``texts[i]`` has."""

    weights: tuple[float, ...]


@dataclass(frozen=True)
class Pairs(Group):
    """For dpo, ipo, orpo: pair j prefers ``texts[chosen[j]]`` to ``texts[rejected[j]]`` and weighs ``weights[j]``."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Labelled(Group):
    """For kto: whether each response is desirable, and as many ``others``, responses to other prompts."""

    desirable: tuple[bool, ...]
    others: Group


def pairs(preferences: Iterable[Preference], unfinished: Unfinished = ()) -> list[Pairs]:
    """The strict pairs by prompt and criterion, with the weights they have; ties are left out.

    A prompt half of whose pairs are ties therefore counts half.
    """
    return [
        Pairs(
            group.prompt,
            group.texts,
            _ended(group.prompt, group.texts, unfinished),
            tuple(pair.chosen for pair in group.pairs),
            tuple(pair.rejected for pair in group.pairs),
            tuple(pair.weight for pair in group.pairs),
        )
        for group in group_by_prompt(p for p in preferences if not p.tie and p.weight > 0)
    ]


def demonstrations(
    preferences: Iterable[Preference], unfinished: Unfinished = (), refused: Collection[str] = ()
) -> list[Demonstrations]:
    """The responses to imitate: in each ranking those placed above another one and below none.

    Every prompt weighs 1, its rankings share that alike and a ranking's best responses share the ranking's part.
    ``refused`` holds the ids of rankings whose annotator accepted no response: their best are not imitated.
    """
    by_prompt: dict[str, dict[tuple[str, str], list[Preference]]] = defaultdict(lambda: defaultdict(list))
    prompts: dict[str, Prompt] = {}
    for preference in preferences:
        if preference.tie or preference.ranking_id in refused:
            continue
        prompts.setdefault(preference.prompt_id, preference.prompt)
        by_prompt[preference.prompt_id][preference.criterion, preference.ranking_id].append(preference)
    found = []
    for prompt_id, rankings in by_prompt.items():
        best = [dict.fromkeys(p.chosen for p in ranking) for ranking in rankings.values()]
        worse = [{p.rejected for p in ranking} for ranking in rankings.values()]
        kept = [[text for text in ours if text not in below] for ours, below in zip(best, worse, strict=True)]
        found.append(_demonstrations(prompts[prompt_id], [texts for texts in kept if texts], unfinished))
    return [group for group in found if group.texts]


def labelled_demonstrations(labels: Iterable[Label]) -> list[Demonstrations]:
    """The desirable responses, those of a prompt sharing its weight of 1."""
    by_prompt: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        if label.desirable:
            by_prompt[label.prompt_id].append(label)
    return [
        _demonstrations(given[0].prompt, [list(dict.fromkeys(label.completion for label in given))], ())
        for given in by_prompt.values()
    ]


def _demonstrations(prompt: Prompt, rankings: Sequence[Sequence[str]], unfinished: Unfinished) -> Demonstrations:
    weights: dict[str, float] = defaultdict(float)
    for texts in rankings:
        for text in texts:
            weights[text] += 1 / len(rankings) / len(texts)
    return Demonstrations(prompt, tuple(weights), _ended(prompt, tuple(weights), unfinished), tuple(weights.values()))


@dataclass(frozen=True)
class LabelledTexts(Group):
    """Responses with their labels, not yet joined by responses to other prompts."""

    desirable: tuple[bool, ...]


def labels_of_pairs(preferences: Iterable[Preference], unfinished: Unfinished = ()) -> list[LabelledTexts]:
    """Each response once: desirable if it won more of its strict pairs (by weight) than it lost, undesirable if it lost
    more, and left out if neither.
    """
    found = []
    for group in pairs(preferences, unfinished):
        balance = [0.0] * len(group.texts)
        for better, worse, weight in zip(group.chosen, group.rejected, group.weights, strict=True):
            balance[better] += weight
            balance[worse] -= weight
        kept = [i for i, sign in enumerate(balance) if abs(sign) > 1e-9]
        if kept:
            found.append(
                LabelledTexts(
                    group.prompt,
                    tuple(group.texts[i] for i in kept),
                    tuple(group.ended[i] for i in kept),
                    tuple(balance[i] > 0 for i in kept),
                )
            )
    return found


def labels_of_ratings(labels: Iterable[Label]) -> list[LabelledTexts]:
    """Labels by prompt and criterion; of two with one text that contradict each other neither is kept."""
    groups: dict[tuple[str, str], dict[str, set[bool]]] = defaultdict(lambda: defaultdict(set))
    prompts: dict[str, Prompt] = {}
    for label in labels:
        prompts.setdefault(label.prompt_id, label.prompt)
        groups[label.prompt_id, label.criterion][label.completion].add(label.desirable)
    found = []
    for (prompt_id, _), said in groups.items():
        agreed = {text: next(iter(values)) for text, values in said.items() if len(values) == 1}
        if agreed:
            found.append(
                LabelledTexts(prompts[prompt_id], tuple(agreed), (True,) * len(agreed), tuple(agreed.values()))
            )
    return found


def count_kinds(groups: Sequence[LabelledTexts]) -> tuple[int, int]:
    """(desirable, undesirable) responses to train on; raises InputError where one of the two is 0."""
    kinds = Counter(kind for group in groups for kind in group.desirable)
    if not (kinds[True] and kinds[False]):
        only = "desirable" if kinds[True] else "undesirable"
        raise InputError(
            f"algorithm = 'kto': all {kinds.total()} labelled responses to train on are {only}; add some that are not"
            + (", or use algorithm = 'sft'" if kinds[True] else "")
        )
    return kinds[True], kinds[False]


def with_others(groups: Sequence[LabelledTexts], seed: int) -> list[Labelled]:
    """The groups, each response joined by one to another prompt, from which KTO estimates its reference point.

    The partners are drawn once from ``seed``, so that the reference judges them once. Raises InputError for responses
    to a single prompt.
    """
    if len({group.prompt.id for group in groups}) < 2:
        raise InputError("algorithm = 'kto': all labelled responses answer one prompt; kto needs two prompts or more")
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    flat = [(number, i) for number in order for i in range(len(groups[number].texts))]
    others: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for number in order:
        count = len(groups[number].texts)
        place = start + count
        for _ in range(count):
            while groups[flat[place % len(flat)][0]].prompt.id == groups[number].prompt.id:
                place += 1
            others.setdefault(number, []).append(flat[place % len(flat)])
            place += 1
        start += count
    return [
        Labelled(
            group.prompt,
            group.texts,
            group.ended,
            group.desirable,
            Group(
                group.prompt,
                tuple(groups[other].texts[i] for other, i in others[number]),
                tuple(groups[other].ended[i] for other, i in others[number]),
            ),
        )
        for number, group in enumerate(groups)
    ]


def _ended(prompt: Prompt, texts: Sequence[str], unfinished: Unfinished) -> tuple[bool, ...]:
    # A response without a single token has no log-probability: an empty one always gets its end token.
    return tuple(not text.strip() or (prompt.id, text) not in unfinished for text in texts)
