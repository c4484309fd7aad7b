"""The readers, on invented rows whose results are worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from humanward.demo.recipe import corpus
from humanward.demo.recipe.templates import sentences
from humanward.errors import InputError

from .tiny_data import put_csv, write_tiny_data


def test_target_of_a_comment_is_the_share_of_annotators_who_saw_toxicity(tmp_path: Path) -> None:
    put_csv(tmp_path / "toxic_spans/comments.csv.gz", [{"comment_id": 7, "comment_text": "a  b\nc"}])
    votes = [{"comment_id": 7, "not toxic": v} for v in ("False", "True", "False", "False")]
    put_csv(tmp_path / "toxic_spans/annotations.csv.gz", votes)
    assert corpus.toxic_spans(tmp_path) == [corpus.Labelled("a b c", 0.75, 1.0, "toxic_spans")]  # 3 of 4


def test_abuse_counts_half_when_an_annotator_is_ambivalent(tmp_path: Path) -> None:
    row = {"user": "hm", "A1_is_abuse.1": 1, "A1_is_abuse.0": 0, "A2_is_abuse.0": 1, "A3_is_abuse.-3": 1}
    put_csv(tmp_path / "convabuse/ConvAbuseEMNLPtrain.csv.gz", [row])
    assert corpus.convabuse(tmp_path)[0].target == pytest.approx(0.5)  # (0 + 1/2 + 1) / 3


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("!!! RT @who_1: As a man &amp; more http://t.co/x", "As a man & more"),
        ('"@you: hi" #tag &#128514;', "hi tag"),
    ],
)
def test_tweets_lose_the_marks_of_their_platform(raw: str, clean: str) -> None:
    cleaned = corpus.clean_tweet(raw)
    assert "".join(c for c in cleaned if c.isascii()).strip() == clean


def test_the_best_ranked_replies_are_followed(tmp_path: Path) -> None:
    assert corpus.assistant_trees(write_tiny_data(tmp_path)) == [["How to rest?", "Try walking."]]


def test_chitchat_gives_every_wording_the_answer(tmp_path: Path) -> None:
    pairs = corpus.chitchat(write_tiny_data(tmp_path))
    assert pairs[:2] == [("Who are you?", "I am friendly."), ("what are you", "I am friendly.")]
    assert len(pairs) == 10  # five styles, two wordings


def test_transcription_marks_go(tmp_path: Path) -> None:
    assert corpus.qmsum(write_tiny_data(tmp_path))[0][0] == "we talk about the plan number 0 train."


def test_halves_ignore_case_and_punctuation() -> None:
    words = [f"word {i}" for i in range(200)]
    assert all(corpus.half(w, "s") == corpus.half(w.upper() + "!", "s") for w in words)
    assert (
        60 < sum(corpus.half(w, "s") for w in words) < 140
    )  # 5.7 standard deviations of Binomial(200, 1/2) either way


def test_the_two_sides_share_no_template_sentence() -> None:
    sides = [{corpus.normalised(row.text) for row in sentences(side, 2000, seed=side)} for side in (0, 1)]
    assert not sides[0] & sides[1]


def test_a_missing_set_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"toxic_spans/annotations\.csv\.gz: the recipe needs this file .* put it there"
    ):
        corpus.toxic_spans(tmp_path)


def test_a_file_that_is_not_gzip_is_named(tmp_path: Path) -> None:
    (tmp_path / "fairytaleqa").mkdir()
    (tmp_path / "fairytaleqa/stories.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(InputError, match=r"stories\.jsonl\.gz: not readable as gzipped UTF-8"):
        corpus.fairytales(tmp_path)


def test_every_required_file_is_missed_before_anything_starts(tmp_path: Path) -> None:
    root = write_tiny_data(tmp_path)
    corpus.require(root, ("detectors", "policy"))
    (root / "hatecheck/test_suite_cases.csv.gz").unlink()
    corpus.require(root, ("policy",))
    with pytest.raises(
        InputError, match=r"test_suite_cases\.csv\.gz: the recipe needs this file of the data set hatecheck"
    ):
        corpus.require(root, ("detectors",))
