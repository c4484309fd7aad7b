"""From ratings to labels: which completions people found desirable, and which not, each by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from humanward.errors import InputError
from humanward.prompts import check_splits
from humanward.records import Completion, Label, Prompt, Rating

DESIRABLE, UNDESIRABLE = 1.0, 0.0
"""The values of a rating that says no more than yes or no."""


@dataclass(frozen=True)
class LabelSet:
    """Labels, those of a prompt consecutive.

    ``undecided`` counts completions that as many people found desirable as not, which give no label; ``superseded``
    ratings that a later one of the same annotator replaced.
    """

    labels: tuple[Label, ...]
    undecided: int = 0
    superseded: int = 0

    @property
    def desirable(self) -> int:
        """How many are desirable."""
        return sum(label.desirable for label in self.labels)


def derive_labels(prompts: Iterable[Prompt], completions: Iterable[Completion], ratings: Iterable[Rating]) -> LabelSet:
    """One label a completion and criterion: what most of its ratings say, above .5 being desirable and below it not.

    Of an annotator's ratings of one completion the last counts; those without an annotator's name all count, as they
    may come from different people. Raises InputError for an unknown completion or prompt, a value outside 0 to 1, or
    a prompt in two splits.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    texts = {completion.id: completion for completion in completions}
    check_splits(by_id.values())
    last: dict[tuple[object, ...], Rating] = {}
    count = 0
    for count, rating in enumerate(ratings, 1):
        check_rating(rating, by_id, texts, f"rating {rating.id}")
        last[rating.completion_id, rating.criterion, rating.annotator, rating.annotator or count] = rating
    votes: dict[str, dict[tuple[str, str], list[Rating]]] = {}
    for rating in last.values():
        of_prompt = votes.setdefault(texts[rating.completion_id].prompt_id, {})
        of_prompt.setdefault((rating.criterion, rating.completion_id), []).append(rating)
    labels: list[Label] = []
    undecided = 0
    for prompt_id, cast in votes.items():
        for (criterion, completion_id), given in cast.items():
            balance = sum((r.value > 0.5) - (r.value < 0.5) for r in given)
            if not balance:
                undecided += 1
                continue
            prompt = by_id[prompt_id]
            labels.append(
                Label(
                    prompt_id=prompt_id,
                    completion_id=completion_id,
                    prompt=prompt,
                    completion=texts[completion_id].text,
                    desirable=balance > 0,
                    criterion=criterion,
                    ratings=len(given),
                    split=prompt.split,
                    simulated=any(r.simulated for r in given),
                )
            )
    return LabelSet(tuple(labels), undecided, count - len(last))


def check_rating(rating: Rating, prompts: dict[str, Prompt], completions: dict[str, Completion], where: str) -> None:
    """Raise InputError, naming ``where``, unless it rates a known completion of a known prompt between 0 and 1."""
    completion = completions.get(rating.completion_id)
    if completion is None:
        raise InputError(f"{where}: unknown completion {rating.completion_id!r}; add it or drop the rating")
    if completion.prompt_id not in prompts:
        raise InputError(f"{where}: unknown prompt {completion.prompt_id!r}; add it or drop the rating")
    if not 0 <= rating.value <= 1:
        raise InputError(f"{where}: value {rating.value:g} is outside 0 (undesirable) to 1 (desirable); rescale it")
