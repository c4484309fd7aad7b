"""What workers answered: the two shapes of an answer, worker files and outputs of human loops, as rankings.

Every answer of every worker is read. Equal ranks are ties; a missing rank is an error that names file and answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from humanward.errors import InputError
from humanward.feedback.connectors.items import Item
from humanward.records import Ranking, content_id

_FLAT = re.compile(r"response_(\d+)_ranking")
_DIMENSIONS = "ordinalRankingDimensions"


@dataclass(frozen=True)
class RawAnswer:
    """One worker's answer as the service gave it, and the rankings that were made of it.

    ``id`` is of service, task, worker and submission time; ``source`` says which file held it.
    """

    id: str
    service: str
    task: str
    worker: str
    submitted: str
    source: str
    rankings: tuple[str, ...]
    answer: dict[str, Any]


@dataclass
class Answers:
    """Rankings and the raw answers behind them, each once; ``places`` says where each ranking was read.

    ``unlabelled`` items have no answer (yet), with ``reasons`` where the service gave any; ``bad`` ones are unreadable.
    """

    skip_bad: bool = False
    rankings: dict[str, Ranking] = field(default_factory=dict)
    raw: dict[str, RawAnswer] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    unlabelled: int = 0
    reasons: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def refuse(self, error: InputError) -> None:
        """Keep the reason, or raise it."""
        if not self.skip_bad:
            raise error
        self.bad.append(str(error))

    def add(self, raw: RawAnswer, rankings: Sequence[Ranking], where: str) -> None:
        """Take in one answer; the same again adds nothing.

        Raises InputError for another answer of the same worker to the same task at the same time.
        """
        known = self.raw.setdefault(raw.id, raw)
        if known.answer != raw.answer:
            raise InputError(
                f"{where}: worker {raw.worker!r} has another answer to task {raw.task!r} with the same time of "
                f"submission ({raw.submitted or 'none'}) in {known.source}; keep one of the files"
            )
        for ranking in rankings:
            self.rankings.setdefault(ranking.id, ranking)
            self.places.setdefault(ranking.id, where)


@dataclass(frozen=True)
class Task:
    """What is known about an answer besides itself: ``name`` is the task's, unique within the service.

    ``criteria`` are those that were asked for (None: whatever was answered); ``criterion`` names the one of an answer
    in the flat shape, which names none.
    """

    service: str
    name: str
    item: Item
    source: str
    criteria: tuple[str, ...] | None = None
    criterion: str = "overall"


def read_answers(values: Any, task: Task, into: Answers, *, timed: bool = True) -> None:
    """Read the answers of all workers to one task. Without ``timed`` they need no time of submission.

    Raises InputError, naming file and answer, for what cannot be read, unless ``into`` keeps the reasons.
    """
    if not isinstance(values, list):
        into.refuse(InputError(f"{task.source}: holds no list of answers; download it again"))
        return
    for number, value in enumerate(values, 1):
        where = f"{task.source} answer {number}"
        try:
            raw, rankings = _read_answer(value, task, where, timed)
            into.add(raw, rankings, where)
        except InputError as error:
            into.refuse(error)


def parse_json(data: bytes, where: str) -> Any:
    """The JSON value of a file; raises InputError naming the place."""
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half a surrogate pair, which is no character; drop it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start}); download it again") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({error.msg} at line {error.lineno}, column {error.colno}); download it again"
        ) from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply; download it again") from None


def parse_ranks(content: Any, count: int, where: str) -> dict[str, tuple[int, ...]]:
    """The ranks of ``count`` answers by criterion, element i of answer i; "" where the answer names no criterion.

    ``content`` is an ``answerContent`` in either shape: ``{"response_1_ranking": "1", ...}``, or under any name
    ``{"ordinalRankingDimensions": [{"name": ..., "responseRankings": [2, 1, 3]}]}``.
    """
    content = _opened(content, where)
    if not isinstance(content, dict):
        raise InputError(f"{where}, field 'answerContent': is no object; it holds the ranks")
    flat = {key: value for key, value in content.items() if _FLAT.fullmatch(key)}
    nested = [_inside(value) for value in content.values()]
    ranked = [value for value in [content, *nested] if isinstance(value, dict) and _DIMENSIONS in value]
    if len(ranked) + bool(flat) != 1:
        raise InputError(
            f"{where}, field 'answerContent': holds {'no' if not ranked and not flat else 'more than one'} ranking; "
            f"expected {_DIMENSIONS} or response_1_ranking to response_{count}_ranking"
        )
    if flat:
        return {"": _flat_ranks(flat, count, where)}
    return _dimension_ranks(ranked[0][_DIMENSIONS], count, where)


def tiers(ids: Sequence[str], ranks: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """The ids by rank, best (1) first; equal ranks share a tier. Ranks may leave numbers out: 1, 1, 3 is 1, 1, 2."""
    order = sorted(set(ranks))
    return tuple(tuple(key for key, rank in zip(ids, ranks, strict=True) if rank == this) for this in order)


def _read_answer(value: Any, task: Task, where: str, timed: bool) -> tuple[RawAnswer, list[Ranking]]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: is no object; download the file again")
    worker = _text(value, "workerId", where)
    submitted = _text(value, "submissionTime", where) if timed or "submissionTime" in value else ""
    seconds = value.get("timeSpentInSeconds")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0):
        raise InputError(f"{where}, field 'timeSpentInSeconds': {seconds!r} is no number of seconds")
    ranks = parse_ranks(value.get("answerContent"), len(task.item.responses), where)
    found = {name or task.criterion: own for name, own in ranks.items()}
    _check_criteria(found, task.criteria, where)
    key = (task.service, task.name, worker, submitted)
    rankings = [
        Ranking(
            id=content_id(*key, criterion),
            prompt_id=task.item.prompt_id,
            tiers=tiers(task.item.completion_ids, own),
            annotator=worker,
            criterion=criterion,
            shown_order=task.item.completion_ids,
            seconds_spent=None if seconds is None else float(seconds),
            created_at=submitted,
        )
        for criterion, own in found.items()
    ]
    return RawAnswer(content_id(*key), *key, task.source, tuple(r.id for r in rankings), value), rankings


def _check_criteria(found: Iterable[str], asked: tuple[str, ...] | None, where: str) -> None:
    if asked is not None and (wrong := set(found) ^ set(asked)):
        name = sorted(wrong)[0]
        state = "was not asked for" if name in found else "is not answered"
        raise InputError(f"{where}: criterion {name!r} {state}; asked were {', '.join(asked)}")


def _dimension_ranks(dimensions: Any, count: int, where: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(dimensions, list) or not dimensions:
        raise InputError(f"{where}, field {_DIMENSIONS!r}: is no list of criteria with their ranks")
    ranks: dict[str, tuple[int, ...]] = {}
    for dimension in dimensions:
        name = dimension.get("name") if isinstance(dimension, dict) else None
        if not isinstance(name, str) or not name or name in ranks:
            raise InputError(f"{where}, field {_DIMENSIONS!r}: criterion {name!r} has no name of its own")
        own = dimension.get("responseRankings")
        if not isinstance(own, list) or len(own) != count:
            given = len(own) if isinstance(own, list) else "no"
            raise InputError(
                f"{where}, criterion {name!r}: has {given} ranks for {count} answers; one is missing or too many"
            )
        ranks[name] = tuple(_rank(value, index, f"{where}, criterion {name!r}") for index, value in enumerate(own, 1))
    return ranks


def _flat_ranks(flat: dict[str, Any], count: int, where: str) -> tuple[int, ...]:
    named = {f"response_{number}_ranking" for number in range(1, count + 1)}
    if unknown := sorted(flat.keys() - named):
        raise InputError(f"{where}: {unknown[0]!r} is a rank for an answer that was not shown; there were {count}")
    return tuple(_rank(flat.get(f"response_{number}_ranking"), number, where) for number in range(1, count + 1))


def _rank(value: Any, number: int, where: str) -> int:
    if value is None or value == "":
        raise InputError(f"{where}: answer {number} has no rank; every answer needs one")
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        value = int(value)
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: the rank {value!r} of answer {number} is no whole number from 1")
    return value


def _opened(value: Any, where: str) -> Any:
    """The value itself, or what a text of JSON holds."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return parse_json(value.encode(), f"{where}, field 'answerContent'")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(f"{name} is not a JSON number; download it again")


def _inside(value: Any) -> Any:
    # What is no JSON here is something else that the form asked for, such as a comment.
    try:
        return _opened(value, "")
    except InputError:
        return value


def _text(value: dict[str, Any], name: str, where: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not found:
        raise InputError(f"{where}, field {name!r}: is missing or not text; download the file again")
    return found
