"""Rankings that were made in Label Studio or Argilla, read from their JSON exports.

Label Studio: the tags Ranker (https://labelstud.io/tags/ranker) and Pairwise (https://labelstud.io/tags/pairwise).
Argilla: the ranking question of its datasets, as exported by the server (ranks) and by the SDK (records with
``responses``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from humanward.errors import InputError
from humanward.feedback.importers import object_row, text_field, tiers_of_ranks
from humanward.feedback.judged import Answer, Judged
from humanward.prompts import make_prompt

PROMPT_FIELDS = ("prompt", "instruction", "question", "query", "input", "context", "messages")


def read_label_studio(value: Any, where: str) -> Iterator[Judged]:
    """``{data, annotations}``: every annotation that was not cancelled and holds a Ranker or Pairwise result."""
    data = object_row(object_row(value, where).get("data"), f"{where}, field 'data'")
    annotations = value.get("annotations")
    if not isinstance(annotations, list):
        raise InputError(f"{where}, field 'annotations': is missing or no list; export as JSON, not JSON-MIN")
    prompt = make_prompt(_prompt_of(data, where), f"{where}, field 'data'", source="label-studio")
    for number, annotation in enumerate(annotations, 1):
        here = f"{where}, annotation {number}"
        if object_row(annotation, here).get("was_cancelled"):
            continue
        for result in annotation.get("result") or ():
            judged = _label_studio_result(result, data, here)
            if judged is None:
                continue
            answers, tiers = judged
            seconds = annotation.get("lead_time")
            yield Judged(
                prompt,
                answers,
                tiers,
                annotator=_label_studio_name(annotation.get("completed_by")),
                criterion=_criterion(result.get("from_name"), ("rank", "ranker", "pairwise", "pw")),
                simulated=annotation.get("simulated") is True,
                seconds_spent=float(seconds) if isinstance(seconds, int | float) else None,
                created_at=str(annotation.get("created_at") or ""),
            )


Result = tuple[tuple[Answer, ...], tuple[tuple[int, ...], ...]]


def _label_studio_result(result: Any, data: dict[str, Any], where: str) -> Result | None:
    kind = object_row(result, where).get("type")
    content = result.get("value")
    if kind == "pairwise":
        selected = (content or {}).get("selected")
        if selected not in ("left", "right"):
            raise InputError(f"{where}, field 'selected': {str(selected)[:40]!r} is not left or right; correct it")
        answers = tuple(Answer(text_field(data, name, where, empty=True)) for name in _two_fields(data, where))
        return answers, ((0,), (1,)) if selected == "left" else ((1,), (0,))
    if kind != "ranker":
        return None
    orders = (content or {}).get("ranker")
    if isinstance(orders, list):
        orders = {"": orders}
    if not isinstance(orders, dict):
        raise InputError(f"{where}, field 'ranker': is missing or no object; it holds the ids in their new order")
    items = next(
        (v for v in data.values() if isinstance(v, list) and v and isinstance(v[0], dict) and "id" in v[0]), None
    )
    if items is None:
        raise InputError(f"{where}: its data has no list of items with ids; the Ranker orders such a list")
    places = {str(item["id"]): index for index, item in enumerate(items)}
    answers = tuple(
        Answer(str(item.get("body") or item.get("html") or item.get("title") or ""), item_id=str(item["id"]))
        for item in items
    )
    buckets = [ids for name, ids in orders.items() if name != "_"]
    # One list is an order; several are buckets, best first, whose items are equally good.
    tiers = [[i] for i in buckets[0]] if len(buckets) == 1 else [ids for ids in buckets if ids]
    named = [str(i) for tier in tiers for i in tier]
    if sorted(named) != sorted(places):
        raise InputError(f"{where}, field 'ranker': does not name every item once; rank all of them")
    return answers, tuple(tuple(places[str(i)] for i in tier) for tier in tiers)


def _label_studio_name(by: Any) -> str:
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    return "" if by is None else f"label-studio-{by}" if isinstance(by, int) else str(by)


def _two_fields(data: dict[str, Any], where: str) -> tuple[str, str]:
    """The two answers of a comparison: the fields whose names differ by their ending alone."""
    names = [name for name, text in data.items() if isinstance(text, str) and name not in PROMPT_FIELDS]
    for ending in (("1", "2"), ("a", "b"), ("A", "B"), ("_left", "_right"), ("left", "right")):
        for name in names:
            other = name.removesuffix(ending[0]) + ending[1]
            if name.endswith(ending[0]) and other in names:
                return name, other
    raise InputError(
        f"{where}: its data has no two answers such as 'answer1' and 'answer2' (found {sorted(names)[:6]})"
    )


def read_argilla(value: Any, where: str) -> Iterator[Judged]:
    """A record with ``fields`` and ``responses``, or flat: the fields, and answers to the ranking questions as lists
    (``ranking``, of Argilla 1) or columns (``ranking.responses``, ``ranking.responses.users``, of Argilla 2).

    A response's value is a list of ``{"value", "rank"}``, a list of option names in order, or ``{"value": [...],
    "rank": [...]}``; equal ranks are ties. Options are named as the fields that hold the answers. Only submitted
    responses are read.
    """
    fields = object_row(value, where).get("fields", value)
    object_row(fields, f"{where}, field 'fields'")
    own = value.get("humanward") if isinstance(value.get("humanward"), dict) else {}
    item_id = str(own.get("prompt_id") or value.get("id") or "")
    prompt = make_prompt(_prompt_of(fields, where), where, source="argilla", item_id=item_id)
    found = False
    for question, responses in _argilla_responses(value):
        for number, response in enumerate(responses, 1):
            here = f"{where}, question {question!r}, response {number}"
            ranked = _argilla_ranks(response, here)
            if ranked is None:
                continue
            found = True
            names = list(ranked)
            answers = tuple(Answer(_argilla_answer(fields, name, here)) for name in names)
            user = str(response.get("user_id") or "")
            person = (own.get("annotators") or {}).get(user, {"name": user})
            yield Judged(
                prompt,
                answers,
                tiers_of_ranks([ranked[name] for name in names]),
                annotator=str(person.get("name") or ""),
                criterion=_criterion(question, ("ranking", "rank", "preference")),
                simulated=person.get("simulated") is True,
            )
    if not found and not any(True for _ in _argilla_responses(value)):
        raise InputError(f"{where}: holds no responses to a ranking question; export records with their responses")


def _argilla_responses(value: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    responses = value.get("responses")
    if isinstance(responses, dict):
        yield from ((name, some) for name, some in responses.items() if isinstance(some, list))
    elif isinstance(responses, list):
        # The server's form: one object a person, with the values of all questions.
        for response in responses:
            if isinstance(response, dict) and isinstance(response.get("values"), dict):
                for name, answer in response["values"].items():
                    inner = answer.get("value") if isinstance(answer, dict) else answer
                    yield name, [{**response, "value": inner}]
    else:
        for name, some in value.items():
            if not isinstance(some, list) or not some:
                continue
            if all(isinstance(x, dict) and "user_id" in x for x in some):
                yield name, some
            elif name.endswith(".responses"):
                users, states = (value.get(f"{name}.{part}") or [None] * len(some) for part in ("users", "status"))
                rows = zip(some, users, states, strict=False)
                yield (
                    name.removesuffix(".responses"),
                    [{"value": answer, "user_id": user, "status": state} for answer, user, state in rows],
                )


def _argilla_ranks(response: dict[str, Any], where: str) -> dict[str, float] | None:
    """Ranks by option name; None for a draft, a discarded response, or an answer to another kind of question."""
    if response.get("status") not in (None, "submitted"):
        return None
    value = response.get("value")
    if isinstance(value, dict) and isinstance(value.get("rank"), list) and isinstance(value.get("value"), list):
        if len(value["rank"]) != len(value["value"]):
            raise InputError(f"{where}: has {len(value['rank'])} ranks for {len(value['value'])} options; correct it")
        return {str(name): _rank(rank, where) for name, rank in zip(value["value"], value["rank"], strict=True)}
    if not isinstance(value, list) or len(value) < 2:
        return None
    if all(isinstance(item, dict) and "value" in item and "rank" in item for item in value):
        return {str(item["value"]): _rank(item["rank"], where) for item in value}
    if all(isinstance(item, str) for item in value):
        return {name: float(place) for place, name in enumerate(value)}
    return None


def _rank(rank: Any, where: str) -> float:
    if isinstance(rank, bool) or not isinstance(rank, int | float):
        raise InputError(f"{where}: rank {str(rank)[:40]!r} is no number; rank every option")
    return float(rank)


def _argilla_answer(fields: dict[str, Any], name: str, where: str) -> str:
    by_plain = {re.sub(r"[-_ ]", "", key).lower(): key for key in fields}
    key = name if name in fields else by_plain.get(re.sub(r"[-_ ]", "", name).lower())
    if key is None:
        raise InputError(f"{where}: option {name[:40]!r} names no field (found {sorted(fields)[:6]}); name them alike")
    return text_field(fields, key, where, empty=True)


def _prompt_of(data: dict[str, Any], where: str) -> Any:
    name = next((field for field in PROMPT_FIELDS if data.get(field) not in (None, "", [])), None)
    if name is None:
        raise InputError(f"{where}: has no prompt; name its field one of {', '.join(PROMPT_FIELDS)}")
    return data[name]


def _criterion(name: Any, plain: Sequence[str]) -> str:
    return "overall" if not name or str(name).lower() in plain else str(name)
