"""The feedback files of a run directory: prompts, completions, rankings and preferences (schema in docs/files.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from humanward.errors import InputError, writing
from humanward.labels import LabelSet
from humanward.preferences import PreferenceSet
from humanward.records import Completion, Prompt, Ranking, Rating, from_json, read_json_lines, to_json, write_jsonl

PROMPTS = "prompts.jsonl"
COMPLETIONS = "completions.jsonl"
RANKINGS = "rankings.jsonl"
PREFERENCES = "preferences.jsonl"
RATINGS = "ratings.jsonl"
LABELS = "labels.jsonl"
NO_LABELS = LabelSet(())

Kept = TypeVar("Kept", Prompt, Completion, Ranking, Rating)


@dataclass(frozen=True)
class Feedback:
    """What people were shown and how they ranked it; ``locations[i]`` says where ``rankings[i]`` was read."""

    prompts: tuple[Prompt, ...] = ()
    completions: tuple[Completion, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    locations: tuple[str, ...] = ()
    ratings: tuple[Rating, ...] = ()


def read_feedback(folder: Path, *, rankings: bool = True) -> Feedback:
    """The feedback files of a run directory; without ``rankings``, or with ratings, none need be there.

    Raises InputError for a missing file, a malformed line, or an id that names two records.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run directory; check --run")
    completions = [record for _, record in read_records(folder / COMPLETIONS, Completion)]
    placed: list[tuple[str, Ranking]] = []
    rated = read_records(folder / RATINGS, Rating) if (folder / RATINGS).exists() else []
    if (rankings and not rated) or (folder / RANKINGS).exists():
        placed = read_records(folder / RANKINGS, Ranking)
    return Feedback(
        tuple(record for _, record in read_records(folder / PROMPTS, Prompt)),
        tuple(completions),
        tuple(record for _, record in placed),
        tuple(where for where, _ in placed),
        tuple(record for _, record in rated),
    )


def read_records(path: Path, kind: type[Kept]) -> list[tuple[str, Kept]]:
    """(place, record) for every line; raises InputError for a malformed line or one id with two contents."""
    found: list[tuple[str, Kept]] = []
    seen: dict[str, Kept] = {}
    for number, value in read_json_lines(path):
        where = f"{path} line {number}"
        record = from_json(kind, value, where)
        if seen.setdefault(record.id, record) != record:
            raise InputError(f"{where}: id {record.id!r} names another {kind.__name__} already; give each its own")
        found.append((where, record))
    return found


def merge(old: Feedback, new: Feedback) -> Feedback:
    """Both, each record once by id, in their order; a prompt of ``old`` keeps its split.

    Raises InputError for one id with two contents.
    """
    places: dict[str, str] = {}
    for ranking, where in (*_placed(old), *_placed(new)):
        places.setdefault(ranking.id, where)
    return Feedback(
        _once(old.prompts, new.prompts),
        _once(old.completions, new.completions),
        _once(old.rankings, new.rankings),
        tuple(places.values()),
        _once(old.ratings, new.ratings),
    )


def write_feedback(folder: Path, feedback: Feedback, preferences: PreferenceSet, labels: LabelSet = NO_LABELS) -> None:
    """Write the files, each all or nothing: rankings and ratings, where there are any, before what is derived of them.

    Preferences that follow from no ranking any more are written all the same, so that no old ones stay.
    """
    write_jsonl(folder / PROMPTS, feedback.prompts)
    write_jsonl(folder / COMPLETIONS, feedback.completions)
    if feedback.ratings:
        write_jsonl(folder / RATINGS, feedback.ratings)
        write_jsonl(folder / LABELS, labels.labels)
    if feedback.rankings or not feedback.ratings:
        write_jsonl(folder / RANKINGS, feedback.rankings)
        write_jsonl(folder / PREFERENCES, preferences.preferences)


def append_record(path: Path, record: Any) -> None:
    """Add one line and return when it is on the disk. A line that an earlier crash cut short is removed first."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def drop_torn_line(path: Path) -> bool:
    """Cut off a last line without line end that is no JSON, the trace of a crash while writing; True if there was one.

    A whole last line that only lacks its line end gets it.
    """
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb+") as file:
        data = file.read()
        if data.endswith(b"\n"):
            return False
        start = data.rfind(b"\n") + 1
        try:
            json.loads(data[start:].decode())
        except ValueError:
            file.truncate(start)
            return True
        file.write(b"\n")
        return False


def _placed(feedback: Feedback) -> list[tuple[Ranking, str]]:
    places = feedback.locations or tuple(f"ranking {ranking.id}" for ranking in feedback.rankings)
    return list(zip(feedback.rankings, places, strict=True))


def _once(old: Iterable[Kept], new: Iterable[Kept]) -> tuple[Kept, ...]:
    kept: dict[str, Kept] = {record.id: record for record in old}
    for record in new:
        known = kept.setdefault(record.id, record)
        if _content(known) != _content(record):
            kind = type(record).__name__.lower()
            raise InputError(f"{kind} {record.id!r}: names another {kind} in the run already; give each its own id")
    return tuple(kept.values())


def _content(record: Prompt | Completion | Ranking | Rating) -> Any:
    return replace(record, split="") if isinstance(record, Prompt) else record
