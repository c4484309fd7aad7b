"""compare.json and compare.html: numbers worked by hand on a few rows, and what is said when something is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic_compare as synthetic

from humanward.errors import InputError
from humanward.evaluation.compare import build_comparison
from humanward.evaluation.compare_page import render_comparison
from humanward.evaluation.compare_pictures import Cloud, frontier_picture
from humanward.evaluation.compare_tables import METRICS, RunResult
from humanward.evaluation.compare_words import terminal_lines
from humanward.evaluation.rows import Answer, EvaluationRow

SVG = "{http://www.w3.org/2000/svg}"
Sides = tuple[float | None, float | None]


def answer(toxicity: float | None, reward: float | None = 0.0, kl: float = 0.0, text: str = "word") -> Answer:
    return Answer(text, 4, True, toxicity, 8.0, kl, reward, None)


def result(algorithm: str, seed: int, cells: list[tuple[Sides, float, float]], **changes: Any) -> RunResult:
    """A run with (toxicity before and after, reward after, KL) on prompts a, b, ..."""
    given = [
        EvaluationRow(name, name, 0, answer(before), answer(after, reward, kl))
        for name, ((before, after), reward, kl) in zip("abcdef", cells, strict=False)
    ]
    scored = [replace(row, before=answer(0.5), after=answer(0.4)) for row in given]
    run = RunResult(
        algorithm,
        seed,
        f"runs/{algorithm}-seed{seed}",
        "finished",
        rows=given,
        report=synthetic.report(scored),
        costs={"align_seconds": 10.0 + seed, "peak_gigabytes": 1.0, "episodes": 8},
        threads=(1,),
    )
    return replace(run, **changes)


def compared(*runs: RunResult, **changes: Any) -> dict[str, Any]:
    names = dict.fromkeys(run.algorithm for run in runs)
    given = replace(
        synthetic.inputs(("ppo",), seeds=1, prompts=2),
        runs=runs,
        frontier=None,
        settings={name: {"ppo.epochs": 1, "ppo.kl_coef": 0.1} for name in names},
        gold_source=None,
        simulated_annotators=False,
    )
    return build_comparison(replace(given, **changes))


# Toxicity after: ppo .1 .3 (seed 0), .2 .6 (seed 1); rloo .1 .1, .2 .2. Before .5 .5 throughout.
PPO = [
    result("ppo", 0, [((0.5, 0.1), 1.0, 0.5), ((0.5, 0.3), 3.0, 1.5)]),
    result("ppo", 1, [((0.5, 0.2), 2.0, 1.0), ((0.5, 0.6), 6.0, 3.0)]),
]
RLOO = [
    result("rloo", 0, [((0.5, 0.1), 1.0, 1.0), ((0.5, 0.1), 1.0, 1.0)]),
    result("rloo", 1, [((0.5, 0.2), 1.0, 1.0), ((0.5, 0.2), 1.0, 1.0)]),
]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return build_comparison(synthetic.inputs(seeds=3, prompts=60))


@pytest.fixture(scope="module")
def spoilt() -> dict[str, Any]:
    return build_comparison(synthetic.inputs(seeds=3, prompts=60, spoilt=True))


def test_estimates_by_hand() -> None:
    ppo = compared(*PPO, *RLOO)["algorithms"]["ppo"]
    # The table of test_compare_statistics.py divided by ten: mean .3, half width tan(.475 pi) sqrt(3) / 10.
    half = 12.706204736 * 3**0.5 / 10
    toxicity = ppo["metrics"]["toxicity"]
    assert toxicity["value"] == pytest.approx(0.3)
    assert toxicity["ci95"] == pytest.approx([0.3 - half, 0.3 + half], rel=1e-6)
    assert (toxicity["seeds"], toxicity["prompts"]) == (2, 2)
    assert toxicity["spread"] == pytest.approx(2**0.5 / 10)
    assert ppo["metrics"]["reward"]["value"] == pytest.approx(3.0)
    assert ppo["metrics"]["kl"]["value"] == pytest.approx(1.5)
    assert ppo["toxicity_change"]["value"] == pytest.approx(-0.2)
    assert ppo["toxicity_relative"]["value"] == pytest.approx(-0.4)  # .3 / .5 - 1
    # Better, better, better, and worse than the reference: 3 of 4.
    assert ppo["metrics"]["win_rate"]["value"] == 0.75
    assert ppo["metrics"]["align_seconds"]["value"] == 10.5
    assert ppo["metrics"]["align_seconds"]["prompts"] is None
    assert ppo["best_seed"] == {"seed": 0, "toxicity": pytest.approx(0.2)}
    assert ppo["worst_seed"] == {"seed": 1, "toxicity": pytest.approx(0.4)}
    assert ppo["budget"]["episodes"] == [8, 8]
    assert ppo["metrics"]["gold"] is None


def test_pairs_by_hand() -> None:
    (pair,) = compared(*PPO, *RLOO)["pairs"]
    # Differences 0 .2, 0 .4: mean .15; seed means .1 .2, prompt means 0 .3. Mean squares: seeds 2 * .005 = .01, prompts
    # 2 * .045 = .09, rest 4 * .05^2 = .01; of seeds .01 / 4, of prompts .08 / 4, so the half width is t sqrt(.0225).
    toxicity = pair["metrics"]["toxicity"]
    assert toxicity["value"] == pytest.approx(0.15)
    assert toxicity["ci95"] == pytest.approx([0.15 - 12.706204736 * 0.15, 0.15 + 12.706204736 * 0.15], rel=1e-6)
    # t = 1 with one degree of freedom: p = 1 - 2 atan(1) / pi = .5
    assert toxicity["p_value"] == pytest.approx(0.5)
    assert toxicity["p_holm"] == toxicity["p_value"]
    # ppo ties, loses, ties, loses.
    assert pair["duel"]["value"] == 0.25
    assert pair["metrics"]["kl"]["value"] == pytest.approx(0.5)


def test_p_values_are_adjusted_over_pairs_of_each_measure(whole: dict[str, Any]) -> None:
    pairs = whole["pairs"]
    assert len(pairs) == 45
    for metric in METRICS:
        known = [p["metrics"][metric.name] for p in pairs if p["metrics"][metric.name] is not None]
        smallest = min(known, key=lambda one: one["p_value"])
        assert smallest["p_holm"] == pytest.approx(min(1.0, smallest["p_value"] * len(known))), metric.name
        assert all(one["p_holm"] >= one["p_value"] for one in known)


def test_the_reference_is_the_same_for_all(whole: dict[str, Any]) -> None:
    before = {run["seed"]: run["toxicity"]["before"] for run in whole["runs"]}
    assert whole["reference"]["toxicity"]["value"] == pytest.approx(sum(before.values()) / len(before))
    assert whole["reference"]["toxicity"]["seeds"] == 3


def test_an_unscored_answer_leaves_its_prompt_out() -> None:
    unscored = result("ppo", 1, [((0.5, None), 2.0, 1.0), ((0.5, 0.6), 6.0, 3.0)])
    found = compared(PPO[0], unscored, *RLOO)
    ppo = found["algorithms"]["ppo"]
    assert ppo["metrics"]["toxicity"]["value"] == pytest.approx(0.45)  # prompt b alone: .3 and .6
    assert ppo["metrics"]["toxicity"]["prompts"] == 1
    assert ppo["metrics"]["reward"]["prompts"] == 2
    assert ppo["unscored_prompts"] == 1
    assert found["pairs"][0]["metrics"]["toxicity"]["value"] == pytest.approx(((0.3 - 0.1) + (0.6 - 0.2)) / 2)
    assert any("could not be scored" in warning for warning in found["warnings"])


def test_a_measure_that_a_run_lacks_is_null_for_its_algorithm() -> None:
    rows = [replace(row, after=replace(row.after, reward=None)) for row in PPO[1].rows]
    found = compared(PPO[0], replace(PPO[1], rows=rows), *RLOO)
    assert found["algorithms"]["ppo"]["metrics"]["reward"] is None
    assert found["algorithms"]["rloo"]["metrics"]["reward"] is not None
    assert found["pairs"][0]["metrics"]["reward"] is None
    assert found["pairs"][0]["metrics"]["toxicity"] is not None
    render_comparison(found)


def test_several_answers_a_prompt_are_one_value() -> None:
    rows = [replace(row, sample=n, after=answer(t)) for row in PPO[0].rows for n, t in enumerate((0.1, 0.5))]
    found = compared(replace(PPO[0], rows=rows))
    assert found["samples"] == 2
    assert found["prompts"] == 2
    assert found["algorithms"]["ppo"]["metrics"]["toxicity"]["value"] == pytest.approx(0.3)


def test_runs_on_other_prompts_cannot_be_compared() -> None:
    other = replace(RLOO[0], rows=[replace(row, prompt_id=f"x{row.prompt_id}") for row in RLOO[0].rows])
    with pytest.raises(InputError, match="runs/rloo-seed0: was evaluated on other prompts"):
        compared(*PPO, other)


def test_failed_and_unfinished_runs_are_named_and_in_no_mean(spoilt: dict[str, Any]) -> None:
    best = spoilt["algorithms"]["best-of-n"]
    assert (best["finished"], best["failed"], best["unfinished"]) == (1, [2], [1])
    assert best["metrics"]["toxicity"]["ci95"] is None
    assert "2 of 30 runs did not finish." in spoilt["verdict"]
    assert any("best-of-n seed 2 failed and is in no mean: NonFiniteError" in w for w in spoilt["warnings"])
    assert any("Not finished, so in no mean: best-of-n (seed 1)" in w for w in spoilt["warnings"])
    pair = next(one for one in spoilt["pairs"] if (one["first"], one["second"]) == ("ppo", "best-of-n"))
    assert pair["seeds"] == [0]
    text = page_text(render_comparison(spoilt))
    assert "failed: seed 2; not finished: seed 1" in text
    assert "failed: NonFiniteError: a <loss> is not finite at step 3" in text


def test_nothing_finished() -> None:
    failed = replace(PPO[0], state="failed", error="OSError: x", rows=(), report=None)
    found = compared(failed)
    assert found["verdict"] == "Nothing to compare yet: 0 of 1 run finished."
    assert found["reference"]["toxicity"] is None
    assert "failed" in page_text(render_comparison(found))
    assert any("failed" in line for line in terminal_lines(found, Path("compare.html")))


def test_verdicts() -> None:
    def verdict(*runs: RunResult) -> str:
        return str(compared(*runs)["verdict"])

    def runs(name: str, after: float, seeds: int = 3) -> list[RunResult]:
        # Small differences between seeds and prompts, so that intervals are narrow but not points.
        return [
            result(name, seed, [((0.5, after + 0.01 * seed), 1.0, 1.0), ((0.5, after + 0.01), 1.0, 1.0)])
            for seed in range(seeds)
        ]

    assert verdict(*runs("ppo", 0.5)).startswith("No algorithm is shown to lower judged toxicity; it is lowest")
    both = verdict(*runs("ppo", 0.1), *runs("rloo", 0.3))
    assert both.startswith("ppo and rloo lowered judged toxicity, ppo most, by 78 % (from .500 to .110).")
    assert "Ppo is below rloo by .200" in both
    assert "With one seed, judged toxicity is lowest with ppo (.500 before, .105 after)" in verdict(
        *runs("ppo", 0.1, 1), *runs("rloo", 0.3, 1)
    )
    same = verdict(*runs("ppo", 0.1), *runs("rloo", 0.1))
    assert "A difference in judged toxicity between the two is not shown." in same
    one = verdict(*runs("ppo", 0.1), *runs("rloo", 0.5))
    assert "for rloo that is not shown" in one


def test_warnings() -> None:
    def warned(*runs: RunResult, **changes: Any) -> str:
        return "\n".join(compared(*runs, **changes)["warnings"])

    assert "Only 2 seeds" in warned(*PPO)
    assert "Only 2 prompts" in warned(*PPO)
    assert "different budgets (episodes)" in warned(PPO[0], replace(RLOO[0], costs={"episodes": 16}))
    settings = {"ppo": {"ppo.epochs": 1}, "rloo": {"ppo.epochs": 2}}
    assert "different budgets (ppo.epochs)" in warned(*PPO, *RLOO, settings=settings)
    assert "different budgets" not in warned(*PPO, *RLOO)
    assert "different numbers of threads (1, 2)" in warned(PPO[0], replace(PPO[1], threads=(2,)))
    assert "could not be drawn, so nothing is compared with it: x" in warned(*PPO, frontier_error="x")
    assert "The judge is the reward" in warned(*PPO, judge="x", reward_source="x")
    other = [replace(row, before=answer(0.5, text="other")) for row in RLOO[0].rows]
    assert "Seed 0: the answers before training are not the same" in warned(*PPO, replace(RLOO[0], rows=other))
    chosen = replace(RLOO[0], algorithm="best-of-n", rows=other)
    assert "answers before training" not in warned(*PPO, chosen)
    report = {**(PPO[0].report or {}), "fluency": synthetic.report(PPO[0].rows, broken=True)["fluency"]}
    assert "ppo: limits on side effects did not hold in 1 of 2 runs: duplicate responses." in warned(
        replace(PPO[0], report=report), PPO[1]
    )


def test_options_that_differ() -> None:
    settings = {"ppo": {"ppo.epochs": 1, "ppo.kl_coef": 0.1}, "rloo": {"ppo.epochs": 1, "ppo.kl_coef": 0.2}}
    found = compared(*PPO, *RLOO, settings=settings)
    assert found["differing"] == ["ppo.kl_coef"]
    assert found["settings"] == settings


def test_against_the_frontier() -> None:
    """Best-of-n on the two prompts, n = 1 and 2; at n = 2 KL is log 2 - 1/2 = .19315."""
    from humanward.evaluation.best_of_n import Frontier, PromptAnswers

    kl = 0.19314718055994531
    found = [PromptAnswers(name, name, ("x", "y"), (0.0, 1.0), (0.8, 0.4), (0.0, 0.0)) for name in "ab"]
    # n = 1: reward .5, toxicity .6; n = 2: reward 1, toxicity .4. At half of that KL: .75 and .5.
    runs = [result("ppo", s, [((0.6, 0.3), 0.95, kl / 2), ((0.6, 0.3), 0.95, kl / 2)]) for s in (0, 1)]
    content = compared(*runs, frontier=Frontier("test", 2, "r", "j", tuple(found)))
    against = content["algorithms"]["ppo"]["against_frontier"]
    assert against["kl"] == pytest.approx(kl / 2)
    assert against["reward"]["frontier"] == pytest.approx(0.75)
    assert against["reward"]["value"] == pytest.approx(0.2)
    assert against["toxicity"]["frontier"] == pytest.approx(0.5)
    assert against["toxicity"]["value"] == pytest.approx(-0.2)
    far = [result("ppo", s, [((0.6, 0.3), 0.95, 3.0), ((0.6, 0.3), 0.95, 3.0)]) for s in (0, 1)]
    beyond = compared(*far, frontier=Frontier("test", 2, "r", "j", tuple(found)))
    assert beyond["algorithms"]["ppo"]["against_frontier"]["reward"] is None
    assert "beyond its reach" in page_text(render_comparison(beyond))


def test_json_is_plain_and_repeats(whole: dict[str, Any]) -> None:
    text = json.dumps(whole, allow_nan=False)
    assert json.loads(text) == whole
    assert json.dumps(build_comparison(synthetic.inputs(seeds=3, prompts=60))) == text


def test_every_field_is_documented(whole: dict[str, Any]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    section = text[text.index("## `compare.json`") :]
    names = {*whole, *whole["algorithms"]["ppo"], *whole["pairs"][0], *whole["runs"][0], *whole["runs"][0]["costs"]}
    names |= {metric.name for metric in METRICS}
    assert [name for name in sorted(names) if f"`{name}`" not in section] == []


# --- the page and the terminal -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags that load or run something, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "data", "action") and not (value or "").startswith("#"):
                self.loads.append((tag, str(value)))
        if tag in ("script", "link", "iframe", "object", "embed", "base"):
            self.loads.append((tag, ""))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_text(html: str) -> str:
    return " ".join(" ".join(Page(html).texts).split())


def test_the_page_is_self_contained_and_complete(whole: dict[str, Any]) -> None:
    html = render_comparison(whole)
    assert Page(html).loads == []
    text = page_text(html)
    for name in whole["algorithms"]:
        assert name in text
    assert text.count("improved") >= sum(run["outcome"] == "improved" for run in whole["runs"])
    assert "Simulated annotators." in text
    assert whole["reproduce"] in text
    assert render_comparison(whole) == html


def test_what_failed_stays_text(spoilt: dict[str, Any]) -> None:
    assert "<loss>" not in render_comparison(spoilt)


def test_terminal_lines(whole: dict[str, Any]) -> None:
    lines = terminal_lines(whole, Path("runs/compare/compare.html"))
    assert lines[0] == whole["verdict"]
    assert len(lines) == 1 + 2 + 10 + 3
    assert max(map(len, lines[1:13])) <= 112
    row = next(line for line in lines if line.startswith("ppo "))
    value = whole["algorithms"]["ppo"]["metrics"]["toxicity"]["value"]
    assert f"{value:.3f}"[1:] in row
    assert not any("…" in line for line in lines[1:13])


def shapes(picture: Any, kind: str) -> list[ET.Element]:
    return [one for one in ET.fromstring(str(picture)).iter() if kind in (one.get("class") or "").split()]


def test_frontier_picture() -> None:
    clouds = [
        Cloud("ppo", "a0", "circle", [(1.0, 0.5), (4.0, 1.0)], (2.5, 0.75)),
        Cloud("dpo", "a1", "square", [(1.0, 0.5)], (1.0, 0.5)),
        Cloud("none", "a2", "circle", [], None),
    ]
    picture = frontier_picture(clouds, [(0.0, 0.0, "n = 1"), (1.0, 0.4, "")], title="t", start=0.0, include_zero=True)
    assert len(shapes(picture, "run")) == 3
    assert len(shapes(picture, "mean")) == 2
    assert [one.text for one in shapes(picture, "name")] == ["dpo", "ppo"]  # the lower one first
    assert len(shapes(picture, "frontier")) == 1
    # The axis is the root: a run at KL 4 stands twice as far from 0 as one at KL 1.
    near, far = (float(one.get("cx", "nan")) for one in shapes(picture, "run")[:2])
    zero = float(shapes(picture, "frontier-dot")[0].get("cx", "nan"))
    assert far - zero == pytest.approx(2 * (near - zero), abs=0.2)
    assert not frontier_picture([clouds[2]], [], title="t", start=None, include_zero=False)


def test_names_in_a_picture_do_not_cover_each_other(whole: dict[str, Any]) -> None:
    html = render_comparison(whole)
    for picture in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)[1:3]:
        boxes = []
        for one in shapes(picture, "name"):
            width, x, y = 5.6 * len(one.text or ""), float(one.get("x", "nan")), float(one.get("y", "nan"))
            left = x if one.get("text-anchor") == "start" else x - width
            boxes.append((left, y - 9, left + width, y))
        assert len(boxes) == 10
        overlaps = [
            (a, b)
            for i, a in enumerate(boxes)
            for b in boxes[:i]
            if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        ]
        assert overlaps == []


def test_it_needs_neither_torch_nor_the_trainer() -> None:
    code = (
        "import sys, humanward.stages.compare; "
        "print([m for m in sys.modules if m == 'torch' or m.startswith('humanward.rl') or m.startswith('matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.browser
def test_the_page_fits_a_telephone(tmp_path: Path, whole: dict[str, Any]) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        assert not os.environ.get("CI"), "CI has no Chromium; .ci/run installs it"
        pytest.skip("no Chromium on this machine")
    # A script of the test's own, let in by a policy of the test's own, writes how wide the page would like to be.
    html = render_comparison(whole).replace("style-src", "script-src 'unsafe-inline'; style-src")
    script = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth;</script>"
    (tmp_path / "compare.html").write_text(html.replace("</body>", f"{script}</body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=390,800", "--dump-dom", (tmp_path / "compare.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    wanted, given = map(int, re.search(r"<title>(\d+) of (\d+)</title>", dom).groups())  # type: ignore[union-attr]
    assert wanted <= given
