"""CSV: one row a pair (``prompt, chosen, rejected``) or one row an answer (``prompt, completion, rank``).

A spreadsheet takes a cell that begins with = + - or @ for a formula, so that an exported file could run a command on
the reader's machine. Export puts an apostrophe before such a cell, import takes it off again.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from humanward.errors import InputError, writing
from humanward.feedback.files import Feedback
from humanward.feedback.importers import text_field, tiers_of_ranks
from humanward.feedback.judged import Answer, Collector, Judged
from humanward.prompts import SPLIT_NAMES, make_prompt
from humanward.records import Prompt, to_json
from humanward.rows import Row

COLUMNS = (
    "ranking_id",
    "prompt_id",
    "prompt",
    "messages",
    "split",
    "completion_id",
    "completion",
    "model",
    "rank",
    "shown",
    "none_acceptable",
    "annotator",
    "criterion",
    "seconds_spent",
    "created_at",
    "simulated",
)
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_TRUE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def neutralise(cell: str) -> str:
    """The cell as text to every spreadsheet: with an apostrophe before = + - @, tab or line break; see ``restore``."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def restore(cell: str) -> str:
    """The inverse of ``neutralise``."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_csv(rows: Iterable[Row], collector: Collector) -> None:
    """Pairs, or answers with ranks; rows of a ranking share ``ranking_id`` or else prompt, annotator and criterion."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        try:
            cells = {name: restore(cell) for name, cell in collector.value_of(row).items()}
        except InputError as error:
            collector.rows += 1
            collector.refuse(error)
            continue
        clean = Row(row.where, row.number, cells)
        if "chosen" in cells or "rejected" in cells:
            collector.attempt(clean, _read_pair)
            continue
        names = ("ranking_id",) if cells.get("ranking_id") else ("prompt", "messages", "annotator", "criterion")
        key = tuple(cells.get(name, "") for name in names)
        groups.setdefault(key, []).append(clean)
    for group in groups.values():
        collector.attempt(group[0], partial(_read_ranking, group), rows=len(group))


def write_csv(path: Path, feedback: Feedback) -> int:
    """One row an answer of a ranking, all or nothing; returns how many rows."""
    prompts = {prompt.id: prompt for prompt in feedback.prompts}
    completions = {completion.id: completion for completion in feedback.completions}

    def lines() -> Iterator[dict[str, str]]:
        for ranking in feedback.rankings:
            prompt = prompts[ranking.prompt_id]
            ranks = {c: str(tier) for tier, ids in enumerate(ranking.tiers, 1) for c in ids}
            for completion_id in ranks or ranking.shown_order:
                shown = ranking.shown_order
                yield {
                    "ranking_id": ranking.id,
                    "prompt_id": prompt.id,
                    "prompt": prompt.text,
                    "messages": _messages_cell(prompt),
                    "split": prompt.split,
                    "completion_id": completion_id,
                    "completion": completions[completion_id].text,
                    "model": completions[completion_id].model,
                    "rank": ranks.get(completion_id, ""),
                    "shown": str(shown.index(completion_id) + 1) if completion_id in shown else "",
                    "none_acceptable": str(ranking.none_acceptable).lower(),
                    "annotator": ranking.annotator,
                    "criterion": ranking.criterion,
                    "seconds_spent": "" if ranking.seconds_spent is None else repr(ranking.seconds_spent),
                    "created_at": ranking.created_at,
                    "simulated": str(ranking.simulated).lower(),
                }

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                for line in lines():
                    writer.writerow({name: neutralise(cell) for name, cell in line.items()})
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return count


def _messages_cell(prompt: Prompt) -> str:
    return json.dumps(to_json(prompt)["messages"], ensure_ascii=False) if prompt.messages else ""


def _read_pair(cells: Any, where: str) -> Iterator[Judged]:
    texts = [Answer(text_field(cells, name, where, empty=True)) for name in ("chosen", "rejected")]
    tie = _flag(cells, "tie", where)
    yield Judged(_prompt(cells, where), tuple(texts), ((0, 1),) if tie else ((0,), (1,)), **_common(cells, where))


def _read_ranking(group: list[Row], _value: Any, _where: str) -> Iterator[Judged]:
    first = group[0]
    ranks, shown = [], []
    answers = []
    for row in group:
        for name in ("prompt", "messages", "annotator", "criterion", "none_acceptable"):
            if row.value.get(name, "") != first.value.get(name, ""):
                raise InputError(
                    f"{row.where}, field {name!r}: differs within the ranking of {first.where}; make it equal"
                )
        answers.append(
            Answer(
                text_field(row.value, "completion", row.where, empty=True), row.value.get("model", ""), _item_id(row)
            )
        )
        ranks.append(_number(row.value, "rank", row.where, float))
        shown.append(_number(row.value, "shown", row.where, int))
    none_acceptable = _flag(first.value, "none_acceptable", first.where)
    if any(rank is None for rank in ranks) and not (none_acceptable and set(ranks) == {None}):
        missing = group[ranks.index(None)]
        raise InputError(f"{missing.where}, field 'rank': is empty; give a number, 1 for the best")
    known = [rank for rank in ranks if rank is not None]
    if known and len(known) < 2:
        raise InputError(f"{first.where}: ranks one completion; rank at least two of a prompt")
    order: tuple[int, ...] = ()
    if all(place is not None for place in shown):
        order = tuple(sorted(range(len(shown)), key=lambda index: shown[index] or 0))
    yield Judged(
        _prompt(first.value, first.where),
        tuple(answers),
        tiers_of_ranks(known),
        none_acceptable=none_acceptable,
        shown_order=order,
        **_common(first.value, first.where),
    )


def _item_id(row: Row) -> str:
    return str(row.value.get("completion_id", ""))


def _prompt(cells: dict[str, str], where: str) -> Prompt:
    split = cells.get("split", "")
    if split and split not in SPLIT_NAMES:
        raise InputError(f"{where}, field 'split': {split!r} is not train, validation or test; rename it")
    split = SPLIT_NAMES.get(split, "")
    if not cells.get("messages"):
        text = text_field(cells, "prompt", where)
        return make_prompt(text, f"{where}, field 'prompt'", source="csv", split=split)
    try:
        messages = json.loads(cells["messages"])
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, field 'messages': not JSON ({error.msg}); write a list of messages") from None
    return make_prompt(messages, f"{where}, field 'messages'", source="csv", split=split)


def _common(cells: dict[str, str], where: str) -> dict[str, Any]:
    return {
        "annotator": cells.get("annotator", ""),
        "criterion": cells.get("criterion") or "overall",
        "seconds_spent": _number(cells, "seconds_spent", where, float),
        "created_at": cells.get("created_at", ""),
        "simulated": _flag(cells, "simulated", where),
    }


def _flag(cells: dict[str, str], name: str, where: str) -> bool:
    text = cells.get(name, "").strip().lower()
    if text not in _TRUE:
        raise InputError(f"{where}, field {name!r}: {text[:40]!r} is not true or false; write one of them")
    return _TRUE[text]


def _number(cells: dict[str, str], name: str, where: str, kind: Callable[[str], Any]) -> Any:
    text = cells.get(name, "").strip()
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError:
        raise InputError(f"{where}, field {name!r}: {text[:40]!r} is not a number; write one") from None
    if not abs(value) < float("inf"):
        raise InputError(f"{where}, field {name!r}: {text[:40]!r} is not finite; write a finite number")
    return value
