"""One judgement or rating as a file states it, before ids; and the collector that turns them into records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.records import Completion, Prompt, Ranking, Rating, content_id
from humanward.rows import Row


@dataclass(frozen=True)
class Answer:
    """One answer: its text, and where the file gives them the model's name and the answer's own id."""

    text: str
    model: str = ""
    item_id: str = ""


@dataclass(frozen=True)
class Judged:
    """One annotator's weak order over some answers to a prompt: ``tiers`` holds indices into ``answers``, best first.

    ``notes`` are remarks that the summary counts, such as "prefixes differ".
    """

    prompt: Prompt
    answers: tuple[Answer, ...]
    tiers: tuple[tuple[int, ...], ...]
    annotator: str = ""
    criterion: str = "overall"
    none_acceptable: bool = False
    shown_order: tuple[int, ...] = ()
    seconds_spent: float | None = None
    created_at: str = ""
    simulated: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rated:
    """One annotator's value for one answer, 1 desirable and 0 not, without another to compare it with."""

    prompt: Prompt
    answer: Answer
    value: float
    annotator: str = ""
    criterion: str = "overall"
    created_at: str = ""
    simulated: bool = False


@dataclass
class Collector:
    """Gathers records row by row. A bad row adds nothing: it ends the import, or with ``skip_bad`` is noted."""

    skip_bad: bool = False
    for_database: bool = False
    """Refuse what PostgreSQL cannot keep."""
    rows: int = 0
    bad_rows: int = 0
    bad: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    prompts: dict[str, Prompt] = field(default_factory=dict)
    completions: dict[str, Completion] = field(default_factory=dict)
    rankings: dict[str, tuple[Ranking, str]] = field(default_factory=dict)
    ratings: dict[str, Rating] = field(default_factory=dict)
    uncertainty: dict[str, float] = field(default_factory=dict)
    """By prompt id, of rows that say how uncertain somebody (a reward-model ensemble) is about the prompt."""

    def attempt(self, row: Row, read: Callable[[Any, str], Iterable[Judged | Rated]], rows: int = 1) -> None:
        """Read one row (or the first of several that belong together) into judgements; add them all, or the reason."""
        self.rows += rows
        try:
            value = self.value_of(row)
            judgements = list(read(value, row.where))
            if isinstance(value, dict) and value.get("simulated") is True:
                judgements = [replace(judged, simulated=True) for judged in judgements]
            for judged in judgements:
                self._check(judged, row.where)
            doubt = _uncertainty(value, row.where)
        except InputError as error:
            self.refuse(error, rows)
            return
        for index, judged in enumerate(judgements):
            place = f"{row.number}.{index}"
            if doubt is not None:
                self.uncertainty[judged.prompt.id] = doubt
            if isinstance(judged, Rated):
                self._add_rating(judged, place)
            else:
                self._add(judged, row.where, place)

    def value_of(self, row: Row) -> Any:
        """The row's value; raises InputError for a row that could not be parsed or kept."""
        value = row.checked()
        if self.for_database and _holds_nul(value):
            raise InputError(f"{row.where}: holds a NUL character, which a database cannot keep; take it out")
        return value

    def refuse(self, error: InputError, rows: int = 1) -> None:
        """Keep the reason for a bad row, or raise it."""
        if not self.skip_bad:
            raise error
        self.bad_rows += rows
        self.bad.append(str(error))

    def feedback(self) -> Feedback:
        """All records, each once."""
        return Feedback(
            tuple(self.prompts.values()),
            tuple(self.completions.values()),
            tuple(ranking for ranking, _ in self.rankings.values()),
            tuple(where for _, where in self.rankings.values()),
            tuple(self.ratings.values()),
        )

    def _check(self, judged: Judged | Rated, where: str) -> None:
        known = self.prompts.get(judged.prompt.id)
        if known is not None and known.split != judged.prompt.split:
            raise InputError(
                f"{where}: the prompt is in split {judged.prompt.split!r} here and in {known.split!r} before; keep one"
            )

    def _add(self, judged: Judged, where: str, place: str) -> None:
        prompt = self.prompts.setdefault(judged.prompt.id, judged.prompt)
        ids = _completion_ids(prompt.id, judged.answers)
        for completion_id, answer in zip(ids, judged.answers, strict=True):
            completion = Completion(completion_id, prompt.id, answer.text, answer.model)
            self.completions.setdefault(completion_id, completion)
        tiers = tuple(tuple(ids[i] for i in tier) for tier in judged.tiers)
        key = (prompt.id, judged.annotator, judged.criterion, repr(tiers), str(judged.none_acceptable))
        # The place tells apart two people without a name who judged alike; the same file again gives the same ids.
        ranking = Ranking(
            id=content_id(prompt.source, place, *key),
            prompt_id=prompt.id,
            tiers=tiers,
            annotator=judged.annotator,
            none_acceptable=judged.none_acceptable,
            criterion=judged.criterion,
            shown_order=tuple(ids[i] for i in judged.shown_order),
            seconds_spent=judged.seconds_spent,
            created_at=judged.created_at,
            simulated=judged.simulated,
        )
        self.notes.update(judged.notes)
        self.rankings.setdefault(ranking.id, (ranking, where))

    def _add_rating(self, rated: Rated, place: str) -> None:
        prompt = self.prompts.setdefault(rated.prompt.id, rated.prompt)
        (completion_id,) = _completion_ids(prompt.id, [rated.answer])
        self.completions.setdefault(
            completion_id, Completion(completion_id, prompt.id, rated.answer.text, rated.answer.model)
        )
        key = (prompt.source, place, completion_id, rated.annotator, rated.criterion, str(rated.value))
        rating = Rating(
            id=content_id(*key),
            completion_id=completion_id,
            criterion=rated.criterion,
            value=rated.value,
            annotator=rated.annotator,
            created_at=rated.created_at,
            simulated=rated.simulated,
        )
        self.ratings.setdefault(rating.id, rating)


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_holds_nul, value))


def _uncertainty(value: Any, where: str) -> float | None:
    """The row's field ``uncertainty``, None where it has none; raises InputError unless it is a number of 0 or more."""
    if not isinstance(value, dict) or value.get("uncertainty") in (None, ""):
        return None
    try:
        number = float(value["uncertainty"])
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise InputError(
            f"{where}, field 'uncertainty': {str(value['uncertainty'])[:40]!r} is no number of 0 or more; correct it"
        )
    return number


def _completion_ids(prompt_id: str, answers: Iterable[Answer]) -> list[str]:
    ids: list[str] = []
    for answer in answers:
        parts = [prompt_id, answer.item_id, answer.model, answer.text]
        completion_id = content_id(*parts)
        # Two equal answers in one judgement are still two answers.
        while completion_id in ids:
            parts.append("again")
            completion_id = content_id(*parts)
        ids.append(completion_id)
    return ids
