"""records: what a JSON line must hold, and all-or-nothing writing."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanward.errors import InputError
from humanward.records import (
    Completion,
    Message,
    Preference,
    Prompt,
    Ranking,
    content_id,
    from_json,
    read_json_lines,
    read_jsonl,
    to_json,
    write_jsonl,
)

PROMPT = Prompt("p", "Hello?", (Message("system", "Be brief."), Message("user", "Hello?")), "mine", "train")
RANKING = Ranking("r", "p", (("a",), ("b", "c")), "ada", False, "helpful", ("c", "a", "b"), 1.5, "2026-01-01", True)
RECORDS = [
    PROMPT,
    Completion("c", "p", "Hi – “there”\n", "model", False, {"temperature": 0.7, "number": 3}),
    RANKING,
    Preference("p", "a", "b", PROMPT, "yes", "no", margin=None, split="test"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_the_disk(record, tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "x.jsonl", [record]) == 1
    assert read_jsonl(tmp_path / "x.jsonl", type(record)) == [record]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_json(text: str) -> None:
    completion = Completion("c", "p", text, "m")
    assert from_json(Completion, json.loads(json.dumps(to_json(completion))), "x") == completion


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiers": None}, "f line 1, field 'tiers': None is not a list"),
        ({"tiers": [["a"], [3]]}, "f line 1, field 'tiers': 3 is not text"),
        ({"none_acceptable": 1}, "f line 1, field 'none_acceptable': 1 is not bool"),
        ({"annotater": "x"}, "f line 1: unknown field 'annotater' in Ranking; the fields are id, prompt_id"),
    ],
)
def test_a_bad_field_is_named(change: dict, message: str) -> None:
    with pytest.raises(InputError, match="^" + message.replace("[", r"\[")):
        from_json(Ranking, {**to_json(RANKING), **change}, "f line 1")


@pytest.mark.parametrize("value", ["fast", True, float("nan"), [1]])
def test_a_number_is_a_finite_number(value: object) -> None:
    with pytest.raises(InputError, match=r"^f line 1, field 'seconds_spent': "):
        from_json(Ranking, {**to_json(RANKING), "seconds_spent": value}, "f line 1")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InputError, match=r"^f line 1: field 'tiers' is missing in Ranking$"):
        from_json(Ranking, {"id": "r", "prompt_id": "p", "annotator": "a"}, "f line 1")


def test_a_malformed_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(InputError, match=r"x\.jsonl line 3: not JSON \(.* at column \d+\); write one object a line$"):
        list(read_json_lines(path))


def test_a_missing_file_and_an_empty_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.jsonl: no such file; check the path$"):
        read_jsonl(tmp_path / "x.jsonl", Prompt)
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"x\.jsonl: holds no records; write at least one Prompt a line$"):
        read_jsonl(tmp_path / "x.jsonl", Prompt)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"old": 1}])

    def records():
        yield {"new": 1}
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_jsonl(path, records())
    assert path.read_text() == '{"old": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_content_ids_tell_parts_apart() -> None:
    assert content_id("ab", "c") != content_id("a", "bc")
    assert len(content_id("x")) == 16
    # sha256(b"abc") is the test vector of FIPS 180-2, appendix B.1.
    assert content_id("abc") == "ba7816bf8f01cfea"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("prompts.jsonl", Prompt),
        ("completions.jsonl", Completion),
        ("rankings.jsonl", Ranking),
        ("preferences.jsonl", Preference),
    ],
)
def test_the_documented_fields_are_those_of_the_records(file: str, kind: type) -> None:
    page = (Path(__file__).parents[1] / "docs" / "files.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {file}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    documented = {name: "required" in form for names, form in rows for name in re.findall(r"`(\w+)`", names)}
    missing = dataclasses.MISSING
    required = {f.name: f.default is missing and f.default_factory is missing for f in dataclasses.fields(kind)}
    assert documented == required
