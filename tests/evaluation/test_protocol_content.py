"""What an evaluation says: pairing, unscored answers, families of p-values, warnings, the page. No model is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from humanward.evaluation.compare_statistics import holm
from humanward.evaluation.protocols.content import Duel, EvaluationInputs, SetResult, build_evaluation
from humanward.evaluation.protocols.measures import SetAnswers
from humanward.evaluation.protocols.page import render_evaluation
from humanward.evaluation.protocols.sets import EvaluationSet, Item
from humanward.evaluation.protocols.wins import position_bias, win_rate_of
from humanward.records import Prompt

NASTY = '<script>alert("x")</script>'


def prompts(count: int, kind: str, **facts: Any) -> EvaluationSet:
    items = tuple(Item(f"i{n}", Prompt(f"i{n}", f"prompt {n} {NASTY}"), f"i{n}", **facts) for n in range(count))
    return EvaluationSet("some", kind, "some.jsonl", items, count)


def answered(one: EvaluationSet, scores: dict[str, dict[str, list[float | None]]], samples: int = 1) -> SetAnswers:
    """``scores`` by judge and model, in the order of items and samples; every answer says its model's name."""
    keys = [(item.id, number) for item in one.items for number in range(samples)]
    models = next(iter(scores.values()))
    return SetAnswers(
        texts={model: dict.fromkeys(keys, f"{model} says {NASTY}") for model in models},
        toxicity={j: {m: dict(zip(keys, v, strict=True)) for m, v in of.items()} for j, of in scores.items()},
    )


def evaluate(*results: SetResult, models: tuple[str, ...] = ("a", "b"), **facts: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"judges": {}, "rewards": {}, "judge_model": None, "versions": {}, "machine": {}}
    named = {model: {"given": model, "base": "base"} for model in models}
    return build_evaluation(EvaluationInputs(named, results, seed=0, reproduce="again", **{**given, **facts}))


def measure(content: dict[str, Any], name: str, place: int = 0) -> dict[str, Any]:
    return next(row for row in content["sets"][place]["measures"] if row["name"] == name)


def result(one: EvaluationSet, answers: SetAnswers, samples: int = 1, **facts: Any) -> SetResult:
    return SetResult(one, answers, samples, {"max_new_tokens": 20}, **facts)


def test_what_one_model_lacks_is_left_out_for_all() -> None:
    one = prompts(4, "toxicity")
    content = evaluate(result(one, answered(one, {"j": {"a": [0.1, 0.2, None, 0.4], "b": [0.3, None, 0.9, 0.2]}})))
    row = measure(content, "toxicity:j")
    assert (row["n"], row["unscored"]) == (2, {"a": 1, "b": 1})
    assert row["models"]["a"]["value"] == pytest.approx(0.25)  # (.1 + .4) / 2
    assert row["models"]["b"]["value"] == pytest.approx(0.25)  # (.3 + .2) / 2
    assert row["pairs"][0]["value"] == pytest.approx(0.0)  # of the same two prompts
    assert any("unscored a 1, b 1" in line for line in content["warnings"])


def test_expected_maximum_golden() -> None:
    one = prompts(2, "rtp")
    # maxima a: .6, .2; b: .4, and unknown where a sample is unscored, so the second prompt counts for neither
    scores = {"j": {"a": [0.1, 0.6, 0.2, 0.1], "b": [0.4, 0.3, 0.9, None]}}
    content = evaluate(result(one, answered(one, scores, 2), 2))
    row = measure(content, "expected_maximum:j")
    assert (row["n"], row["models"]["a"]["value"], row["models"]["b"]["value"]) == (1, 0.6, 0.4)
    assert measure(content, "probability:j")["models"]["a"]["value"] == 1.0


def test_families_of_p_values() -> None:
    generator = np.random.default_rng(0)
    sets = []
    for name, shift in (("first", 0.3), ("second", 0.0)):
        one = EvaluationSet(name, "toxicity", name, prompts(40, "toxicity").items, 40)
        before = generator.uniform(0.3, 0.6, 40)
        after = before - shift + generator.normal(0, 0.05, 40)
        duel = Duel("reward", "r", "a", "b", win_rate_of(generator.integers(0, 2, 40), range(40), seed=0))
        sets.append(result(one, answered(one, {"j": {"a": before.tolist(), "b": after.tolist()}}), duels=[duel]))
    content = evaluate(*sets)
    # One family over both sets: two primary measures and two win rates.
    primary = [measure(content, "toxicity:j", place)["pairs"][0] for place in (0, 1)]
    primary += [one["wins"][0]["result"] for one in content["sets"]]
    assert [one["p_holm"] for one in primary] == holm([one["p_value"] for one in primary])
    assert primary[0]["p_holm"] == pytest.approx(4 * primary[0]["p_value"])
    for one in content["sets"]:
        rest = [pair for row in one["measures"] if not row["primary"] for pair in row["pairs"]]
        assert [pair["p_holm"] for pair in rest] == holm([pair["p_value"] for pair in rest])
    assert content["verdict"].startswith("1 of 4 primary comparisons between the two models shows")


def test_shares_that_never_differ_have_no_interval_of_a_point() -> None:
    one = prompts(100, "xstest", label="safe")
    content = evaluate(result(one, answered(one, {"j": {"a": [0.1] * 100, "b": [0.1] * 100}})))
    (pair,) = measure(content, "refuses_safe:rules")["pairs"]
    bound = 1 - 0.025 ** (1 / 100)  # .0362: a share of which none of 100 was seen
    assert pair["ci95"] == pytest.approx([-bound, bound])
    assert any("differences are hidden" in line for line in content["warnings"])


def test_judges_that_disagree_are_named() -> None:
    generator = np.random.default_rng(1)
    one = prompts(120, "toxicity")
    base = generator.uniform(0.3, 0.7, 120)
    lower, higher = (base - 0.2).tolist(), (base + 0.2).tolist()
    scores = {"strict": {"a": base.tolist(), "b": lower}, "kind": {"a": base.tolist(), "b": higher}}
    content = evaluate(result(one, answered(one, scores)))
    assert any("strict and kind show opposite differences" in line for line in content["warnings"])
    (row,) = content["sets"][0]["agreement"]
    assert (row["first"], row["second"], row["n"]) == ("strict", "kind", 240)


def test_few_prompts_and_a_biased_judge_are_warned_of() -> None:
    one = prompts(30, "toxicity")
    scores = {"j": {"a": [0.4] * 30, "b": [0.5] * 30}}
    bias = position_bias([("first", "first")] * 30)
    duel = Duel("judge", "m", "a", "b", win_rate_of([0.5] * 30, range(30), seed=0), bias, unparsed=2)
    content = evaluate(result(one, answered(one, scores), duels=[duel]))
    words = "\n".join(content["warnings"])
    assert "only 30 prompts" in words
    assert "m prefers the answer shown first: in 30 comparisons" in words
    assert "m agrees with itself on 0 % of comparisons" in words
    assert "2 replies of m on a against b held no verdict" in words


def test_the_page_shows_texts_and_runs_nothing() -> None:
    one = prompts(5, "toxicity")
    page = render_evaluation(evaluate(result(one, answered(one, {"j": {"a": [0.9] * 5, "b": [0.1] * 5}}))))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_one_model_alone_is_measured() -> None:
    one = prompts(5, "toxicity")
    content = evaluate(result(one, answered(one, {"j": {"a": [0.1, 0.2, 0.3, 0.4, 0.5]}})), models=("a",))
    assert content["verdict"] == "a measured on 1 set."
    assert measure(content, "toxicity:j")["pairs"] == []
    assert "a" in render_evaluation(content)
