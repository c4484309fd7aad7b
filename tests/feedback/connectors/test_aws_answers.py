"""answers: both shapes, ties, every worker, idempotence; whatever is missing or odd is an error with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from feedback.connectors.shapes import ADA, BEA, answer, dimensions, flat

from humanward.errors import InputError
from humanward.feedback.connectors.answers import Answers, Task, parse_json, parse_ranks, read_answers, tiers
from humanward.feedback.connectors.items import Item

ITEM = Item("p", "q", ("x", "y", "z"), ("cx", "cy", "cz"))
TASK = Task("ground-truth", "job/p", ITEM, "w.json")


def read(*values: Any, task: Task = TASK, **options: Any) -> Answers:
    into = Answers(**options)
    read_answers(list(values), task, into)
    return into


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ((1, 2, 3), (("a",), ("b",), ("c",))),
        ((2, 1, 3), (("b",), ("a",), ("c",))),
        ((3, 1, 2), (("b",), ("c",), ("a",))),
        ((1, 1, 1), (("a", "b", "c"),)),
        ((2, 1, 2), (("b",), ("a", "c"))),
        ((1, 1, 3), (("a", "b"), ("c",))),
        ((5, 9, 5), (("a", "c"), ("b",))),
    ],
)
def test_equal_ranks_are_ties(ranks: tuple[int, ...], expected: tuple[tuple[str, ...], ...]) -> None:
    assert tiers("abc", ranks) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (flat(2, 1, 3), {"": (2, 1, 3)}),
        (
            {"response_1_ranking": 1, "response_2_ranking": " 2 ", "response_3_ranking": "2", "note": "{not json"},
            {"": (1, 2, 2)},
        ),
        (dimensions(helpful=[2, 1, 3]), {"helpful": (2, 1, 3)}),
        (dimensions(helpful=[2, 1, 2], honest=["1", "1", "1"]), {"helpful": (2, 1, 2), "honest": (1, 1, 1)}),
        ({"anyName": dimensions(h=[1, 2, 3])["textRanking"], "comment": "fine"}, {"h": (1, 2, 3)}),
        (dimensions(h=[1, 2, 3])["textRanking"], {"h": (1, 2, 3)}),
        (json.dumps(dimensions(h=[1, 2, 3])), {"h": (1, 2, 3)}),
        ({"textRanking": json.dumps(dimensions(h=[1, 2, 3])["textRanking"])}, {"h": (1, 2, 3)}),
    ],
)
def test_both_shapes(content: Any, expected: dict[str, tuple[int, ...]]) -> None:
    assert parse_ranks(content, 3, "w") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "w, field 'answerContent': is no object"),
        ("text", "w, field 'answerContent': is no object"),
        ("{broken", r"w, field 'answerContent': not JSON \("),
        ({}, "w, field 'answerContent': holds no ranking; expected ordinalRankingDimensions or response_1_ranking to"),
        ({"label": "Response 2"}, "holds no ranking"),
        (flat(1, 2, 3) | dimensions(h=[1, 2, 3]), "holds more than one ranking"),
        (dimensions(h=[1, 2, 3]) | {"b": dimensions(h=[1, 2, 3])["textRanking"]}, "holds more than one ranking"),
        (flat(1, 2), "w: answer 3 has no rank; every answer needs one"),
        (flat(1, 2, 3, 4), "w: 'response_4_ranking' is a rank for an answer that was not shown; there were 3"),
        (flat(1, 2, ""), "w: answer 3 has no rank"),
        (flat(0, 1, 2), "w: the rank 0 of answer 1 is no whole number from 1"),
        (flat(1, "high", 2), "w: the rank 'high' of answer 2 is no whole number"),
        (flat(1, "-1", 2), "w: the rank '-1' of answer 2"),
        (flat(1, 1.5, 2), "w: the rank '1.5' of answer 2"),
        (dimensions(h=[1, 2, True]), "w, criterion 'h': the rank True of answer 3"),
        (dimensions(h=[1, 2, 2.0]), "w, criterion 'h': the rank 2.0 of answer 3"),
        (dimensions(h=[1, None, 2]), "w, criterion 'h': answer 2 has no rank"),
        (dimensions(h=[1, 2]), "w, criterion 'h': has 2 ranks for 3 answers"),
        (dimensions(h=[1, 2, 3, 4]), "w, criterion 'h': has 4 ranks for 3 answers"),
        ({"t": {"ordinalRankingDimensions": [{"name": "h"}]}}, "w, criterion 'h': has no ranks for 3 answers"),
        ({"t": {"ordinalRankingDimensions": []}}, "field 'ordinalRankingDimensions': is no list of criteria"),
        ({"t": {"ordinalRankingDimensions": [3]}}, "criterion None has no name of its own"),
        (
            {"t": {"ordinalRankingDimensions": [{"name": "", "responseRankings": [1, 2, 3]}]}},
            "criterion '' has no name",
        ),
        (
            {"t": {"ordinalRankingDimensions": [{"name": "h", "responseRankings": [1, 2, 3]}] * 2}},
            "criterion 'h' has no name of its own",
        ),
    ],
)
def test_odd_ranks_are_errors(content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_ranks(content, 3, "w")


def test_every_worker_and_criterion_is_a_ranking() -> None:
    found = read(
        answer(dimensions(helpful=[2, 1, 3], honest=[1, 1, 1]), ADA),
        answer(dimensions(helpful=[1, 2, 3], honest=[1, 2, 2]), BEA),
    )
    seen = {(r.annotator, r.criterion): r for r in found.rankings.values()}
    assert {key: r.tiers for key, r in seen.items()} == {
        (ADA, "helpful"): (("cy",), ("cx",), ("cz",)),
        (ADA, "honest"): (("cx", "cy", "cz"),),
        (BEA, "helpful"): (("cx",), ("cy",), ("cz",)),
        (BEA, "honest"): (("cx",), ("cy", "cz")),
    }
    one = seen[ADA, "helpful"]
    assert (one.prompt_id, one.shown_order, one.seconds_spent) == ("p", ("cx", "cy", "cz"), 29.2)
    assert one.created_at == "2026-03-01T12:00:29.200Z"
    assert not one.simulated
    assert not one.none_acceptable
    raw = list(found.raw.values())
    assert [(r.worker, r.task, r.source) for r in raw] == [(ADA, "job/p", "w.json"), (BEA, "job/p", "w.json")]
    assert raw[0].answer == answer(dimensions(helpful=[2, 1, 3], honest=[1, 1, 1]), ADA)
    assert set(raw[0].rankings) == {seen[ADA, "helpful"].id, seen[ADA, "honest"].id}
    assert list(found.places.values()) == ["w.json answer 1"] * 2 + ["w.json answer 2"] * 2


def test_the_key_is_task_worker_and_time() -> None:
    first = read(answer(flat(1, 2, 3)), answer(flat(1, 2, 3)))
    assert (len(first.raw), len(first.rankings)) == (1, 1)
    more = read(answer(flat(1, 2, 3)), answer(flat(1, 2, 3), second=30), answer(flat(1, 2, 3), BEA))
    assert len(more.rankings) == 3
    assert first.rankings.keys() < more.rankings.keys()
    other = Task("ground-truth", "job/other", ITEM, "w.json")
    assert read(answer(flat(1, 2, 3)), task=other).rankings.keys().isdisjoint(first.rankings)
    service = Task("a2i", "job/p", ITEM, "w.json")
    assert read(answer(flat(1, 2, 3)), task=service).rankings.keys().isdisjoint(first.rankings)
    with pytest.raises(
        InputError, match=r"w.json answer 2: worker 'private.us-east-1.ada' has another answer to task 'job/p'"
    ):
        read(answer(flat(1, 2, 3)), answer(flat(3, 2, 1)))


def test_the_criteria_that_were_asked_for() -> None:
    task = Task("a2i", "t", ITEM, "w.json", criteria=("helpful",), criterion="helpful")
    (ranking,) = read(answer(flat(1, 2, 3)), task=task).rankings.values()
    assert ranking.criterion == "helpful"
    with pytest.raises(InputError, match=r"w\.json answer 1: criterion 'honest' was not asked for; asked were helpful"):
        read(answer(dimensions(helpful=[1, 2, 3], honest=[1, 2, 3])), task=task)
    both = Task("a2i", "t", ITEM, "w.json", criteria=("helpful", "honest"))
    with pytest.raises(
        InputError, match=r"w\.json answer 1: criterion 'honest' is not answered; asked were helpful, honest"
    ):
        read(answer(dimensions(helpful=[1, 2, 3])), task=both)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "w.json answer 1: is no object"),
        (answer(flat(1, 2, 3), workerId=""), "w.json answer 1, field 'workerId': is missing or not text"),
        (answer(flat(1, 2, 3), submissionTime=None), "w.json answer 1, field 'submissionTime': is missing or not text"),
        (
            answer(flat(1, 2, 3), timeSpentInSeconds="3"),
            "w.json answer 1, field 'timeSpentInSeconds': '3' is no number",
        ),
        (answer(flat(1, 2, 3), timeSpentInSeconds=-1), "'timeSpentInSeconds': -1 is no number of seconds"),
        (answer(flat(1, 2, 3), timeSpentInSeconds=True), "'timeSpentInSeconds': True is no number of seconds"),
        (answer(flat(1, 2)), "w.json answer 1: answer 3 has no rank"),
    ],
)
def test_odd_answers_are_errors_or_left_out(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(value)
    kept = read(value, answer(flat(1, 2, 3), BEA), skip_bad=True)
    assert [r.annotator for r in kept.rankings.values()] == [BEA]
    assert len(kept.bad) == 1
    assert len(kept.raw) == 1


def test_a_file_without_a_list_of_answers() -> None:
    for value in (None, {}, "x"):
        with pytest.raises(InputError, match=r"w.json: holds no list of answers"):
            read_answers(value, TASK, Answers())


def test_seconds_may_be_missing() -> None:
    value = answer(flat(1, 2, 3))
    del value["timeSpentInSeconds"]
    (ranking,) = read(value).rankings.values()
    assert ranking.seconds_spent is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", r"f: not JSON \(.* at line 1, column 2\)"),
        (b"\xff", r"f: not UTF-8 \(byte 0\)"),
        (b'{"a": NaN}', "f: NaN is not a JSON number"),
        (b'{"a": "\\ud800"}', "f: holds half a surrogate pair"),
        (b"[" * 200_000, "f: is nested too deeply"),
    ],
)
def test_files_that_are_no_json(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_json(data, "f")
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "f") == {"a": 1}
