"""Prompts from a file or folder, without duplicates, and their split into train, validation and test.

The forms that are read are listed in docs/files.md.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from humanward.errors import InputError
from humanward.records import Message, Prompt, content_id, from_json
from humanward.rows import KINDS, Row, read_rows, stem

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {**{name: name for name in SPLITS}, "valid": "validation", "val": "validation", "dev": "validation"}
ROLES = ("system", "user", "assistant")
PROMPT_FIELDS = ("messages", "prompt", "text")


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file in their order, each content once.

    ``duplicates`` counts those that were dropped, ``short`` and ``long`` the rows outside the form's limits.
    """

    prompts: tuple[Prompt, ...]
    duplicates: int
    short: int = 0
    long: int = 0


@dataclass(frozen=True)
class PromptForm:
    """How a row becomes a prompt.

    ``field`` names the field that holds the text (None: those of ``PROMPT_FIELDS``), ``template`` what is built around
    it, where ``{NAME}`` stands for a field of the row. Texts, before the template, of fewer than ``min_characters`` or
    more than ``max_characters`` are left out.
    """

    field: str | None = None
    template: str | None = None
    min_characters: int = 0
    max_characters: int | None = None


def read_prompts(path: Path, form: PromptForm = PromptForm()) -> PromptFile:
    """The prompts of a file, or of a folder that holds ``train``, ``validation`` or ``test`` files.

    A later prompt with the content of an earlier one (white space apart) is dropped and counted.
    Raises InputError for a malformed row (file, line, field), an empty file, or one id with two contents.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    prompts: list[Prompt] = []
    by_content: dict[str, Prompt] = {}
    by_id: dict[str, Prompt] = {}
    duplicates = short = long = 0
    for file, split in _files(path):
        for row in read_rows(file):
            prompt, length = _prompt_from_row(row, stem(path), split, form)
            if length < form.min_characters:
                short += 1
                continue
            if form.max_characters is not None and length > form.max_characters:
                long += 1
                continue
            if content_key(prompt) in by_content:
                duplicates += 1
                continue
            if prompt.id in by_id:
                raise InputError(
                    f"{row.where}: id {prompt.id!r} names another prompt already; give every prompt its own"
                )
            by_content[content_key(prompt)] = by_id[prompt.id] = prompt
            prompts.append(prompt)
    if not prompts and short + long:
        most = "" if form.max_characters is None else f" to {form.max_characters}"
        raise InputError(
            f"{path}: of {short + long} prompts none has {form.min_characters}{most} characters; "
            "change prompts.min_characters or prompts.max_characters"
        )
    if not prompts:
        raise InputError(f"{path}: holds no prompts; write at least one a line")
    return PromptFile(tuple(prompts), duplicates, short, long)


def make_prompt(value: Any, where: str, *, source: str, item_id: str = "", split: str = "") -> Prompt:
    """A prompt from a text or a list of chat messages; its id comes from source, item id and content.

    A chat of a single user turn is the same as its text. Raises InputError naming ``where``.
    """
    text, messages = value, ()  # type: str, tuple[Message, ...]
    if isinstance(value, str):
        _require_text(value, where)
    else:
        chat = parse_messages(value, where)
        if chat[-1].role != "user":
            raise InputError(f"{where}: the last message is by {chat[-1].role}, not user; drop it from the prompt")
        text, messages = chat[-1].content, chat if len(chat) > 1 else ()
    prompt = Prompt("", text, messages, source, split)
    return replace(prompt, id=content_id(source, item_id, content_key(prompt)))


def parse_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Chat messages, checked: an optional system turn first, then user and assistant in turn, no turn empty.

    ``content`` is text or a list of ``{"type": "text", "text": ...}`` parts. Raises InputError naming ``where``.
    """
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{where}: {_short(value)} is neither text nor a list of messages; write one of them")
    messages: list[Message] = []
    for index, item in enumerate(value):
        here = f"{where}, message {index + 1}"
        if isinstance(item, Message):
            item = {"role": item.role, "content": item.content}
        if not isinstance(item, dict) or not isinstance(item.get("role"), str) or "content" not in item:
            raise InputError(f"{here}: {_short(item)} is not an object with the texts 'role' and 'content'")
        role, content = item["role"], content_text(item["content"], here)
        if role not in ROLES:
            raise InputError(f"{here}: role {role!r} is not one of {', '.join(ROLES)}; rename it")
        _require_text(content, f"{here}, field 'content'")
        messages.append(Message(role, content))
    _check_order(messages, where)
    return tuple(messages)


def content_text(content: Any, where: str) -> str:
    """A message's content as text: text as it is, text parts put together. Raises InputError naming ``where``."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in parts):
        return "".join(part["text"] for part in parts)
    raise InputError(f"{where}, field 'content': {_short(content)} is not text; only text can be used")


def normalise(text: str) -> str:
    """The text in Unicode NFC with every run of white space as one blank: equal for texts of one wording."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


def content_key(prompt: Prompt) -> str:
    """The prompt's whole normalised content: equal for duplicates."""
    return "\x1e".join(f"{m.role}\x1f{normalise(m.content)}" for m in prompt.as_messages())


def opening_key(prompt: Prompt) -> str:
    """The normalised first user turn, which decides the split: continuations of one chat stay on one side."""
    return normalise(next(m.content for m in prompt.as_messages() if m.role == "user"))


def split_prompts(prompts: Iterable[Prompt], fractions: Mapping[str, float], seed: int = 0) -> tuple[Prompt, ...]:
    """The prompts with ``split`` set, by a hash of ``seed`` and the opening turn; a split already set stays.

    A prompt whose opening is already split joins it. Adding prompts without a split never moves another.
    ``fractions`` maps split names to shares that sum to 1; with few prompts a small share may stay empty.
    Raises InputError for bad fractions, or for a prompt that is in two splits already.
    """
    _check_fractions(fractions)
    prompts = tuple(prompts)
    taken: dict[str, str] = {}
    for prompt in prompts:
        if prompt.split:
            taken.setdefault(opening_key(prompt), prompt.split)
    result = tuple(_with_split(prompt, taken, fractions, seed) for prompt in prompts)
    check_splits(result)
    return result


def hold_out(openings: Iterable[str], fraction: float, at_least: int = 0) -> set[str]:
    """``fraction`` of the openings, at least ``at_least`` of them, chosen by a hash: a larger share holds a smaller."""
    ordered = sorted(set(openings), key=lambda opening: content_id("held out", opening))
    return set(ordered[: max(at_least, round(fraction * len(ordered)))])


def check_splits(prompts: Iterable[Prompt]) -> None:
    """Raise InputError for a prompt, by content, that is in more than one split, or a split of unknown name."""
    seen: dict[str, Prompt] = {}
    for prompt in prompts:
        if prompt.split and prompt.split not in SPLITS:
            raise InputError(f"prompt {prompt.id}: split {prompt.split!r} is not one of {', '.join(SPLITS)}; rename it")
        first = seen.setdefault(content_key(prompt), prompt)
        if first.split != prompt.split:
            raise InputError(
                f"prompt {prompt.id}: is in split {first.split!r} and in {prompt.split!r}; keep it in one of them"
            )


def parse_fractions(text: str) -> dict[str, float]:
    """``train=0.8,validation=0.1,test=0.1`` as a dictionary; raises InputError."""
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            fractions[name.strip()] = float(value)
        except ValueError:
            raise InputError(
                f"split {text!r}: {part!r} is not NAME=SHARE; write e.g. train=0.9,validation=0.1"
            ) from None
    _check_fractions(fractions)
    return fractions


def _files(path: Path) -> list[tuple[Path, str]]:
    if not path.is_dir():
        return [(path, "")]
    found = [
        (file, SPLIT_NAMES[stem(file)])
        for file in sorted(path.iterdir())
        if stem(file) in SPLIT_NAMES and Path(file.name.removesuffix(".gz")).suffix in KINDS
    ]
    if not found:
        raise InputError(f"{path}: holds no train, validation or test file; name a file, or add e.g. train.jsonl")
    splits = [split for _, split in found]
    if repeated := next((split for split in splits if splits.count(split) > 1), None):
        names = ", ".join(file.name for file, split in found if split == repeated)
        raise InputError(f"{path}: {names} are all the {repeated} split; keep one of them")
    return sorted(found, key=lambda item: SPLITS.index(item[1]))


def typed_prompt(text: str, form: PromptForm) -> str:
    """A prompt that a person typed, as the model reads it: in the form's template, whose other fields stay empty."""
    if form.template is None:
        return text
    return re.sub(r"\{(\w+)\}", lambda match: text if match[1] == form.field else "", form.template)


def _prompt_from_row(row: Row, source: str, split: str, form: PromptForm) -> tuple[Prompt, int]:
    """(the prompt, characters of its text before the template)."""
    value = row.checked()
    if isinstance(value, str):
        if form.field is not None:
            raise InputError(f"{row.where}: a text alone has no field {form.field!r}; leave prompts.field out")
        return make_prompt(value, row.where, source=source, split=split), len(value)
    if not isinstance(value, dict):
        raise InputError(f"{row.where}: {_short(value)} is not an object with a prompt; write one object a line")
    own = {f.name for f in fields(Prompt)}
    if form.field is not None:
        content, length = _in_form(value, row.where, form)
        where = f"{row.where}, field {form.field!r}"
    elif isinstance(value.get("id"), str) and isinstance(value.get("text"), str) and value.keys() <= own:
        prompt = _own_prompt(value, row.where, split)
        return prompt, len(prompt.text)
    else:
        content, where = _usual_field(value, row.where)
        length = len(content) if isinstance(content, str) else 0
    item_id = value.get("id", "")
    named = value.get("source")
    prompt = make_prompt(
        content,
        where,
        source=named if isinstance(named, str) and named else source,
        item_id=str(item_id) if isinstance(item_id, str | int) else "",
        split=_agreed_split(value.get("split"), split, row.where),
    )
    return prompt, length or len(prompt.text)


def _in_form(value: Mapping[str, Any], where: str, form: PromptForm) -> tuple[Any, int]:
    """(the prompt's content, characters of the form's field) of a row."""

    def text_of(name: str) -> str:
        if name not in value:
            raise InputError(
                f"{where}: has no field {name!r} (found {', '.join(map(str, value)) or 'none'}); "
                f"correct prompts.{'field' if name == form.field else 'template'}"
            )
        found = value[name]
        if isinstance(found, int | float) and not isinstance(found, bool):
            return str(found)
        _require_text(found, f"{where}, field {name!r}")
        return found

    assert form.field is not None
    if form.template is None:
        content = value[form.field] if isinstance(value.get(form.field), list) else text_of(form.field)
        return content, len(content) if isinstance(content, str) else 0
    text = text_of(form.field)
    return re.sub(r"\{(\w+)\}", lambda match: text_of(match[1]), form.template), len(text)


def _usual_field(value: Mapping[str, Any], row: str) -> tuple[Any, str]:
    """(content, where it stands) of the first of ``PROMPT_FIELDS`` that a row fills."""
    name = next((field for field in PROMPT_FIELDS if value.get(field) not in (None, "")), None)
    if name is None:
        raise InputError(
            f"{row}: field 'prompt' is missing (found {', '.join(map(str, value)) or 'none'}); "
            f"name one of {', '.join(PROMPT_FIELDS)}, or another field in prompts.field"
        )
    content = value[name]
    if name == "prompt" and isinstance(content, dict):
        return content.get("text"), f"{row}, field 'prompt.text'"
    return content, f"{row}, field {name!r}"


def _own_prompt(value: dict[str, Any], where: str, split: str) -> Prompt:
    prompt = from_json(Prompt, value, where)
    if not prompt.id:
        raise InputError(f"{where}, field 'id': is empty; give every prompt its own id, or leave the field out")
    _require_text(prompt.text, f"{where}, field 'text'")
    split = _agreed_split(prompt.split, split, where)
    if not prompt.messages:
        return replace(prompt, split=split)
    checked = make_prompt(list(prompt.messages), f"{where}, field 'messages'", source=prompt.source)
    if checked.text != prompt.text:
        raise InputError(f"{where}, field 'text': differs from the last user message; make them equal")
    return replace(prompt, messages=checked.messages, split=split)


def _agreed_split(own: Any, file: str, where: str) -> str:
    if own in (None, ""):
        return file
    if not isinstance(own, str) or own not in SPLIT_NAMES:
        raise InputError(f"{where}, field 'split': {_short(own)} is not one of {', '.join(SPLITS)}; rename it")
    if file and SPLIT_NAMES[own] != file:
        raise InputError(f"{where}, field 'split': {own!r} in the file for {file}; move the line or drop the field")
    return SPLIT_NAMES[own]


def _check_order(messages: Sequence[Message], where: str) -> None:
    turns = messages[1:] if messages[0].role == "system" else messages
    for index, message in enumerate(turns):
        expected = "user" if index % 2 == 0 else "assistant"
        if message.role != expected:
            number = index + 1 + len(messages) - len(turns)
            raise InputError(
                f"{where}, message {number}: role {message.role!r} where {expected!r} is due; "
                "after an optional system message user and assistant take turns"
            )
    if not turns:
        raise InputError(f"{where}: holds a system message alone; add a user message")


def _require_text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{where}: {_short(value)} is not text; write a text")
    if not value.strip():
        raise InputError(f"{where}: is empty; write a text or drop the row")


def _check_fractions(fractions: Mapping[str, float]) -> None:
    for name, share in fractions.items():
        if name not in SPLITS:
            raise InputError(f"split {name!r}: is not one of {', '.join(SPLITS)}; rename it")
        if not 0 <= share <= 1:
            raise InputError(f"split {name}={share}: a share lies between 0 and 1; choose another")
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise InputError(f"splits {dict(fractions)}: shares sum to {sum(fractions.values()):g}, not 1; change one")


def _with_split(prompt: Prompt, taken: Mapping[str, str], fractions: Mapping[str, float], seed: int) -> Prompt:
    if prompt.split:
        return prompt
    key = opening_key(prompt)
    return replace(prompt, split=taken.get(key) or _hashed_split(key, fractions, seed))


def _hashed_split(key: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    reached = 0.0
    chosen = ""
    for name, share in fractions.items():
        if share:
            chosen = name
            reached += share
            if point < reached:
                break
    return chosen


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
