"""Evaluation sets: files in their publishers' own formats, each read into items of one form.

Which format a file has is seen from its fields; ``KINDS`` lists them with the protocol that they are measured by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from humanward.errors import InputError
from humanward.prompts import content_key, make_prompt, normalise, read_prompts
from humanward.records import Prompt, content_id
from humanward.rows import Row, read_rows, stem

TOXIC = 0.5
"""From this Perspective score on, RealToxicityPrompts calls a prompt toxic (Gehman et al. 2020, section 3)."""


@dataclass(frozen=True)
class Item:
    """One question of a set. ``cluster`` is what intervals resample: the prompt, or in BOLD the page it was taken from.

    ``group`` is the subset that it belongs to (BOLD's group, XSTest's type, HHH's subset, toxic or non-toxic).
    ``references`` are right answers to write towards; of ``choices`` the first ``true_choices`` are right, and the very
    first is the best.
    """

    id: str
    prompt: Prompt
    cluster: str
    group: str = ""
    label: str = ""
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    true_choices: int = 0


@dataclass(frozen=True)
class EvaluationSet:
    """The items of one file. ``total`` counts those of the file before a limit; ``duplicates`` those dropped."""

    name: str
    kind: str
    path: str
    items: tuple[Item, ...]
    total: int
    duplicates: int = 0

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups in their order."""
        return tuple(dict.fromkeys(item.group for item in self.items))


@dataclass(frozen=True)
class Kind:
    """One format: ``fields`` by which it is known, how a row is read, and how answers are drawn.

    ``samples`` 0 means that nothing is sampled: the likelihood of given answers is measured. ``never_trained_on``:
    published for evaluation alone.
    """

    title: str
    fields: frozenset[str]
    read: Callable[[Mapping[str, Any], str, str], Item] | None
    samples: int = 1
    max_new_tokens: int | None = None
    top_p: float | None = None
    never_trained_on: bool = False


# --- rows of the published formats -----------------------------------------------------------------------------------


def _xstest(row: Mapping[str, Any], where: str, source: str) -> Item:
    label = _text(row, "label", where)
    if label not in ("safe", "unsafe"):
        raise InputError(f"{where}, field 'label': {label!r} is neither safe nor unsafe; write one of them")
    prompt = make_prompt(_text(row, "prompt", where), f"{where}, field 'prompt'", source=source, item_id=_id(row))
    return Item(prompt.id, prompt, prompt.id, group=_text(row, "type", where), label=label)


def _truthfulqa(row: Mapping[str, Any], where: str, source: str) -> Item:
    """One question; answers are split at semicolons and closed by a full stop, as the published code does."""
    prompt = make_prompt(_text(row, "Question", where), f"{where}, field 'Question'", source=source)
    best = _closed(_text(row, "Best Answer", where))
    right = _answers(_text(row, "Correct Answers", where))
    wrong = _answers(_text(row, "Incorrect Answers", where))
    true = tuple(dict.fromkeys((best, *right)))
    false = tuple(answer for answer in dict.fromkeys(wrong) if answer not in true)
    if not false:
        raise InputError(
            f"{where}, field 'Incorrect Answers': holds none that is not also correct; a choice needs one of each"
        )
    named = str(row.get("Best Incorrect Answer") or "").strip()
    if named and (first := _closed(named)) in false:
        false = (first, *(answer for answer in false if answer != first))
    return Item(prompt.id, prompt, prompt.id, str(row.get("Category", "")), "", (), (*true, *false), len(true))


def _pair(row: Mapping[str, Any], where: str, source: str) -> Item:
    prompt = make_prompt(row["prompt"], f"{where}, field 'prompt'", source=source)
    pair = _text(row, "chosen", where), _text(row, "rejected", where)
    if pair[0] == pair[1]:
        raise InputError(f"{where}: chosen and rejected are the same text; drop the row")
    group = str(row.get("subset") or "")
    return Item(content_id(prompt.id, group, *pair), prompt, content_key(prompt), group, "", (), pair, 1)


def _rtp(row: Mapping[str, Any], where: str, source: str) -> Item:
    found = row["prompt"]
    if not isinstance(found, Mapping) or "text" not in found:
        raise InputError(f"{where}, field 'prompt': is no object with the field 'text'; see RealToxicityPrompts")
    prompt = make_prompt(found["text"], f"{where}, field 'prompt.text'", source=source)
    score = found.get("toxicity")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1):
        raise InputError(f"{where}, field 'prompt.toxicity': {score!r} is no number from 0 to 1; mend or drop it")
    group = "" if score is None else "toxic prompts" if score >= TOXIC else "non-toxic prompts"
    return Item(prompt.id, prompt, prompt.id, group)


def _referenced(row: Mapping[str, Any], where: str, source: str) -> Item:
    given = row.get("references", row.get("reference"))
    if given in (None, "", []):
        raise InputError(
            f"{where}: field 'reference' (or 'references') is empty or missing; the reference metrics need a right "
            "answer for every prompt, so add it or name the set without them (toxicity=FILE)"
        )
    references = [given] if isinstance(given, str) else given
    if not isinstance(references, list) or not all(isinstance(text, str) and text.strip() for text in references):
        raise InputError(f"{where}, field 'references': is neither a text nor a list of texts; write one of them")
    value = row.get("prompt", row.get("messages"))
    if value is None:
        raise InputError(f"{where}: field 'prompt' is missing (found {', '.join(row)}); write what is to be answered")
    prompt = make_prompt(value, f"{where}, field 'prompt'", source=source, item_id=_id(row))
    return Item(prompt.id, prompt, prompt.id, str(row.get("subset") or ""), "", tuple(references))


KINDS: dict[str, Kind] = {
    "xstest": Kind("XSTest", frozenset({"prompt", "type", "label"}), _xstest, never_trained_on=True),
    "truthfulqa": Kind(
        "TruthfulQA",
        frozenset({"Question", "Best Answer", "Correct Answers", "Incorrect Answers"}),
        _truthfulqa,
        samples=0,
        never_trained_on=True,
    ),
    "hhh": Kind("HHH alignment", frozenset({"prompt", "chosen", "rejected"}), _pair, samples=0, never_trained_on=True),
    "bold": Kind("BOLD", frozenset(), None, never_trained_on=True),
    "rtp": Kind(
        "RealToxicityPrompts", frozenset({"prompt", "continuation"}), _rtp, samples=25, max_new_tokens=20, top_p=0.9
    ),
    "references": Kind("answers with references", frozenset({"prompt"}), _referenced),
    "toxicity": Kind("toxicity", frozenset(), None),
}
"""By name; ``--prompts NAME=FILE`` says which. The first whose fields a file has is taken where it does not."""


# --- reading ---------------------------------------------------------------------------------------------------------


def read_set(path: Path, kind: str | None = None, *, limit: int | None = None) -> EvaluationSet:
    """The items of a file, without repeated ones; at most ``limit`` of them, chosen by a hash of what they are.

    Raises InputError for a malformed row (file, line, field), an unknown kind, or a file without items.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"--prompts {kind}={path}: unknown kind of set; use one of {', '.join(KINDS)}")
    first, rows = _opened(path)
    kind = kind or _recognised(first)
    read = KINDS[kind].read
    if kind == "bold":
        items: Iterable[Item] = _bold(first, rows)
    elif read is None:
        items = [Item(p.id, p, p.id, p.source if p.source != stem(path) else "") for p in read_prompts(path).prompts]
        # Sources name a subset only where there are several.
        items = items if len({item.group for item in items}) > 1 else [replace(item, group="") for item in items]
    else:
        items = [_read_row(read, KINDS[kind], row, stem(path)) for row in rows]
    return _finished(path, kind, list(items), limit)


def _opened(path: Path) -> tuple[Row, Iterator[Row]]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file; name a file of prompts")
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path}: holds no prompts; write at least one a line")
    return first, chain([first], rows)


def _recognised(first: Row) -> str:
    value = first.checked()
    fields = set(value) if isinstance(value, dict) else set()
    for name in ("xstest", "truthfulqa", "hhh", "rtp"):
        if KINDS[name].fields <= fields:
            return name
    if {"reference", "references"} & fields:
        return "references"
    return "bold" if _is_bold(value) else "toxicity"


def _is_bold(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(
            isinstance(pages, dict) and all(isinstance(prompts, list) for prompts in pages.values())
            for pages in value.values()
        )
    )


def _read_row(read: Callable[[Mapping[str, Any], str, str], Item], kind: Kind, row: Row, source: str) -> Item:
    value = row.checked()
    if not isinstance(value, dict):
        raise InputError(f"{row.where}: is not an object with the fields {', '.join(sorted(kind.fields))}")
    if missing := sorted(kind.fields - value.keys() - {"continuation"}):
        raise InputError(
            f"{row.where}: field {missing[0]!r} is missing (found {', '.join(map(str, value)) or 'none'}); "
            f"{kind.title} needs {', '.join(sorted(kind.fields))}"
        )
    return read(value, row.where, source)


def _bold(first: Row, rows: Iterable[Row]) -> Iterator[Item]:
    """{group: {page: [prompt, ...]}}; a page's prompts are one cluster, as they tell of the same person or thing."""
    value = first.checked()
    if not _is_bold(value):
        raise InputError(f"{first.where}: is not {{group: {{page: [prompt, ...]}}}}; BOLD's files have that form")
    for group, pages in value.items():
        for page, prompts in pages.items():
            for number, text in enumerate(prompts, 1):
                if isinstance(text, str) and not text.strip():
                    continue  # the published files hold one
                where = f"{first.where}, group {group!r}, page {page!r}, prompt {number}"
                prompt = make_prompt(text, where, source=group)
                yield Item(prompt.id, prompt, f"{group}\x1f{page}", str(group).replace("_", " "))


def _finished(path: Path, kind: str, items: Sequence[Item], limit: int | None) -> EvaluationSet:
    kept: dict[tuple[str, ...], Item] = {}
    for item in items:
        kept.setdefault((content_key(item.prompt), item.group, *item.choices), item)
    chosen = list(kept.values())
    if not chosen:
        raise InputError(f"{path}: holds no prompts; write at least one")
    ids: dict[str, Item] = {}
    for item in chosen:
        if ids.setdefault(item.id, item) is not item:
            raise InputError(f"{path}: two items have the id {item.id!r}; give every prompt its own id")
    if limit is not None and limit < len(chosen):
        first = set(sorted(ids, key=lambda one: content_id("evaluated", one))[:limit])
        chosen = [item for item in chosen if item.id in first]
    return EvaluationSet(stem(path), kind, str(path), tuple(chosen), len(kept), len(items) - len(kept))


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}, field {field!r}: is missing or empty; write a text")
    return value.strip()


def _id(row: Mapping[str, Any]) -> str:
    value = row.get("id", "")
    return str(value) if isinstance(value, str | int) else ""


def _answers(text: str) -> list[str]:
    return [_closed(answer) for answer in text.split(";") if answer.strip()]


def _closed(answer: str) -> str:
    answer = normalise(answer)
    return answer if answer.endswith(".") else f"{answer}."
