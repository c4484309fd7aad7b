"""files: reading a run directory, merging, and lines that are on the disk when appending returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from humanward.errors import InputError
from humanward.feedback import files
from humanward.feedback.files import Feedback, append_record, drop_torn_line, merge, read_feedback, write_feedback
from humanward.preferences import derive_preferences
from humanward.records import Completion, Preference, Prompt, Ranking, read_jsonl, write_jsonl

PROMPT = Prompt("p", "Why?", split="train")
ANSWERS = tuple(Completion(k, "p", k, "m") for k in "ab")
RANKING = Ranking("r", "p", (("a",), ("b",)), "ada")
FEEDBACK = Feedback((PROMPT,), ANSWERS, (RANKING,), ("here",))


def write(folder: Path, feedback: Feedback = FEEDBACK) -> None:
    write_feedback(folder, feedback, derive_preferences(feedback.prompts, feedback.completions, feedback.rankings))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    found = read_feedback(tmp_path)
    assert (found.prompts, found.completions, found.rankings) == (FEEDBACK.prompts, ANSWERS, (RANKING,))
    assert found.locations == (f"{tmp_path / files.RANKINGS} line 1",)
    (pair,) = read_jsonl(tmp_path / files.PREFERENCES, Preference)
    assert (pair.chosen, pair.rejected, pair.split, pair.weight) == ("a", "b", "train", 1.0)


def test_rankings_may_be_missing_where_they_are_not_needed(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / files.RANKINGS).unlink()
    assert read_feedback(tmp_path, rankings=False).rankings == ()
    with pytest.raises(InputError, match=r"rankings\.jsonl: no such file; check the path$"):
        read_feedback(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no such run directory; check --run$"):
        read_feedback(tmp_path / "nowhere")


def test_one_id_for_two_records_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    write_jsonl(tmp_path / files.COMPLETIONS, [*ANSWERS, replace(ANSWERS[0], text="other")])
    with pytest.raises(
        InputError, match=r"completions\.jsonl line 3: id 'a' names another Completion already; give each"
    ):
        read_feedback(tmp_path)


def test_merging_keeps_each_record_once_and_the_old_split() -> None:
    other = replace(RANKING, id="s", annotator="bea")
    new = Feedback((replace(PROMPT, split=""), Prompt("q", "How?")), ANSWERS[:1], (other, RANKING), ("x", "y"))
    both = merge(FEEDBACK, new)
    assert [(p.id, p.split) for p in both.prompts] == [("p", "train"), ("q", "")]
    assert both.completions == ANSWERS
    assert (both.rankings, both.locations) == ((RANKING, other), ("here", "x"))
    assert merge(both, new) == both
    with pytest.raises(
        InputError, match=r"^completion 'a': names another completion in the run already; give each its own"
    ):
        merge(FEEDBACK, replace(new, completions=(replace(ANSWERS[0], text="other"),)))


def test_append_adds_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    append_record(path, RANKING)
    append_record(path, replace(RANKING, id="s"))
    assert [r.id for r in read_jsonl(path, Ranking)] == ["r", "s"]


@pytest.mark.parametrize(
    ("before", "after", "torn"),
    [
        ("", "", False),
        ('{"a": 1}\n', '{"a": 1}\n', False),
        ('{"a": 1}\n{"b": "ä', '{"a": 1}\n', True),
        ('{"a', "", True),
        ('{"a": 1}', '{"a": 1}\n', False),
    ],
)
def test_torn_lines(before: str, after: str, torn: bool, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(before)
    assert drop_torn_line(path) is torn
    assert path.read_text() == after


def test_a_character_cut_in_half_is_dropped_too(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "\xc3')
    assert drop_torn_line(path)
    assert path.read_text() == '{"a": 1}\n'
    assert not drop_torn_line(tmp_path / "none")
