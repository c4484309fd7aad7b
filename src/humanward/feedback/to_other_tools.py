"""Rankings as Label Studio's and Argilla's own JSON, which both tools import and ``other_tools`` reads back.

Label Studio: tasks with annotations (https://labelstud.io/guide/task_format), a Ranker with a bucket for each rank, so
that ties stay ties. Argilla: the records of ``dataset.records.to_json`` and ``from_json`` (argilla 2), with ranks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanward.errors import InputError, writing
from humanward.feedback.files import Feedback
from humanward.preferences import current_rankings
from humanward.records import Completion, Prompt, Ranking, to_json
from humanward.run_dir import write_text


@dataclass(frozen=True)
class Item:
    """Some answers to a prompt, and by criterion and person the rankings of them that are in force."""

    prompt: Prompt
    answers: tuple[Completion, ...]
    rankings: tuple[Ranking, ...]

    def people(self) -> dict[str, list[Ranking]]:
        """The rankings by annotator; those of people without a name each by itself."""
        found: dict[str, list[Ranking]] = {}
        for ranking in self.rankings:
            found.setdefault(ranking.annotator or f"\0{ranking.id}", []).append(ranking)
        return found


def items_of(feedback: Feedback) -> tuple[list[Item], int]:
    """(the sets of answers that people ranked, how many rankings have no order and cannot be written)."""
    prompts = {prompt.id: prompt for prompt in feedback.prompts}
    completions = {completion.id: completion for completion in feedback.completions}
    live = current_rankings(feedback.rankings)
    groups: dict[tuple[str, frozenset[str]], list[Ranking]] = {}
    for ranking in live:
        if ranking.tiers:
            ids = frozenset(c for tier in ranking.tiers for c in tier)
            groups.setdefault((ranking.prompt_id, ids), []).append(ranking)
    items = [
        Item(prompts[prompt_id], tuple(completions[c] for c in sorted(ids)), tuple(rankings))
        for (prompt_id, ids), rankings in groups.items()
    ]
    return items, len(live) - sum(len(item.rankings) for item in items)


def write_label_studio(path: Path, feedback: Feedback) -> tuple[int, int]:
    """(tasks written, rankings left out as they have no order)."""
    items, left_out = items_of(feedback)
    return _write(path, "label-studio", [_task(item) for item in items]), left_out


def _task(item: Item) -> dict[str, Any]:
    return {
        "data": {
            "prompt": _prompt(item.prompt, chat=bool(item.prompt.messages)),
            "items": [{"id": answer.id, "body": answer.text} for answer in item.answers],
        },
        "annotations": [_annotation(rankings, len(item.answers)) for rankings in item.people().values()],
    }


def _annotation(rankings: Sequence[Ranking], places: int) -> dict[str, Any]:
    first = rankings[0]
    marks = {"lead_time": first.seconds_spent, "created_at": first.created_at, "simulated": first.simulated}
    return {
        **({"completed_by": {"email": first.annotator}} if first.annotator else {}),
        "was_cancelled": False,
        "result": [
            {
                "id": ranking.id,
                "from_name": ranking.criterion,
                "to_name": "items",
                "type": "ranker",
                # Every rank has its bucket, empty ones too: a single bucket would be read as an order.
                "value": {
                    "ranker": {
                        f"rank {place + 1}": list(ranking.tiers[place]) if place < len(ranking.tiers) else []
                        for place in range(places)
                    }
                },
            }
            for ranking in rankings
        ],
        **{name: value for name, value in marks.items() if value},
    }


def write_argilla(path: Path, feedback: Feedback) -> tuple[int, int]:
    """(records written, rankings left out as they have no order)."""
    items, left_out = items_of(feedback)
    # A field of a dataset is text or chat in all its records.
    chat = any(item.prompt.messages for item in items)
    seen: dict[str, int] = {}
    records = []
    for item in items:
        number = seen[item.prompt.id] = seen.get(item.prompt.id, 0) + 1
        records.append(_record(item, item.prompt.id if number == 1 else f"{item.prompt.id}-{number}", chat=chat))
    return _write(path, "argilla", records), left_out


def _record(item: Item, record_id: str, *, chat: bool) -> dict[str, Any]:
    options = {answer.id: f"response-{number}" for number, answer in enumerate(item.answers, 1)}
    responses: dict[str, list[dict[str, Any]]] = {}
    annotators: dict[str, dict[str, Any]] = {}
    for name, rankings in item.people().items():
        user = _user_id(name)
        annotators[user] = {"name": rankings[0].annotator, "simulated": rankings[0].simulated}
        for ranking in rankings:
            value = [{"value": options[c], "rank": rank} for rank, tier in enumerate(ranking.tiers, 1) for c in tier]
            answer = {"value": value, "user_id": user, "status": "submitted"}
            responses.setdefault(ranking.criterion, []).append(answer)
    return {
        "id": record_id,
        "fields": {
            "prompt": _prompt(item.prompt, chat=chat),
            **{options[answer.id]: answer.text for answer in item.answers},
        },
        "metadata": {},
        "suggestions": {},
        "responses": responses,
        "vectors": {},
        # Argilla passes this over; our reader gives people their names back by it.
        "humanward": {"prompt_id": item.prompt.id, "annotators": annotators},
    }


def _user_id(name: str) -> str:
    """Argilla's people are UUIDs: the name itself if it is one, else one made of it."""
    try:
        return str(uuid.UUID(name))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"humanward:{name}"))


def _prompt(prompt: Prompt, *, chat: bool) -> Any:
    return [to_json(message) for message in prompt.as_messages()] if chat else prompt.text


def _write(path: Path, name: str, rows: Sequence[dict[str, Any]]) -> int:
    if path.suffix.lower() != ".json":
        raise InputError(f"{path}: format {name!r} is one JSON list; let the file's name end in .json")
    if not rows:
        raise InputError(f"{path}: there are no rankings to write in format {name!r}; choose 'humanward' for answers")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(_list(rows)))
    return len(rows)


def _list(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield "[\n" if number == 0 else ",\n"
        yield json.dumps(row, ensure_ascii=False, allow_nan=False)
    yield "\n]\n"
