"""What workers rank: one item a prompt, with its answers in the order in which they are shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from humanward.errors import InputError
from humanward.feedback.connectors.limits import INPUT_BYTES, MANIFEST_LINE
from humanward.records import Completion, Prompt, content_id

# Some readers of lines end one at these, too; inside a text of JSON an escape means the same.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Item:
    """A prompt and the answers to rank; ``completion_ids[i]`` is the answer whose text is ``responses[i]``."""

    prompt_id: str
    source: str
    responses: tuple[str, ...]
    completion_ids: tuple[str, ...]

    def line(self) -> str:
        """The item as one line of JSON: of an input manifest, or the input of a human loop."""
        value = {
            "source": self.source,
            "responses": list(self.responses),
            "item_id": self.prompt_id,
            "completion_ids": list(self.completion_ids),
        }
        line = json.dumps(value, ensure_ascii=False)
        return line.translate(_LINE_ENDS)


@dataclass(frozen=True)
class Items:
    """The items of a publication; ``left_out`` prompts have fewer than two answers."""

    items: tuple[Item, ...]
    left_out: int


def build_items(prompts: Iterable[Prompt], completions: Iterable[Completion], limit: int | None = None) -> Items:
    """One item for every prompt with two or more answers, the first ``limit`` of them.

    The answers of a prompt are in an order that depends on their ids alone, so that their place tells nothing of the
    model, and publishing again publishes the same. Raises InputError where nothing can be ranked.
    """
    answers: dict[str, list[Completion]] = {}
    for completion in completions:
        answers.setdefault(completion.prompt_id, []).append(completion)
    items: list[Item] = []
    left_out = 0
    for prompt in prompts:
        own = sorted(answers.get(prompt.id, []), key=lambda c: content_id("shown", prompt.id, c.id))
        if len(own) < 2:
            left_out += 1
            continue
        item = Item(prompt.id, source_text(prompt), tuple(c.text for c in own), tuple(c.id for c in own))
        items.append(item)
        if len(items) == limit:
            break
    if not items:
        raise InputError("no prompt of the run has two answers; sample some with: humanward sample --run DIR")
    return Items(tuple(items), left_out)


def source_text(prompt: Prompt) -> str:
    """What the worker reads as the prompt: its text, or all turns of the chat with the names of the roles."""
    if not prompt.messages:
        return prompt.text
    return "\n\n".join(f"{_NAMES.get(m.role, m.role)}: {m.content}" for m in prompt.messages)


def check_items(items: Sequence[Item], *, characters: int | None = MANIFEST_LINE, size: int = INPUT_BYTES) -> None:
    """Raise InputError, naming the prompt, for an item that a service does not take or would read otherwise."""
    for item in items:
        line = item.line()
        if characters is not None and len(line) > characters:
            raise InputError(
                f"prompt {item.prompt_id!r}: its line of the manifest has {len(line)} characters, {characters} are "
                "allowed; leave it out or shorten its answers"
            )
        if len(line.encode()) > size:
            raise InputError(
                f"prompt {item.prompt_id!r}: its input has {len(line.encode())} bytes, {size} are allowed; leave it out"
            )
        if not item.source.strip():
            raise InputError(f"prompt {item.prompt_id!r}: is empty, but Ground Truth needs a text; leave it out")
        if item.source.startswith("s3://") and not any(c.isspace() for c in item.source):
            raise InputError(f"prompt {item.prompt_id!r}: is an S3 address, which AWS would open; put words around it")


class Finder:
    """Finds the item that a line of an output manifest, or the input of a human loop, is about.

    By ``item_id`` (the prompt's id) and ``completion_ids`` where they are there, and by the texts otherwise. With
    ``add`` an item that the run does not know becomes a new prompt with new completions (``prompts``, ``completions``).
    """

    def __init__(self, prompts: Iterable[Prompt], completions: Iterable[Completion], *, add: bool = False) -> None:
        self._known = {prompt.id: prompt for prompt in prompts}
        self._answers: dict[str, dict[str, Completion]] = {}
        for completion in completions:
            self._answers.setdefault(completion.prompt_id, {})[completion.id] = completion
        self._by_source: dict[str, list[str]] = {}
        for prompt in self._known.values():
            self._by_source.setdefault(source_text(prompt), []).append(prompt.id)
        self._add = add
        self.prompts: dict[str, Prompt] = {}
        self.completions: dict[str, Completion] = {}

    def find(self, value: dict[str, Any], place: str, where: str) -> Item:
        """The item; ``place`` (job and line, or loop) identifies one without ``item_id``.

        Raises InputError, naming ``where``, for an unknown or ambiguous item, or answers that differ from the run's.
        """
        source, responses = _shown(value, where)
        item_id = value.get("item_id")
        if item_id is not None and not isinstance(item_id, str):
            raise InputError(f"{where}, field 'item_id': {item_id!r} is not text; write the prompt's id")
        if self._add and _new_id(source, item_id or place) in self._known:
            return self._new(source, responses, item_id or place)
        prompt_id = item_id if item_id in self._known else None
        if item_id is None:
            same = self._by_source.get(source, [])
            if len(same) > 1:
                raise InputError(
                    f"{where}: {len(same)} prompts of the run have this text; add item_id, the prompt's id"
                )
            prompt_id = same[0] if same else None
        if prompt_id is None:
            if not self._add:
                named = f"item {item_id!r}" if item_id is not None else "its prompt"
                raise InputError(f"{where}: {named} is not in the run; check --run, or import it with --add-prompts")
            return self._new(source, responses, item_id or place)
        return Item(prompt_id, source, responses, self._completion_ids(prompt_id, value, responses, where))

    def _completion_ids(
        self, prompt_id: str, value: dict[str, Any], responses: tuple[str, ...], where: str
    ) -> tuple[str, ...]:
        known = self._answers.get(prompt_id, {})
        ids = value.get("completion_ids")
        if ids is None:
            left = dict(known)
            ids = []
            for number, text in enumerate(responses, 1):
                match = next((key for key, completion in left.items() if completion.text == text), None)
                if match is None:
                    raise InputError(f"{where}: answer {number} is no completion of prompt {prompt_id!r} of the run")
                ids.append(match)
                del left[match]
            return tuple(ids)
        if not isinstance(ids, list) or len(ids) != len(responses) or len(set(map(str, ids))) != len(ids):
            raise InputError(f"{where}, field 'completion_ids': is not one id for each of {len(responses)} answers")
        for number, (key, text) in enumerate(zip(ids, responses, strict=True), 1):
            if key not in known:
                raise InputError(f"{where}: completion {key!r} of prompt {prompt_id!r} is not in the run; check --run")
            if known[key].text != text:
                raise InputError(
                    f"{where}: answer {number} is not the text of completion {key!r} of the run; check --run"
                )
        return tuple(ids)

    def _new(self, source: str, responses: tuple[str, ...], place: str) -> Item:
        prompt = Prompt(_new_id(source, place), source, source="aws")
        self.prompts[prompt.id] = prompt
        ids = tuple(content_id(prompt.id, str(index), text) for index, text in enumerate(responses))
        for key, text in zip(ids, responses, strict=True):
            self.completions[key] = Completion(key, prompt.id, text, model="")
        return Item(prompt.id, source, responses, ids)


def _new_id(source: str, place: str) -> str:
    return content_id("aws", place, source)


def _shown(value: dict[str, Any], where: str) -> tuple[str, tuple[str, ...]]:
    """(prompt, answers), also of inputs that nest them in ``taskObject``, as AWS's notebooks do."""
    inner = value.get("taskObject", value)
    inner = inner if isinstance(inner, dict) else value
    source = inner.get("source", inner.get("prompt"))
    responses = inner.get("responses")
    if not isinstance(source, str):
        raise InputError(f"{where}, field 'source': is missing or not text; it holds the prompt")
    if not isinstance(responses, list) or len(responses) < 2 or not all(isinstance(text, str) for text in responses):
        raise InputError(f"{where}, field 'responses': is no list of two or more texts; it holds the answers")
    return source, tuple(responses)
