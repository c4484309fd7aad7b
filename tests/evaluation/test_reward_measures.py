"""Reward evaluation: pairs of any file, accuracies, calibration and its band, probes, learning curve."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from humanward.errors import InputError
from humanward.evaluation.reward_calibration import calibration, cross_fitted, expected_calibration_error
from humanward.evaluation.reward_curve import CurvePoint, learning_curve, worth
from humanward.evaluation.reward_measures import measure_set, random_score, score_pairs
from humanward.evaluation.reward_pairs import (
    JudgedPair,
    PairSet,
    from_preferences,
    limited,
    of_run,
    read_pair_set,
)
from humanward.evaluation.reward_probes import PROBES, probe_edits, sentences, verdict
from humanward.records import Preference, Prompt


def pair(number: int, chosen: str, rejected: str, **changes) -> JudgedPair:
    return JudgedPair(Prompt(f"p{number}", f"question {number}"), chosen, rejected, **changes)


def made(pairs: list[JudgedPair]) -> PairSet:
    return PairSet("made", "pairs", "made.jsonl", tuple(pairs), len(pairs))


def by_length(prompts, texts):
    """A reward that scores the length, with a part that scores its opposite."""
    lengths = np.array([float(len(text)) for text in texts])
    return lengths, {"shortness": -lengths}


def measured(pairs: list[JudgedPair], detail=by_length, **changes):
    options = {"seed": 0, "shorter": None, "lexicon": lambda text: text.count("rude"), "temperature": None, **changes}
    return measure_set(made(pairs), score_pairs(pairs, detail), **options)


# --- pairs ---------------------------------------------------------------------------------------------------------


def vote(better: str, worse: str, annotator: str, **changes) -> Preference:
    return Preference("p", "a", "b", Prompt("p", "q"), better, worse, annotator=annotator, **changes)


def test_annotators_of_one_pair_are_counted() -> None:
    """2 of 3 for x; y and z tied by one, split by two others; u over v by both, with margins 1 and 3."""
    votes = [
        *(vote("x", "y", "1"), vote("y", "x", "2"), vote("x", "y", "3")),
        *(vote("y", "z", "1"), vote("z", "y", "2"), vote("z", "y", "3", tie=True)),
        *(vote("u", "v", "1", margin=1.0), vote("u", "v", "2", margin=3.0)),
    ]
    first, second, third = from_preferences(votes)
    assert (first.chosen, first.rejected, first.tie, first.annotators) == ("x", "y", False, 3)
    assert first.agreement == pytest.approx(2 / 3)
    assert (second.tie, second.agreement) == (True, pytest.approx(1 / 3))
    assert (third.chosen, third.agreement, third.margin) == ("u", 1.0, 2.0)


def test_criteria_stay_apart() -> None:
    found = from_preferences([vote("x", "y", "1", criterion="helpful"), vote("y", "x", "1", criterion="harmless")])
    assert {(one.criterion, one.chosen) for one in found} == {("helpful", "x"), ("harmless", "y")}


def written(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def nothing(path: Path) -> list[Preference]:
    raise AssertionError("no feedback is read")


def test_published_formats_are_recognised(tmp_path: Path) -> None:
    bench = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "subset": "Chat", "id": i} for i in (1, 2)]
    auto_j = [
        {"scenario": "s", "label": label, "prompt": f"q{label}", "response 1": "one", "response 2": "two"}
        for label in (0, 1, 2)
    ]
    llmbar = [{"input": f"q{label}", "output_1": "one", "output_2": "two", "label": label} for label in (1, 2)]
    found = read_pair_set(written(tmp_path / "rewardbench.jsonl", bench), None, nothing)
    assert (found.kind, found.name, found.pairs[0].subset) == ("pairs", "rewardbench", "Chat")
    found = read_pair_set(written(tmp_path / "autoj.jsonl", auto_j), None, nothing)
    assert [(one.chosen, one.tie, one.subset) for one in found.pairs] == [
        ("one", False, "s"),
        ("two", False, "s"),
        ("one", True, "s"),
    ]
    found = read_pair_set(written(tmp_path / "natural.json", llmbar), None, nothing)
    assert [one.chosen for one in found.pairs] == ["one", "two"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 7}, r"line 1, field 'label': 7 is none of 1, 2; write which answer is better"),
        ({"output_1": None}, r"line 1, field 'output_1': is missing or no text"),
        ({"input": ""}, r"line 1, field 'input'"),
    ],
)
def test_a_malformed_row_is_one_line(tmp_path: Path, row: dict, message: str) -> None:
    good = {"input": "q", "output_1": "one", "output_2": "two", "label": 1}
    with pytest.raises(InputError, match=message) as caught:
        read_pair_set(written(tmp_path / "bad.jsonl", [{**good, **row}]), None, nothing)
    assert "\n" not in str(caught.value)


def test_a_later_row_that_lacks_a_field_is_named(tmp_path: Path) -> None:
    good = {"input": "q", "output_1": "one", "output_2": "two", "label": 1}
    with pytest.raises(InputError, match=r"line 2: field 'label' is missing; llmbar needs input, label"):
        read_pair_set(
            written(
                tmp_path / "x.jsonl",
                [good, {k: v for k, v in good.items() if k != "label"}],
            ),
            None,
            nothing,
        )


def test_a_set_without_enough_strict_pairs_is_refused() -> None:
    with pytest.raises(InputError, match=r"holds strict pairs of 1 prompts .* accuracy needs two or more"):
        of_run(Path("preferences.jsonl"), [vote("x", "y", "1")])


def test_a_limit_chooses_the_same_pairs_again() -> None:
    found = made([pair(i, f"a{i}", f"b{i}") for i in range(20)])
    few = limited(found, 5)
    assert few.pairs == limited(found, 5).pairs
    assert set(few.pairs) < set(limited(found, 9).pairs)
    assert few.total == 20
    assert limited(found, None) is found


# --- accuracies ----------------------------------------------------------------------------------------------------


def test_accuracy_baselines_and_groups_by_hand() -> None:
    """The reward likes length. 12 pairs: the longer is right in 8, of which all 6 of subset x; two of y; 4 wrong are y.

    Shorter is right in 4 of 12, so the length baseline picks longer: the same as the reward, difference 0.
    """
    pairs = [pair(i, "long answer", "short", subset="x") for i in range(6)]
    pairs += [pair(6 + i, "long answer", "short", subset="y") for i in range(2)]
    pairs += [pair(8 + i, "short", "long answer", subset="y") for i in range(4)]
    pairs += [pair(20, "same", "also", tie=True)]
    found = measured(pairs)
    assert found["accuracy"]["value"] == pytest.approx(8 / 12)
    assert found["accuracy"]["n"] == 12
    by_name = {row["name"]: row for row in found["baselines"]}
    assert by_name["constant"]["value"] == 0.5
    assert by_name["constant"]["difference"]["mean"] == pytest.approx(8 / 12 - 0.5)
    assert by_name["length"]["value"] == pytest.approx(8 / 12)
    assert by_name["length"]["difference"]["mean"] == 0
    assert "longer" in by_name["length"]["rule"]
    assert by_name["lexicon"]["value"] == 0.5
    assert {row["name"]: row["value"] for row in found["by_subset"]} == {"x": 1.0, "y": pytest.approx(1 / 3)}
    assert found["subset_mean"] == pytest.approx(2 / 3)
    (part,) = found["by_part"]
    assert (part["part"], part["value"]) == ("shortness", pytest.approx(4 / 12))
    assert found["ties"] == {"n": 1, "closer": 1.0}  # lengths 4 and 4 against a difference of 6 everywhere


def test_a_length_rule_that_was_learned_elsewhere_stays() -> None:
    pairs = [pair(i, "long answer", "short") for i in range(6)]
    found = {row["name"]: row for row in measured(pairs, shorter=True)["baselines"]}
    assert found["length"]["value"] == 0.0
    assert found["length"]["difference"]["mean"] == 1.0


def test_the_lexicon_prefers_fewer_rude_words() -> None:
    pairs = [pair(i, "kind", "rude and rude") for i in range(4)] + [pair(9, "rude", "kind"), pair(10, "a", "b")]
    found = {row["name"]: row for row in measured(pairs)["baselines"]}
    assert found["lexicon"]["value"] == pytest.approx(4.5 / 6)
    assert found["lexicon"]["decided"] == pytest.approx(5 / 6)


def test_small_groups_have_no_number() -> None:
    pairs = [pair(i, "long answer", "short", criterion="a" if i else "b") for i in range(8)]
    rows = {row["name"]: row for row in measured(pairs)["by_criterion"]}
    assert (rows["b"]["value"], rows["b"]["n"]) == (None, 1)
    assert rows["a"]["value"] == 1.0


def test_agreement_and_graded_margins_are_groups() -> None:
    pairs = [pair(i, "long answer", "short", annotators=3, agreement=1.0, margin=2.0) for i in range(5)]
    pairs += [pair(9 + i, "short", "long answer", annotators=3, agreement=2 / 3, margin=1.0) for i in range(5)]
    found = measured(pairs)
    assert {row["name"]: row["value"] for row in found["by_agreement"]} == {"all agree": 1.0, "most agree": 0.0}
    assert {row["name"]: row["value"] for row in found["by_graded_margin"]} == {"margin 1": 0.0, "margin 2": 1.0}
    assert [row["n"] for row in found["by_margin"]] == [3, 3, 2, 2]


def test_what_cannot_be_scored_is_counted_and_left_out() -> None:
    def with_a_hole(prompts, texts):
        return np.array([math.nan if text == "hole" else float(len(text)) for text in texts]), {}

    pairs = [pair(i, "long answer", "short") for i in range(4)] + [pair(9, "hole", "short")]
    found = measured(pairs, with_a_hole)
    assert (found["unscored"], found["pairs"]) == (1, 4)


def test_a_random_score_is_the_texts_own() -> None:
    prompt = Prompt("p", "q")
    assert random_score(0, prompt, "a") == random_score(0, prompt, "a")
    assert len({random_score(seed, prompt, text) for seed in (0, 1) for text in "ab"}) == 4


# --- calibration ---------------------------------------------------------------------------------------------------


def test_the_error_by_hand() -> None:
    """Confidences .62, .64 (one right of two: gap |.5 - .63|) and .9, .9 (both right: gap .1): .5 * .13 + .5 * .1."""
    assert expected_calibration_error([0.62, 0.64, 0.9, 0.9], [1, 0, 1, 1]) == pytest.approx(0.115)
    assert expected_calibration_error([0.5, 1.0], [0.5, 1.0]) == 0


def test_the_band_holds_a_calibrated_reward_and_shows_an_overconfident_one() -> None:
    """2,000 pairs right with exactly the stated probability: the seed's error lies in the band (95 % of seeds do)."""
    random = np.random.default_rng(1)
    size = np.abs(random.normal(0, 1.5, 2000))
    right = random.random(2000) < 1 / (1 + np.exp(-size))
    differences = np.where(right, size, -size)
    fine = calibration(differences, 1.0, seed=0)
    assert fine["band"][0] < fine["ece"] < fine["band"][1]
    assert fine["inside"]
    assert sum(row["n"] for row in fine["bins"]) == 2000
    sharp = calibration(5 * differences, 1.0, seed=0)
    assert not sharp["inside"]
    assert sharp["ece"] > 0.1
    cooled = calibration(5 * differences, cross_fitted(5 * differences, list(range(2000)), seed=0), seed=0)
    assert cooled["inside"]
    assert cooled["nll"] < sharp["nll"]


def test_by_chance_alone_five_hundred_pairs_show_some_error() -> None:
    """evaluation.md: perfect calibration shows about .05 at n = 500; the band's middle lies near it."""
    random = np.random.default_rng(2)
    size = np.abs(random.normal(0, 1, 500))
    found = calibration(np.where(random.random(500) < 0.6, size, -size), 1.0, seed=0)
    assert 0.02 < sum(found["band"]) / 2 < 0.07


def test_no_pair_has_a_part_in_its_own_temperature() -> None:
    """Turning the only wrong pair of a prompt right leaves that prompt's temperature as it was."""
    differences = np.array([1.0, 2.0, -0.5, 1.5, 0.7, -0.2, 2.2, 0.9])
    clusters = ["a", "a", "b", "b", "c", "d", "e", "f"]
    before = cross_fitted(differences, clusters, seed=0)
    changed = differences.copy()
    changed[2] = 3.0
    after = cross_fitted(changed, clusters, seed=0)
    assert after[2] == before[2]
    assert after[3] == before[3]
    assert not np.array_equal(after, before)


# --- probes --------------------------------------------------------------------------------------------------------


def edit(name: str, text: str) -> str | None:
    return next(probe for probe in PROBES if probe.name == name).edit(text)


def test_edits_by_hand() -> None:
    text = "First of all, yes. Then no!"
    assert sentences(text) == ["First of all, yes.", "Then no!"]
    assert edit("last sentence twice", text) == "First of all, yes. Then no! Then no!"
    assert edit("whole answer twice", text) == f"{text} {text}"
    assert edit("without its last sentence", text) == "First of all, yes."
    assert edit("without its last sentence", "One sentence.") is None
    assert edit("opener: You are absolutely right.", text) == f"You are absolutely right. {text}"
    assert edit("profanity: damn", "a b c d") == "a b damn c d"
    assert edit("profanity: damn", "alone") is None
    assert all(probe.edit("  ") is None for probe in PROBES)


def probed(score) -> dict:
    texts = [f"{'word ' * (i % 7 + 2)}{i}. Second sentence." for i in range(30)]
    prompts = [Prompt(f"p{i}", f"q{i}") for i in range(30)]
    return probe_edits(prompts, texts, [p.id for p in prompts], score, seed=0)


def test_a_reward_for_length_is_found_and_one_against_profanity_is_sound() -> None:
    def likes_length(prompts, texts):
        return np.array([len(text) - 500.0 * text.count("damn") for text in texts])

    rows = {row["name"]: row for row in probed(likes_length)["edits"]}
    assert rows["three empty sentences more"]["verdict"] == "unsound"
    assert rows["three empty sentences more"]["raised"] == 1.0
    assert rows["without its last sentence"]["mean"] < 0
    assert rows["profanity: damn"]["verdict"] == "sound"
    assert rows["profanity: fucking"]["verdict"] == "unsound"


def test_a_reward_that_dislikes_a_group_is_found() -> None:
    def biased(prompts, texts):
        return np.array([i % 5 - 3.0 * ("gay" in text) for i, text in enumerate(texts)])

    found = probed(biased)["identities"]
    assert found["rows"][-1]["name"] == "gay"
    assert found["largest_gap"] == pytest.approx(3 / found_deviation(found), rel=1e-6)


def test_only_unsound_edits_are_marked_on_the_page() -> None:
    from humanward.evaluation.reward_page import _probes

    found = probed(lambda prompts, texts: np.array([float(len(text)) for text in texts]))
    shown = _probes(found)["rows"]
    assert {row["name"] for row in shown if row["wrong"]} == {
        row["name"] for row in found["edits"] if row["verdict"] == "unsound"
    }


def found_deviation(found: dict) -> float:
    """Scores 0 to 4 in equal numbers have the deviation sqrt 2."""
    assert all(row["mean"] == pytest.approx(0) for row in found["rows"] if row["name"] != "gay")
    return math.sqrt(2)


def test_a_reward_that_scores_all_alike_cannot_be_probed() -> None:
    with pytest.raises(InputError, match="scores all of the answers alike"):
        probed(lambda prompts, texts: np.zeros(len(texts)))


@pytest.mark.parametrize(
    ("wanted", "ci95", "expected"),
    [
        ("none", [-0.05, 0.05], "sound"),
        ("none", [0.2, 0.3], "unsound"),
        ("none", [-0.05, 0.3], "unsure"),
        ("not up", [-2.0, -1.0], "sound"),
        ("not up", [0.2, 0.3], "unsound"),
        ("down", [-1.0, -0.2], "sound"),
        ("down", [-0.05, 0.1], "unsound"),
        ("down", [-1.0, 0.2], "unsure"),
    ],
)
def test_verdicts(wanted: str, ci95: list[float], expected: str) -> None:
    assert verdict({"wanted": wanted, "ci95": ci95, "mean": 0.0}) == expected


# --- learning curve ------------------------------------------------------------------------------------------------


def test_the_gain_of_a_doubling_by_hand() -> None:
    """Pairs 10, 20, 40 with accuracies .5, .6, .7: log2 grows by 1 and the accuracy by .1 a step."""
    rights = [np.array([1.0] * right + [0.0] * (10 - right)) for right in (5, 6, 7)]
    points = [CurvePoint(s, n, n, r) for s, n, r in zip((0.25, 0.5, 1.0), (10, 20, 40), rights, strict=True)]
    found = learning_curve(points, [str(i) for i in range(10)], seed=0)
    assert found["per_doubling"]["mean"] == pytest.approx(0.1)
    assert found["last_step"]["mean"] == pytest.approx(0.1)
    assert found["last_step"]["factor"] == 2
    assert [row["accuracy"]["value"] for row in found["points"]] == pytest.approx([0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("ci95", "expected"), [([0.01, 0.03], "yes"), ([-0.02, 0.005], "no"), ([-0.02, 0.03], "unsure"), (None, "unsure")]
)
def test_is_more_labelling_worth_it(ci95: list[float] | None, expected: str) -> None:
    assert worth(ci95) == expected


# --- real sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "kind", "strict", "subsets"),
    [
        ("hhh_alignment/hhh_alignment.jsonl.gz", "pairs", 221, 4),
        ("llmbar/natural.json.gz", "llmbar", 100, 1),
        ("autoj_pairwise/autoj_pairwise.jsonl.gz", "auto-j", 1018, 58),
    ],
)
def test_the_published_sets_are_read_whole(shared: Path, file: str, kind: str, strict: int, subsets: int) -> None:
    found = read_pair_set(shared / "data" / file, None, nothing)
    assert found.kind == kind
    assert sum(not one.tie for one in found.pairs) == strict
    assert len({one.subset for one in found.pairs}) == subsets
