"""Labelled answers and demonstrations: read, kept, merged and written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from humanward.errors import InputError
from humanward.feedback.files import Feedback, merge, read_feedback, write_feedback
from humanward.feedback.formats import export_file, guess_format, import_files
from humanward.labels import derive_labels
from humanward.preferences import PreferenceSet
from humanward.rows import Row


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(tmp_path: Path, name: str, *rows: Any) -> Feedback:
    return import_files([lines(tmp_path / "rows.jsonl", *rows)], name).feedback


def said(feedback: Feedback) -> list[tuple[str, str, float]]:
    """(prompt, answer, value) of each rating."""
    prompts = {p.id: p.text for p in feedback.prompts}
    answers = {c.id: c for c in feedback.completions}
    return [
        (prompts[answers[r.completion_id].prompt_id], answers[r.completion_id].text, r.value) for r in feedback.ratings
    ]


def test_trl_unpaired_preferences(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}]
    feedback = read(
        tmp_path,
        "kto",
        {"prompt": "Why?", "completion": "Because.", "label": True, "annotator": "ada"},
        {"prompt": chat, "completion": [{"role": "assistant", "content": "Go away."}], "label": False},
        {"prompt": "How?", "completion": "", "label": 0},
    )
    assert said(feedback) == [("Why?", "Because.", 1.0), ("Why?", "Go away.", 0.0), ("How?", "", 0.0)]
    assert len(feedback.prompts) == 2
    assert [r.annotator for r in feedback.ratings] == ["ada", "", ""]
    assert feedback.rankings == ()
    assert not any(r.simulated for r in feedback.ratings)


def test_labels_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "thumbs.csv"
    path.write_text("prompt,completion,label\nWhy?,Because.,TRUE\nWhy?,Go away.,false\n", encoding="utf-8")
    assert [value for _, _, value in said(import_files([path], "auto").feedback)] == [1.0, 0.0]


def test_demonstrations(tmp_path: Path) -> None:
    feedback = read(
        tmp_path,
        "demonstrations",
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": "How?", "response": "Like this."},
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "Me."},
            ]
        },
    )
    assert said(feedback) == [("Why?", "Because.", 1.0), ("How?", "Like this.", 1.0), ("Who?", "Me.", 1.0)]
    assert [m.content for m in feedback.prompts[2].messages] == ["Be kind.", "Who?"]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "a", "completion": "b", "label": True}, "kto"),
        ({"prompt": "a", "completion": "b"}, "demonstrations"),
        ({"prompt": "a", "response": "b"}, "demonstrations"),
        ({"messages": []}, "demonstrations"),
        ({"prompt": "a", "completion": "b", "rank": 1}, "csv"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "trl"),
    ],
)
def test_they_are_recognised(row: dict[str, Any], name: str) -> None:
    assert guess_format(Row("x.jsonl line 1", 1, row)) == name


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("kto", {"prompt": "a", "completion": "b", "label": None}, r"field 'label': 'None' is not true or false"),
        ("kto", {"prompt": "a", "completion": "b", "label": 2}, r"field 'label': '2' is not true or false"),
        ("kto", {"completion": "b", "label": True}, r"field 'prompt' is missing; write what the completion answers"),
        ("kto", {"prompt": "a", "label": True}, r"field 'completion' is missing"),
        ("demonstrations", {"prompt": "a"}, r"field 'completion' is missing"),
        (
            "demonstrations",
            {"messages": [{"role": "user", "content": "Who?"}]},
            r"field 'messages': does not end with an assistant message; write the answer last",
        ),
        (
            "trl",
            {"prompt": "a", "completion": "b", "label": True},
            r"one labelled completion, no pair; .* --format kto",
        ),
    ],
)
def test_bad_rows(name: str, row: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"rows\.jsonl line 1.*{words}"):
        read(tmp_path, name, row)


def test_the_same_file_again_adds_nothing_and_nameless_people_stay_apart(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "label": True}
    feedback = read(tmp_path, "kto", row, row)
    assert len(feedback.ratings) == 2, "two people may have said the same"
    assert merge(feedback, read(tmp_path, "kto", row, row)) == feedback


@pytest.mark.parametrize("name", ["kto", "humanward"])
def test_there_and_back(name: str, tmp_path: Path) -> None:
    rows = (
        {"prompt": "Why?", "completion": "Because.", "label": True},
        {"prompt": "b", "completion": "c", "label": False},
    )
    first = read(tmp_path, "kto", *rows)
    assert export_file(tmp_path / "out.jsonl", name, first).rows == (2 if name == "kto" else 6)
    again = import_files([tmp_path / "out.jsonl"], "auto").feedback
    assert said(again) == said(first)
    if name == "humanward":
        assert again == first


def test_without_ratings_there_is_nothing_to_write(tmp_path: Path) -> None:
    pairs = read(tmp_path, "trl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    with pytest.raises(InputError, match="there are no ratings to write in format 'kto'; choose 'trl'"):
        export_file(tmp_path / "out.jsonl", "kto", pairs)


def test_a_run_directory_of_ratings_alone(tmp_path: Path) -> None:
    feedback = read(tmp_path, "kto", {"prompt": "a", "completion": "b", "label": True})
    labels = derive_labels(feedback.prompts, feedback.completions, feedback.ratings)
    write_feedback(tmp_path / "run", feedback, PreferenceSet(()), labels)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "completions.jsonl",
        "labels.jsonl",
        "prompts.jsonl",
        "ratings.jsonl",
    ]
    assert read_feedback(tmp_path / "run") == feedback


def test_our_own_ratings_are_checked(tmp_path: Path) -> None:
    rating = {"id": "r", "completion_id": "nobody", "criterion": "overall", "value": 1.0, "annotator": ""}
    with pytest.raises(InputError, match=r"rows\.jsonl line 1: unknown completion 'nobody'; add it or drop"):
        read(tmp_path, "humanward", {"rating": rating})
