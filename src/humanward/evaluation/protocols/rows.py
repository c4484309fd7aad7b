"""The lines of an evaluation's files: answers, likelihoods, scores, verdicts. Schema: docs/files.md."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from humanward.errors import writing
from humanward.records import from_json, read_json_lines, to_json


@dataclass(frozen=True)
class AnswerLine:
    """One answer to one item. ``text`` is None where the prompt is too long for the model: it was not asked."""

    item: str
    sample: int
    text: str | None
    tokens: int = 0
    ended: bool = False


@dataclass(frozen=True)
class LikelihoodLine:
    """The summed log-probability (nats) and tokens of each choice of an item; None where one is too long."""

    item: str
    logprobs: tuple[float, ...] | None
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class ScoreLine:
    """A judge's or a reward's score of one answer, None where it has none."""

    item: str
    sample: int
    score: float | None


@dataclass(frozen=True)
class RefusalLine:
    """What a judge model says of one answer: complies, refuses, partly, or None where its text says none of them."""

    item: str
    sample: int
    verdict: str | None
    reply: str


@dataclass(frozen=True)
class VerdictLine:
    """A judge model's verdicts (first, second, tie or None) on one comparison: ``ours_first`` with the first model's
    answer shown first, ``ours_second`` with it shown second. ``same`` answers are a tie that was not asked."""

    item: str
    sample: int
    ours_first: str | None
    ours_second: str | None
    replies: tuple[str, ...] = ()
    same: bool = False


Line = TypeVar("Line", AnswerLine, LikelihoodLine, ScoreLine, RefusalLine, VerdictLine)


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """The lines of a file, none where it is absent; a last line that a crash cut short goes, from the file too."""
    if not path.exists():
        return []
    _drop_half_line(path)
    return [from_json(kind, value, f"{path} line {number}") for number, value in read_json_lines(path)]


def append_lines(path: Path, lines: Iterable[Line]) -> None:
    """Add whole lines and wait until they lie on the disk."""
    text = "".join(json.dumps(to_json(line), ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _drop_half_line(path: Path) -> None:
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def missing(chunks: Sequence[Sequence[tuple[str, int]]], done: set[tuple[str, int]]) -> list[Sequence[tuple[str, int]]]:
    """The chunks of (item, sample) of which not all are done: each is drawn again as a whole."""
    return [chunk for chunk in chunks if not all(one in done for one in chunk)]
