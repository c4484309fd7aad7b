"""The formats that are read and written, and reading and writing by name. Add a format here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.feedback.importers import (
    object_row,
    read_demonstration,
    read_hh_rlhf,
    read_kto,
    read_oasst,
    read_pandalm,
    read_qa_feedback,
    read_summaries,
    read_trl,
)
from humanward.feedback.judged import Collector, Judged, Rated
from humanward.feedback.other_tools import read_argilla, read_label_studio
from humanward.feedback.tables import read_csv, write_csv
from humanward.feedback.to_other_tools import write_argilla, write_label_studio
from humanward.feedback.transcripts import is_transcript, render_transcript
from humanward.labels import check_rating, derive_labels
from humanward.preferences import PreferenceSet, check_ranking, derive_preferences
from humanward.records import Completion, Preference, Prompt, Ranking, Rating, from_json, to_json, write_jsonl
from humanward.rows import Row, read_rows


@dataclass(frozen=True)
class ImportResult:
    """What a set of files held; ``rows`` counts all rows read, ``bad_rows`` those left out for the reasons in ``bad``.

    ``notes`` counts remarks by name, such as "empty answers" or "prefixes differ".
    """

    feedback: Feedback
    rows: int
    bad_rows: int
    bad: tuple[str, ...]
    notes: dict[str, int]


@dataclass(frozen=True)
class ExportResult:
    """How many rows were written, and what the format cannot hold: tie records, rankings without an order."""

    rows: int
    ties_left_out: int
    unordered_left_out: int = 0


@dataclass(frozen=True)
class Format:
    """One format: ``read`` adds rows to a collector; ``write``, where there is one, writes a file."""

    summary: str
    read: Callable[[Iterable[Row], Collector], None]
    write: Callable[[Path, Feedback, PreferenceSet], ExportResult] | None = None


def import_files(paths: Sequence[Path], name: str, *, skip_bad: bool = False) -> ImportResult:
    """All rows of the files in a format of ``FORMATS``, or "auto" to recognise it by the first row.

    A bad row raises InputError with file, line, field and reason, or with ``skip_bad`` is left out and reported.
    Raises InputError when nothing at all is left.
    """
    collector = Collector(skip_bad)
    for path in paths:
        rows = read_rows(path)
        chosen = name
        if name == "auto":
            first = next(rows, None)
            if first is None:
                raise InputError(f"{path}: holds no rows; write at least one")
            chosen, rows = guess_format(first), chain([first], rows)
        if chosen not in FORMATS:
            raise InputError(f"format {chosen!r}: unknown; use one of {', '.join(FORMATS)}")
        FORMATS[chosen].read(rows, collector)
    feedback = collector.feedback()
    if not feedback.prompts:
        reason = f"all {len(collector.bad)} rows are bad, the first: {collector.bad[0]}" if collector.bad else "no rows"
        raise InputError(f"{', '.join(map(str, paths))}: nothing to import ({reason}); check the format {name!r}")
    notes = dict(collector.notes)
    if empty := sum(not completion.text.strip() for completion in feedback.completions):
        notes["empty answers"] = empty
    return ImportResult(feedback, collector.rows, collector.bad_rows, tuple(collector.bad), notes)


def export_file(path: Path, name: str, feedback: Feedback) -> ExportResult:
    """Write the feedback in a format of ``FORMATS``; raises InputError for one that is only read."""
    written = [key for key, kind in FORMATS.items() if kind.write]
    form = FORMATS.get(name)
    if form is None or form.write is None:
        raise InputError(f"format {name!r}: cannot be written; use one of {', '.join(written)}")
    preferences = derive_preferences(
        feedback.prompts, feedback.completions, feedback.rankings, locations=feedback.locations
    )
    return form.write(path, feedback, preferences)


def guess_format(row: Row) -> str:
    """The format that a row's fields point to; raises InputError when none does."""
    value = row.checked()
    fields = set(value) if isinstance(value, dict) else set()
    if len(fields) == 1 and fields <= _KINDS.keys():
        return "humanward"
    if {"chosen", "rejected"} <= fields:
        transcript = isinstance(value["chosen"], str) and is_transcript(value["chosen"])
        return "hh-rlhf" if transcript and "prompt" not in fields else _table_or_trl(row, fields)
    for name, needed in _MARKS.items():
        if needed <= fields:
            return name
    if any(needed <= fields for needed in _DEMONSTRATIONS):
        return "demonstrations"
    raise InputError(
        f"{row.where}: no known format has the fields {sorted(map(str, fields))[:6]}; name it with --format"
    )


def _table_or_trl(row: Row, fields: set[str]) -> str:
    return "csv" if ".csv" in row.where or ".tsv" in row.where else "trl"


_MARKS = {
    "oasst": {"message_tree_id", "prompt"},
    "summarize-from-feedback": {"summaries", "choice"},
    "pandalm": {"instruction", "response1", "response2", "annotator1"},
    "qa-feedback": {"question", "prediction 1", "preference"},
    "label-studio": {"data", "annotations"},
    "argilla": {"fields", "responses"},
    "csv": {"completion", "rank"},
    "kto": {"prompt", "completion", "label"},
}
_DEMONSTRATIONS = ({"prompt", "completion"}, {"prompt", "response"}, {"messages"})
_KINDS: dict[str, type[Any]] = {"prompt": Prompt, "completion": Completion, "ranking": Ranking, "rating": Rating}


def _by_row(
    read: Callable[[Any, str], Iterator[Judged] | Iterator[Rated]],
) -> Callable[[Iterable[Row], Collector], None]:
    def read_all(rows: Iterable[Row], collector: Collector) -> None:
        for row in rows:
            collector.attempt(row, read)

    return read_all


def _read_own(rows: Iterable[Row], collector: Collector) -> None:
    """Lines ``{"prompt": {...}}``, ``{"completion": ...}``, ``{"ranking": ...}``, ``{"rating": ...}``; what one names
    comes first.
    """
    for row in rows:
        collector.rows += 1
        try:
            _add_own(row, collector)
        except InputError as error:
            collector.refuse(error)


def _add_own(row: Row, collector: Collector) -> None:
    value = object_row(collector.value_of(row), row.where)
    name = next(iter(value), "")
    if len(value) != 1 or name not in _KINDS:
        raise InputError(f"{row.where}: is not one of {', '.join(_KINDS)} alone; write e.g. {{'prompt': {{...}}}}")
    record = from_json(_KINDS[name], value[name], f"{row.where}, {name}")
    if isinstance(record, Ranking):
        check_ranking(record, collector.prompts, collector.completions, row.where)
        known: Any = collector.rankings.setdefault(record.id, (record, row.where))[0]
    elif isinstance(record, Rating):
        check_rating(record, collector.prompts, collector.completions, row.where)
        known = collector.ratings.setdefault(record.id, record)
    elif isinstance(record, Prompt):
        known = collector.prompts.setdefault(record.id, record)
    else:
        if record.prompt_id not in collector.prompts:
            raise InputError(
                f"{row.where}: unknown prompt {record.prompt_id!r}; write the prompt before its completions"
            )
        known = collector.completions.setdefault(record.id, record)
    if known != record:
        raise InputError(f"{row.where}: id {record.id!r} names another {name} already; give each its own")


def _write_own(path: Path, feedback: Feedback, _preferences: PreferenceSet) -> ExportResult:
    kinds = {
        "prompt": feedback.prompts,
        "completion": feedback.completions,
        "ranking": feedback.rankings,
        "rating": feedback.ratings,
    }
    rows = ({name: to_json(record)} for name, records in kinds.items() for record in records)
    return ExportResult(write_jsonl(path, rows), 0)


def _write_csv(path: Path, feedback: Feedback, _preferences: PreferenceSet) -> ExportResult:
    return ExportResult(write_csv(path, feedback), 0)


def _write_label_studio(path: Path, feedback: Feedback, _preferences: PreferenceSet) -> ExportResult:
    tasks, unordered = write_label_studio(path, feedback)
    return ExportResult(tasks, 0, unordered)


def _write_argilla(path: Path, feedback: Feedback, _preferences: PreferenceSet) -> ExportResult:
    records, unordered = write_argilla(path, feedback)
    return ExportResult(records, 0, unordered)


def _by_pair(render: Callable[[Preference], dict[str, Any]]) -> Callable[[Path, Feedback, PreferenceSet], ExportResult]:
    def write(path: Path, _feedback: Feedback, preferences: PreferenceSet) -> ExportResult:
        rows = (render(p) | _mark(p.simulated) for p in preferences.preferences if not p.tie)
        return ExportResult(write_jsonl(path, rows), preferences.ties)

    return write


def _mark(simulated: bool) -> dict[str, bool]:
    """A field that other tools pass over, and ours reads: nobody shall take for people's what was simulated."""
    return {"simulated": True} if simulated else {}


def _hh_rlhf(preference: Preference) -> dict[str, Any]:
    messages = preference.prompt.as_messages()
    return {name: render_transcript(messages, getattr(preference, name)) for name in ("chosen", "rejected")}


def _trl(preference: Preference) -> dict[str, Any]:
    return {
        "prompt": [to_json(message) for message in preference.prompt.as_messages()],
        "chosen": [{"role": "assistant", "content": preference.chosen}],
        "rejected": [{"role": "assistant", "content": preference.rejected}],
    }


def _trl_plain(preference: Preference) -> dict[str, Any]:
    if preference.prompt.messages:
        raise InputError(f"prompt {preference.prompt_id}: is a chat, which format 'trl-plain' cannot hold; use 'trl'")
    return {"prompt": preference.prompt.text, "chosen": preference.chosen, "rejected": preference.rejected}


def _write_kto(path: Path, feedback: Feedback, _preferences: PreferenceSet) -> ExportResult:
    derived = derive_labels(feedback.prompts, feedback.completions, feedback.ratings)
    if not derived.labels:
        raise InputError(f"{path}: there are no ratings to write in format 'kto'; choose 'trl' for pairs")
    rows = (
        {
            "prompt": [to_json(message) for message in label.prompt.as_messages()],
            "completion": [{"role": "assistant", "content": label.completion}],
            "label": label.desirable,
        }
        | _mark(label.simulated)
        for label in derived.labels
    )
    return ExportResult(write_jsonl(path, rows), 0)


FORMATS: dict[str, Format] = {
    "humanward": Format("our own JSON lines, lossless", _read_own, _write_own),
    "hh-rlhf": Format("Human/Assistant transcripts, chosen and rejected", _by_row(read_hh_rlhf), _by_pair(_hh_rlhf)),
    "trl": Format("chosen and rejected with or without prompt, texts or chats", _by_row(read_trl), _by_pair(_trl)),
    "trl-plain": Format("the same, written as plain texts", _by_row(read_trl), _by_pair(_trl_plain)),
    "csv": Format("a row a pair, or a row an answer with its rank", read_csv, _write_csv),
    "kto": Format("answers with a label, true or false, each by itself", _by_row(read_kto), _write_kto),
    "demonstrations": Format("prompts with an answer to imitate", _by_row(read_demonstration)),
    "oasst": Format("Open-Assistant message trees with ranks", _by_row(read_oasst)),
    "label-studio": Format(
        "Label Studio's JSON export, Ranker and Pairwise", _by_row(read_label_studio), _write_label_studio
    ),
    "argilla": Format("Argilla's records with responses to ranking questions", _by_row(read_argilla), _write_argilla),
    "summarize-from-feedback": Format("OpenAI's compared summaries", _by_row(read_summaries)),
    "pandalm": Format("PandaLM's pairs with several annotators", _by_row(read_pandalm)),
    "qa-feedback": Format("FineGrainedRLHF's four answers and six comparisons", _by_row(read_qa_feedback)),
}
