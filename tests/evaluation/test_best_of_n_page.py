"""The report's section on best-of-n and its table of alarms: positions by hand, words, safety."""

from __future__ import annotations

import html
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_run

from humanward.evaluation.best_of_n import Frontier, PromptAnswers, summarise_best_of_n
from humanward.evaluation.best_of_n_page import best_of_n_shown
from humanward.evaluation.report import build_report, closing_lines, write_report

SVG = "{http://www.w3.org/2000/svg}"


def tags(picture: object, name: str, kind: str) -> list[ET.Element]:
    found = ET.fromstring(str(picture)).iter(SVG + name)
    return [one for one in found if kind in one.get("class", "").split()]


def two_answers(prompts: int = 30, policy: tuple[PromptAnswers, ...] = ()) -> Frontier:
    """Rewards 0 and 1, toxicity .4 and 0, the same for every prompt: best of 2 has reward 1 and toxicity 0."""
    reference = tuple(
        PromptAnswers(f"p{i}", f"prompt {i}", ("bad", "good"), (0.0, 1.0), (0.4, 0.0), (0.0, 0.0))
        for i in range(prompts)
    )
    return Frontier("validation", 2, "r", "j", reference, policy)


def shown(frontier: Frontier, metrics: list | None = None, algorithm: str = "ppo"):  # type: ignore[no-untyped-def,type-arg]
    return best_of_n_shown(summarise_best_of_n(frontier, seed=0), frontier, metrics or [], algorithm)


def test_positions_by_hand() -> None:
    section = shown(two_answers())
    reward, toxicity = (figure.picture for figure in section.figures)
    # x: KL 0 at 50; the largest root, sqrt(.1931), lies at 1/1.02 of the way from 50 to 350: 344.1.
    # y of the reward: ticks .5 to 1, .1 apart, from 202 up to 14: .5 at 202, 1 at 14.
    assert tags(reward, "path", "line")[0].get("d") == "M50.0 202.0L344.1 14.0"
    # y of the toxicity: ticks 0 to .2, .05 apart: .2 at 14, 0 at 202.
    assert tags(toxicity, "path", "line")[0].get("d") == "M50.0 14.0L344.1 202.0"
    assert [dot.get("class") for dot in tags(reward, "circle", "dot")] == ["dot before", "dot second"]
    assert tags(reward, "circle", "step") == []
    assert "n = 2" in str(reward)


def test_the_axis_is_in_nats_on_a_square_root_scale() -> None:
    metrics = [{"ppo/sequence_kl": 4.0, "ppo/score_mean": 0.5, "ppo/toxicity": 0.1}]
    reward = shown(two_answers(), metrics).figures[0].picture
    ticks = {one.text: float(one.get("x", "nan")) for one in tags(reward, "text", "tick") if one.get("y") == "217.0"}
    # The right end, 350, is 1.02 * sqrt(4): nats k lie at 50 + 300 * sqrt(k) / 2.04.
    assert ticks == {
        name: pytest.approx(50 + 300 * math.sqrt(nats) / 2.04, abs=0.06)
        for name, nats in (("0", 0), ("0.05", 0.05), ("0.2", 0.2), ("0.5", 0.5), ("1", 1), ("2", 2))
    }
    assert "square-root scale" in str(reward)


def test_steps_and_the_policy_are_drawn_where_they_belong() -> None:
    policy = tuple(PromptAnswers(f"p{i}", "", ("a",), (0.5 + 0.01 * (i % 2),), (0.1,), (0.19,)) for i in range(30))
    metrics = [
        {"ppo/sequence_kl": -0.01, "ppo/score_mean": 0.5, "ppo/toxicity": 0.2},
        {"ppo/sequence_kl": 0.1, "ppo/score_mean": 0.7, "ppo/toxicity": None},
        {"ppo/sequence_kl": None, "ppo/score_mean": 0.7},
        {"reward/step": 1.0},
    ]
    section = shown(two_answers(policy=policy), metrics)
    reward, toxicity = (figure.picture for figure in section.figures)
    assert tags(reward, "circle", "step")[0].get("cx") == "50.0", "a KL below 0 is drawn at 0"
    assert (len(tags(reward, "circle", "step")), len(tags(toxicity, "circle", "step"))) == (2, 1)
    (point,) = tags(reward, "circle", "after")
    assert float(point.get("cx", "nan")) == pytest.approx(50 + 300 * math.sqrt(0.19 / 0.1931472) / 1.02, abs=0.06)
    assert len(tags(reward, "line", "whisker")) == 2
    assert section.rows[-1]["label"] == "After PPO"
    assert section.rows[-1]["kl"] == "0.19"
    words = [words for _, words in section.figures[0].key]
    assert words[2:] == ["PPO, each step on its own training prompts", "after PPO, on the same prompts as best of n"]


def test_the_table_by_hand() -> None:
    first, second = shown(two_answers()).rows
    assert (first["label"], first["kl"], first["reward"], first["toxicity"]) == ("One answer", "0.00", "0.50", ".200")
    assert first["reward_change"] == first["toxicity_change"] == ""
    assert (second["label"], second["kl"], second["reward"], second["toxicity"]) == (
        "Best of 2",
        "0.19",
        "1.00",
        ".000",
    )
    assert (second["reward_change"], second["toxicity_change"]) == ("+0.50", "−.200")


def test_toxic_favourites_are_named_the_worst_first() -> None:
    frontier = two_answers(4)
    spoilt = [
        replace(one, toxicity=(0.4, value)) for one, value in zip(frontier.reference, (0.6, 0.9, 0.4), strict=False)
    ]
    unscored = replace(frontier.reference[3], reward=(None, 1.0), toxicity=(0.9, None))
    section = shown(replace(frontier, reference=(*spoilt, unscored)))
    assert [(one.prompt_id, one.answer.text, one.answer.toxicity) for one in section.favourites] == [
        ("p1", "good", ".90"),
        ("p0", "good", ".60"),
    ]
    assert all(one.answer.toxic for one in section.favourites)


def test_a_thousand_steps_stay_a_few_hundred_dots() -> None:
    metrics = [{"ppo/sequence_kl": 0.001 * k, "ppo/score_mean": 0.5, "ppo/toxicity": 0.1} for k in range(1000)]
    assert len(tags(shown(two_answers(), metrics).figures[0].picture, "circle", "step")) == 300


def test_without_a_scored_prompt_the_section_says_so(tmp_path: Path) -> None:
    frontier = two_answers(2)
    nothing = replace(frontier, reference=tuple(replace(one, reward=(None, None)) for one in frontier.reference))
    report = write_report(synthetic_run.inputs(frontier=nothing), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No prompt had all its answers scored" in page
    assert report["best_of_n"]["points"] == []
    assert report["best_of_n"]["left_out"] == 2


def test_the_report_warns_of_a_weak_link_and_of_nothing_else(tmp_path: Path) -> None:
    good, weak = (build_report(synthetic_run.inputs(frontier=synthetic_run.frontier(follows=f))) for f in (1.0, 0.0))
    assert good["warnings"] == []
    assert good["best_of_n"]["outcome"] == "carries"
    assert weak["warnings"] == [weak["best_of_n"]["verdict"]]
    assert weak["best_of_n"]["outcome"] == "weak"
    assert build_report(synthetic_run.inputs(frontier=None))["best_of_n"] is None
    assert len(closing_lines(good)) == len(closing_lines(weak)) == 10


def test_with_the_frontier_the_dots_are_drawn_once(tmp_path: Path) -> None:
    pages = []
    for frontier in (None, synthetic_run.frontier()):
        write_report(synthetic_run.inputs(frontier=frontier), tmp_path)
        pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [("Toxicity bought with KL" in page, "What best-of-n reaches" in page) for page in pages] == [
        (True, False),
        (False, True),
    ]
    assert all("validation prompts, which" not in page for page in pages)


def test_alarms_stand_in_a_table_and_not_twice(tmp_path: Path) -> None:
    lines = [alarm["line"] for alarm in synthetic_run.ALARMS]
    logged = [
        {**row, "ppo/alarms": ["entropy_collapse"] if row.get("ppo/step", 0) >= 40 else []}
        for row in synthetic_run.metrics()
    ]
    report = write_report(
        synthetic_run.inputs(
            alarms=synthetic_run.ALARMS, warnings=["3 duplicate prompts dropped", *lines], metrics=logged
        ),
        tmp_path,
    )
    assert report["warnings"] == ["3 duplicate prompts dropped", *lines]
    assert [alarm.keys() for alarm in report["alarms"]] == [{"step", "name", "seen", "causes", "remedy"}] * 2
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "<h2>3 warnings</h2>" in page
    assert page.count("entropy has fallen to 0.04 nats a token") == 1
    assert page.count("raise ppo.kl_coef, or rank answers that differ more") == 1
    assert "entropy collapse" in page
    assert "in 20 steps" in page, "steps 40 to 59"
    assert len(closing_lines(report)) == 10


def test_best_of_n_as_the_algorithm(tmp_path: Path) -> None:
    frontier = replace(synthetic_run.frontier(trained=False), split="test")
    report = write_report(
        synthetic_run.inputs(
            algorithm="best-of-n",
            frontier=frontier,
            kl={"at_start": 0.0, "budget": None},
            metrics=[],
            title="best of 16",
        ),
        tmp_path,
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report["kl"]["analytic"] is True
    assert "Nothing was trained." in page
    assert "at most: log n − (n − 1)/n" in page
    assert "as the reward gives it" in page
    assert [check["name"] for check in report["fluency"]["checks"]] == [
        "distinct2",
        "perplexity",
        "length",
        "empty",
        "duplicates",
    ]
    (line,) = [line for line in closing_lines(report) if line.startswith("KL ")]
    assert "an upper bound: log n - (n - 1)/n" in line
    assert "budget" not in line
