"""Exports of Label Studio and Argilla."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from humanward.errors import InputError
from humanward.feedback.formats import import_files
from humanward.preferences import derive_preferences


def ranked(tmp_path: Path, rows: list[Any], name: str = "auto") -> list[tuple[str, str, list[list[str]]]]:
    """(annotator, criterion, tiers of texts) of every ranking."""
    path = tmp_path / "export.json"
    path.write_text(json.dumps(rows))
    feedback = import_files([path], name).feedback
    texts = {completion.id: completion.text for completion in feedback.completions}
    derive_preferences(feedback.prompts, feedback.completions, feedback.rankings)
    return [(r.annotator, r.criterion, [sorted(texts[c] for c in t) for t in r.tiers]) for r in feedback.rankings]


def ranker(order: Any, **more: Any) -> dict[str, Any]:
    result = {"type": "ranker", "from_name": "rank", "to_name": "answers", "value": {"ranker": order}}
    return {"completed_by": {"id": 3, "email": "ada@example.org"}, "result": [result], "lead_time": 12.5, **more}


ITEMS = [{"id": "a", "title": "A", "body": "first"}, {"id": "b", "title": "B", "body": "second"}]


def test_label_studio_ranker_and_buckets(tmp_path: Path) -> None:
    items = [*ITEMS, {"id": "c", "title": "third"}]
    rows = [
        {
            "id": 1,
            "data": {"prompt": "Why?", "items": items},
            "annotations": [
                ranker({"rank": ["b", "c", "a"]}),
                ranker({"good": ["b", "a"], "bad": ["c"], "_": []}, completed_by=7),
                ranker({"rank": ["a"]}, was_cancelled=True),
            ],
        }
    ]
    assert ranked(tmp_path, rows) == [
        ("ada@example.org", "overall", [["second"], ["third"], ["first"]]),
        ("label-studio-7", "overall", [["first", "second"], ["third"]]),
    ]


def test_label_studio_pairwise(tmp_path: Path) -> None:
    result = {"type": "pairwise", "from_name": "honest", "value": {"selected": "right"}}
    rows = [
        {
            "data": {"prompt": "Why?", "answer1": "x", "answer2": "y"},
            "annotations": [{"completed_by": 1, "result": [result, {"type": "choices", "value": {}}]}],
        }
    ]
    assert ranked(tmp_path, rows) == [("label-studio-1", "honest", [["y"], ["x"]])]


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"data": {"prompt": "Why?", "items": ITEMS}, "annotations": [ranker({"rank": ["a"]})]}, "every item once"),
        ({"data": {"items": ITEMS}, "annotations": []}, "has no prompt"),
        ({"data": {"prompt": "Why?"}, "annotations": [ranker({"rank": ["a"]})]}, "no list of items"),
        ({"data": {"prompt": "Why?"}}, "field 'annotations'"),
        (
            {"data": {"prompt": "Why?", "x": "1"}, "annotations": [{"result": [{"type": "pairwise", "value": {}}]}]},
            "left or right",
        ),
    ],
)
def test_label_studio_rows_that_cannot_be_read(tmp_path: Path, row: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        ranked(tmp_path, [row], "label-studio")


FIELDS = {"instruction": "Why?", "response-1": "x", "response-2": "y", "response-3": "z"}


@pytest.mark.parametrize(
    "value",
    [
        [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}, {"value": "response-3", "rank": 2}],
        {"rank": [1, 2, 2], "value": ["response_2", "response_1", "response_3"]},
    ],
)
def test_argilla_keeps_ties(tmp_path: Path, value: Any) -> None:
    people = [
        {"user_id": "u1", "value": value, "status": "submitted"},
        {"user_id": "u2", "value": value, "status": "draft"},
    ]
    for row in ({"id": "7", "fields": FIELDS, "responses": {"ranking": people}}, {**FIELDS, "ranking": people}):
        assert ranked(tmp_path, [row], "argilla") == [("u1", "overall", [["y"], ["x", "z"]])]


def test_argilla_of_the_server_and_in_order(tmp_path: Path) -> None:
    order = ["response-3", "response-1", "response-2"]
    values = {"honest": {"value": order}, "comment": {"value": "none"}}
    row = {"fields": FIELDS, "responses": [{"user_id": "u1", "status": "submitted", "values": values}]}
    assert ranked(tmp_path, [row]) == [("u1", "honest", [["z"], ["x"], ["y"]])]


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"fields": FIELDS, "responses": {"ranking": [{"value": ["response-1", "other"]}]}}, "names no field"),
        ({"fields": FIELDS, "responses": {}}, "no responses"),
        ({"fields": {"response-1": "x"}, "responses": {}}, "has no prompt"),
        (
            {"fields": FIELDS, "responses": {"r": [{"value": [{"value": "response-1", "rank": None}] * 2}]}},
            "is no number",
        ),
    ],
)
def test_argilla_rows_that_cannot_be_read(tmp_path: Path, row: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        ranked(tmp_path, [row], "argilla")
