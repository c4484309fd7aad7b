"""Real preference files import with the counts that their publishers give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from humanward.feedback.formats import export_file, import_files
from humanward.feedback.statistics import feedback_statistics
from humanward.preferences import check_straddling, derive_preferences, group_by_prompt
from humanward.prompts import split_prompts

HH = "hh_rlhf_harmless/harmless-base.test.subset.jsonl.gz"


@pytest.mark.parametrize(
    ("path", "rows", "rankings", "pairs", "ties", "notes"),
    [
        (HH, 1914, 1914, 1914, 0, {"prefixes differ": 5, "empty answers": 4}),
        ("hh_rlhf_helpful_seed/helpful-base.seed.subset.jsonl.gz", 824, 824, 824, 0, {}),
        ("oasst_en100/en_100_tree.jsonl.gz", 100, 212, 754, 0, {"unranked replies left out": 1}),
        # Three annotators each judge 999 pairs.
        ("pandalm_testset/testset-v1.json.gz", 999, 2997, 2671, 326, {"empty answers": 23}),
        # 478 questions whose six labels form an order, 22 whose labels do not; 1,577 + 1,039 strict labels, 384 ties.
        ("qa_feedback_dev/dev_feedback.json.gz", 500, 478 + 22 * 6, 1577 + 1039, 384, {"intransitive": 22}),
        ("hhh_alignment/hhh_alignment.jsonl.gz", 221, 221, 221, 0, {}),
    ],
)
def test_counts(shared: Path, path: str, rows: int, rankings: int, pairs: int, ties: int, notes: dict) -> None:
    result = import_files([shared / "data" / path], "auto")
    feedback = result.feedback
    assert (result.rows, result.bad, len(feedback.rankings)) == (rows, (), rankings)
    assert result.notes == notes
    prompts = split_prompts(feedback.prompts, {"train": 0.8, "test": 0.2})
    found = derive_preferences(prompts, feedback.completions, feedback.rankings, locations=feedback.locations)
    assert (found.pairs, found.ties, found.identical, found.superseded) == (pairs, ties, 0, 0)
    check_straddling(found.preferences)
    for group in group_by_prompt(found.preferences):
        strict = sum(pair.weight for pair in group.pairs if not pair.tie)
        assert strict == pytest.approx(1.0) or all(pair.tie for pair in group.pairs)


def test_agreement_on_pandalm(shared: Path) -> None:
    # The publisher counts full agreement of the three on 879 of 999; of the other 120 the pairs of annotators that
    # agree are one in three where two agree. The published alpha is none: only bounds that follow from 879 are checked.
    result = import_files([shared / "data/pandalm_testset/testset-v1.json.gz"], "pandalm")
    statistics = feedback_statistics(result.feedback.rankings, resamples=100)
    value = statistics.agreement.value
    assert value is not None
    assert 879 / 999 <= value <= (879 + 120 / 3) / 999
    assert statistics.alpha.value is not None
    assert 0.8 < statistics.alpha.value < 0.95
    assert [person.rankings for person in statistics.annotators] == [999] * 3


def test_hh_export_gives_the_transcripts_back(shared: Path, tmp_path: Path) -> None:
    feedback = import_files([shared / "data" / HH], "hh-rlhf").feedback
    assert export_file(tmp_path / "x.jsonl", "hh-rlhf", feedback).rows == 1914
    again = import_files([tmp_path / "x.jsonl"], "hh-rlhf").feedback

    def texts(of) -> set[str]:  # type: ignore[no-untyped-def]
        found = derive_preferences(of.prompts, of.completions, of.rankings).preferences
        return {json.dumps([[m.content for m in p.prompt.as_messages()], p.chosen, p.rejected]) for p in found}

    assert texts(again) == texts(feedback)
