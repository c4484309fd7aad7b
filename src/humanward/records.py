"""The plain records that stages exchange, and JSON lines on disk.

Every record is a frozen dataclass; ``to_json``/``from_json`` of the files in a run directory go through
``write_jsonl`` and ``read_jsonl``, so that a malformed line is named by file, line and field.
The files' schema is in docs/files.md.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from humanward.errors import InputError, writing


@dataclass(frozen=True)
class Message:
    """One turn of a chat: ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """What a response answers: either plain ``text`` (the last user turn) or a whole chat in ``messages``.

    ``id`` is unique in a file; ``split`` is train, validation, test or empty (not split yet).
    """

    id: str
    text: str
    messages: tuple[Message, ...] = ()
    source: str = ""
    split: str = ""

    def as_messages(self) -> tuple[Message, ...]:
        """The chat that a template renders; a plain prompt is one user turn."""
        return self.messages or (Message("user", self.text),)


@dataclass(frozen=True)
class Completion:
    """One sampled answer. ``ended`` is True when the model stopped by itself; ``sampling`` says how it was drawn."""

    id: str
    prompt_id: str
    text: str
    model: str
    ended: bool = True
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """One annotator's weak order over the completions of one prompt: best tier first, ties share a tier."""

    id: str
    prompt_id: str
    tiers: tuple[tuple[str, ...], ...]
    annotator: str
    none_acceptable: bool = False
    criterion: str = "overall"
    shown_order: tuple[str, ...] = ()
    seconds_spent: float | None = None
    created_at: str = ""
    simulated: bool = False


@dataclass(frozen=True)
class Rating:
    """One annotator's value for one completion."""

    id: str
    completion_id: str
    criterion: str
    value: float
    annotator: str
    created_at: str = ""
    simulated: bool = False


@dataclass(frozen=True)
class Preference:
    """One pair derived from a ranking: ``chosen`` was placed above ``rejected``, or beside it when ``tie``."""

    prompt_id: str
    chosen_id: str
    rejected_id: str
    prompt: Prompt
    chosen: str
    rejected: str
    tie: bool = False
    criterion: str = "overall"
    annotator: str = ""
    weight: float = 1.0
    margin: float | None = None
    ranking_id: str = ""
    split: str = ""
    simulated: bool = False


Record = TypeVar("Record")


@dataclass(frozen=True)
class Label:
    """One completion that is desirable or not, derived from ratings: it needs no other to be compared with."""

    prompt_id: str
    completion_id: str
    prompt: Prompt
    completion: str
    desirable: bool
    criterion: str = "overall"
    ratings: int = 1
    split: str = ""
    simulated: bool = False


def content_id(*parts: str) -> str:
    """A stable 16-digit id of the given texts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def to_json(record: Any) -> dict[str, Any]:
    """The record as plain JSON values, every field present."""
    return dataclasses.asdict(record)


def from_json(kind: type[Record], value: Any, where: str) -> Record:
    """``value`` as a record of ``kind``; unknown, missing or ill-typed fields raise InputError naming ``where``."""
    return typing.cast(Record, _convert(kind, value, where))


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write records (dataclasses or dictionaries) one a line, all or nothing; returns how many."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                for record in records:
                    row = record if isinstance(record, dict) else to_json(record)
                    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return count


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) for every non-empty line; a malformed line is an InputError naming file and line."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.rstrip("\r\n"))
                    json.dumps(value, ensure_ascii=False).encode()
                except json.JSONDecodeError as error:
                    raise InputError(
                        f"{path} line {number}: not JSON ({error.msg} at column {error.colno}); write one object a line"
                    ) from None
                except UnicodeEncodeError:
                    raise InputError(
                        f"{path} line {number}: holds half a surrogate pair, which is no character; drop it"
                    ) from None
                except RecursionError:
                    raise InputError(
                        f"{path} line {number}: is nested too deeply; write one flat object a line"
                    ) from None
                yield number, value
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not a file; name a JSON-lines file") from None
    except PermissionError:
        raise InputError(f"{path}: not readable by this user; change its permissions") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """All records of a file; an empty file is an InputError."""
    records = [from_json(kind, value, f"{path} line {number}") for number, value in read_json_lines(path)]
    if not records:
        raise InputError(f"{path}: holds no records; write at least one {kind.__name__} a line")
    return records


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _convert_record(typing.cast(type, kind), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: {value!r} is not a list")
        return tuple(_convert(typing.get_args(kind)[0], item, where) for item in value)
    if origin in (types.UnionType, typing.Union):
        choices = typing.get_args(kind)
        if value is None and type(None) in choices:
            return None
        return _convert(next(c for c in choices if c is not type(None)), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: {value!r} is not an object")
        return value
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{where}: {value!r} is not a finite number")
        return float(value)
    if kind in (str, bool, int) and type(value) is not kind:
        raise InputError(f"{where}: {value!r} is not {'text' if kind is str else kind.__name__}")
    return value


def _convert_record(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {str(value)[:60]!r} is not an object with the fields of {kind.__name__}")
    hints, known = _fields(kind)
    if unknown := sorted(value.keys() - known.keys()):
        raise InputError(f"{where}: unknown field {unknown[0]!r} in {kind.__name__}; the fields are {', '.join(known)}")
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise InputError(f"{where}: field {name!r} is missing in {kind.__name__}")
    return kind(**{name: _convert(hints[name], item, f"{where}, field {name!r}") for name, item in value.items()})


@functools.cache
def _fields(kind: type) -> tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]:
    """(types, fields) by name; looking the types up takes longer than all the rest of reading a record."""
    return typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
