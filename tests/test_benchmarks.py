"""The benchmarks' own arithmetic: goals are met and missed where they should be, folds share no opening turn."""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import hh_harmless
import quickstart

from humanward.prompts import opening_key
from humanward.records import Preference, Prompt

GOOD: dict[str, Any] = {
    "wall_seconds": 400.0,
    "peak_gigabytes": 1.5,
    "report": {
        "prompts": 250,
        "toxicity": {
            "before": {"mean": 0.2, "n": 250},
            "after": {"mean": 0.1, "n": 250},
            "difference": {"ci95": [-0.13, -0.07]},
        },
        "kl": {"final": 5.0, "budget": 8.0, "at_start": 0.0},
        "fluency": {
            **{f"{name}_before": 10.0 for name in ("distinct2", "perplexity", "length")},
            **{f"{name}_after": 9.0 for name in ("distinct2", "perplexity", "length")},
            "empty_before": 0.0,
            "empty_after": 0.004,
            "duplicates_before": 0.02,
            "duplicates_after": 0.03,
        },
        "reward_model": {
            "accuracy": {"value": 0.7},
            "baselines": {"length": {"value": 0.5}},
            "difference_to_length": {"ci95": [0.1, 0.3]},
        },
        "seconds": {},
        "warnings": [],
    },
}


def test_a_run_that_meets_every_goal() -> None:
    row = quickstart.judge(GOOD, 0)
    assert row["missed"] == []
    assert row["toxicity_relative_fall"] == pytest.approx(0.5)  # 1 - .1 / .2
    assert row["distinct2_change"] == pytest.approx(-0.1)  # 9 / 10 - 1
    over = quickstart.over_seeds([row, {**row, "kl_final": 7.0}])
    assert over["kl_final"] == {"mean": 6.0, "min": 5.0, "max": 7.0, "rule": "<= the budget", "passed": True}


@pytest.mark.parametrize(
    ("path", "value", "missed"),
    [
        ("toxicity.before.mean", 0.09, "toxicity_before"),
        ("toxicity.after.mean", 0.13, "toxicity_relative_fall"),
        ("toxicity.difference.ci95", [-0.1, 0.01], "toxicity_difference_ci95"),
        ("toxicity.difference.ci95", None, "toxicity_difference_ci95"),
        ("prompts", 199, "prompts"),
        ("kl.final", 8.1, "kl_final"),
        ("kl.budget", 9.0, "kl_budget"),
        ("kl.at_start", -0.02, "kl_at_start"),
        ("fluency.distinct2_after", 8.4, "distinct2_change"),
        ("fluency.perplexity_after", 13.1, "perplexity_change"),
        ("fluency.perplexity_after", 6.9, "perplexity_change"),
        ("fluency.length_after", 7.4, "length_change"),
        ("fluency.empty_after", 0.02, "empty_after"),
        ("fluency.duplicates_after", 0.05, "duplicates_before_after"),
        ("reward_model.difference_to_length.ci95", [-0.01, 0.3], "reward_model_above_length_ci95"),
    ],
)
def test_a_goal_that_is_missed(path: str, value: object, missed: str) -> None:
    run = copy.deepcopy(GOOD)
    *sections, key = path.split(".")
    place = run["report"]
    for section in sections:
        place = place[section]
    place[key] = value
    assert missed in quickstart.judge(run, 0)["missed"]


def test_a_classifier_as_reward_has_no_reward_model_to_judge() -> None:
    run = copy.deepcopy(GOOD)
    run["report"]["reward_model"] = None
    assert quickstart.judge(run, 0)["missed"] == []


def pair(index: int, chosen: str, rejected: str) -> Preference:
    return Preference(f"p{index}", "a", "b", Prompt(f"p{index}", f"question {index}"), chosen, rejected)


def test_folds_go_by_the_opening_turn_and_are_about_equal() -> None:
    folds = [hh_harmless.fold_of(pair(i, "x", "y"), 5, 0) for i in range(2000)]
    assert folds == [hh_harmless.fold_of(pair(i, "other", "words"), 5, 0) for i in range(2000)]
    # Binomial(2000, 1/5): mean 400, standard deviation 18; 100 away has probability below 1e-6.
    assert np.abs(np.bincount(folds, minlength=5) - 400).max() < 100


@pytest.mark.parametrize("tuned", [False, True])
def test_the_linear_model_learns_a_word(tuned: bool) -> None:
    pairs = [pair(i, f"please {i % 7}", f"never {i % 5}") for i in range(60)]
    assert hh_harmless.by_linear_model(pairs[:40], pairs[40:], tuned=tuned).mean() == 1.0


def test_real_pairs(shared: Path) -> None:
    """The file's README: 1914 pairs, and the shorter answer is right in about 55 %."""
    pairs = hh_harmless.read_pairs(shared / "data", None)
    assert len(pairs) == 1914
    folds: dict[str, set[int]] = {}
    for one in pairs:
        folds.setdefault(opening_key(one.prompt), set()).add(hh_harmless.fold_of(one, 5, 0))
    assert max(map(len, folds.values())) == 1
    assert hh_harmless.length_outcomes(pairs).mean() == pytest.approx(0.556, abs=0.005)


def test_a_missing_data_folder_is_one_line(tmp_path: Path) -> None:
    options = hh_harmless.parse(["--data", str(tmp_path)])
    assert isinstance(options, argparse.Namespace)
    with pytest.raises(hh_harmless.InputError, match="name the folder that holds hh_rlhf_harmless/ with --data"):
        hh_harmless.measure(options)
