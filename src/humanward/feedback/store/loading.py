"""Files into the store, batch by batch, so that memory stays flat however large they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.feedback.formats import FORMATS, guess_format
from humanward.feedback.judged import Collector
from humanward.feedback.store.audit import Actor
from humanward.feedback.store.models import CompletionRow, PromptRow
from humanward.feedback.store.session import Store
from humanward.feedback.store.settling import batches
from humanward.feedback.store.transfer import Added, Importer, importing, to_completion, to_prompt
from humanward.records import read_json_lines
from humanward.rows import Row, read_rows

WHOLE = ("csv",)
"""Formats whose rows belong together wherever they stand in the file."""
MOST_REASONS = 1000


@dataclass(frozen=True)
class Loaded:
    """What an import read and added; ``reasons`` are of the first bad rows."""

    rows: int
    bad_rows: int
    reasons: tuple[str, ...]
    notes: dict[str, int]
    added: Added


def load_files(
    store: Store,
    actor: Actor,
    project_id: int,
    paths: Sequence[Path],
    name: str = "auto",
    *,
    skip_bad: bool = False,
    uncertainty: Mapping[str, float] | None = None,
    adopt_criteria: bool = False,
) -> Loaded:
    """All rows of the files in a format of ``FORMATS`` into a project: all or nothing.

    A bad row raises InputError with file, line, field and reason, or with ``skip_bad`` is left out and counted.
    Raises InputError when nothing is left.
    """
    rows = bad_rows = empty = 0
    reasons: list[str] = []
    notes: dict[str, int] = {}
    with importing(store, actor, project_id) as importer:
        importer.uncertainty.update(uncertainty or {})
        for path in paths:
            for collector in _collectors(importer, path, name, skip_bad):
                rows, bad_rows = rows + collector.rows, bad_rows + collector.bad_rows
                reasons += collector.bad[: MOST_REASONS - len(reasons)]
                for note, count in collector.notes.items():
                    notes[note] = notes.get(note, 0) + count
                importer.uncertainty.update(collector.uncertainty)
                fresh = collector.feedback()
                empty += sum(not completion.text.strip() for completion in fresh.completions)
                importer.add(fresh)
        if rows == bad_rows:
            why = f"all {bad_rows} rows are bad, the first: {reasons[0]}" if reasons else "no rows"
            raise InputError(f"{', '.join(map(str, paths))}: nothing to import ({why}); check the format {name!r}")
        if adopt_criteria:
            importer.adopt_criteria()
    if empty:
        notes["empty answers"] = empty
    return Loaded(rows, bad_rows, tuple(reasons), notes, importer.added)


def read_uncertainty(path: Path) -> dict[str, float]:
    """``{"prompt_id": ..., "uncertainty": ...}`` a line, by prompt id; raises InputError naming the line."""
    found: dict[str, float] = {}
    for number, value in read_json_lines(path):
        where = f"{path} line {number}"
        if not isinstance(value, dict) or not isinstance(value.get("prompt_id"), str):
            raise InputError(f"{where}: field 'prompt_id' is missing or no text; write whose uncertainty it is")
        doubt = value.get("uncertainty")
        if isinstance(doubt, bool) or not isinstance(doubt, int | float) or not 0 <= doubt < float("inf"):
            raise InputError(f"{where}, field 'uncertainty': {str(doubt)[:40]!r} is no number of 0 or more; correct it")
        found[value["prompt_id"]] = float(doubt)
    return found


def _collectors(importer: Importer, path: Path, name: str, skip_bad: bool) -> Iterable[Collector]:
    """The file's rows in collectors of a batch each."""
    rows: Iterable[Row] = read_rows(path)
    chosen = name
    if name == "auto":
        pending = iter(rows)
        first = next(pending, None)
        if first is None:
            raise InputError(f"{path}: holds no rows; write at least one")
        chosen, rows = guess_format(first), chain([first], pending)
    if chosen not in FORMATS:
        raise InputError(f"format {chosen!r}: unknown; use one of {', '.join(FORMATS)}")
    for some in [rows] if chosen in WHOLE else batches(rows):
        collector = Collector(skip_bad, for_database=True)
        known = Feedback()
        if chosen == "humanward":
            known = _named_before(importer.db, importer.project.id, list(some))
            collector.prompts.update({prompt.id: prompt for prompt in known.prompts})
            collector.completions.update({completion.id: completion for completion in known.completions})
        FORMATS[chosen].read(some, collector)
        for prompt in known.prompts:
            del collector.prompts[prompt.id]
        for completion in known.completions:
            del collector.completions[completion.id]
        yield collector


def _named_before(db: Session, project_id: int, rows: Sequence[Row]) -> Feedback:
    """What the rows of our own format refer to and the store has already."""
    prompt_ids: set[str] = set()
    completion_ids: set[str] = set()
    for row in rows:
        for kind, record in (row.value if isinstance(row.value, dict) else {}).items():
            if isinstance(record, dict):
                prompt_ids |= _texts([record.get("prompt_id")])
                if kind in ("ranking", "rating"):
                    completion_ids |= _texts([record.get("completion_id")]) | _texts(record.get("shown_order"))
                    tiers = record.get("tiers")
                    for tier in tiers if isinstance(tiers, list) else ():
                        completion_ids |= _texts(tier)
    completions = []
    for some in batches(completion_ids, 500):
        query = select(CompletionRow).where(CompletionRow.project_id == project_id, CompletionRow.id.in_(some))
        completions += [to_completion(found) for found in db.scalars(query)]
    prompt_ids |= {completion.prompt_id for completion in completions}
    prompts = []
    for some in batches(prompt_ids, 500):
        query_prompts = select(PromptRow).where(PromptRow.project_id == project_id, PromptRow.id.in_(some))
        prompts += [to_prompt(found) for found in db.scalars(query_prompts)]
    return Feedback(tuple(prompts), tuple(completions))


def _texts(values: Any) -> set[str]:
    return {value for value in values if isinstance(value, str)} if isinstance(values, list) else set()
