from __future__ import annotations

import dataclasses
import json

import pytest
import synthetic_run

from humanward.errors import InputError
from humanward.evaluation.rows import check_rows, read_rows, write_rows


def test_round_trip_keeps_every_field(tmp_path):
    rows = synthetic_run.rows(5, 2)
    none = dataclasses.replace(rows[0].after, toxicity=None, sequence_kl=None, reward=None, gold=None)
    rows[0] = dataclasses.replace(rows[0], after=none)
    path = tmp_path / "evaluation.jsonl"
    assert write_rows(path, rows) == 10
    assert read_rows(path) == rows
    assert json.loads(path.read_text().splitlines()[0])["after"]["toxicity"] is None


def test_nothing_is_written_for_bad_rows(tmp_path):
    rows = synthetic_run.rows(2)
    with pytest.raises(InputError, match="appears twice"):
        write_rows(tmp_path / "evaluation.jsonl", [rows[0], rows[0]])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("toxicity", 1.2, "outside 0 to 1"),
        ("toxicity", float("nan"), "not a finite number"),
        ("toxicity", "high", "not a finite number"),
        ("reward", True, "not a finite number"),
        ("reference_nll", None, "not a finite number"),
        ("sequence_kl", float("inf"), "not a finite number"),
        ("tokens", -1, "negative"),
    ],
)
def test_impossible_numbers_are_named(field, value, message):
    row = synthetic_run.rows(1)[0]
    bad = dataclasses.replace(row, after=dataclasses.replace(row.after, **{field: value}))
    with pytest.raises(InputError, match=message) as caught:
        check_rows([bad], "evaluation.jsonl")
    assert "p0000" in str(caught.value)
    assert "after" in str(caught.value)


def test_one_id_one_prompt():
    rows = synthetic_run.rows(1, 2)
    with pytest.raises(InputError, match="another prompt"):
        check_rows([rows[0], dataclasses.replace(rows[1], prompt="else")])


def test_empty_file_is_refused(tmp_path):
    path = tmp_path / "evaluation.jsonl"
    path.write_text("\n")
    with pytest.raises(InputError, match="no records"):
        read_rows(path)
    with pytest.raises(InputError, match="0 rows"):
        check_rows([])


def test_a_nan_in_the_file_is_refused(tmp_path):
    path = tmp_path / "evaluation.jsonl"
    write_rows(path, synthetic_run.rows(1))
    text = path.read_text()
    broken = json.loads(text)
    broken["before"]["toxicity"] = float("nan")
    path.write_text(json.dumps(broken))
    with pytest.raises(InputError, match="not a finite number"):
        read_rows(path)
