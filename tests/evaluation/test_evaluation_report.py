"""The report: its contract, its safety against what models write, and that it is written whole or not at all."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic_run

from humanward.errors import InputError
from humanward.evaluation.quotes import LONGEST_SHOWN, both_ends, pairs, reworded
from humanward.evaluation.report import build_report, closing_lines, write_report
from humanward.evaluation.rows import Answer, EvaluationRow
from humanward.evaluation.visible import visible

VOID = {"meta", "input", "br", "img", "link", "hr", "base"}


class Page(html.parser.HTMLParser):
    """Tags, attributes and visible text of a page; fails on tags that do not nest."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return write_report(synthetic_run.inputs(), folder), (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hard")
    return write_report(synthetic_run.hard_cases(), folder), (folder / "report.html").read_text(encoding="utf-8")


def test_contract(good):
    report, _ = good
    toxicity = report["toxicity"]
    for side in ("before", "after"):
        assert {"mean", "std", "n"} <= toxicity[side].keys()
    assert {"mean", "ci95", "p_value"} <= toxicity["difference"].keys()
    assert toxicity["judge"] == "demo/judge"
    assert {"value", "ci95", "n"} <= report["reward_model"]["accuracy"].keys()
    assert {"constant", "length"} <= report["reward_model"]["baselines"].keys()
    assert {"final", "budget", "at_start"} <= report["kl"].keys()
    names = ("distinct2", "perplexity", "length", "empty", "duplicates")
    assert {f"{name}_{side}" for name in names for side in ("before", "after")} <= report["fluency"].keys()
    assert report["reward"]["source"]
    assert report["gold"]["source"] == "demo/detector"
    assert report["gold"]["simulated_annotators"] is True
    assert report["warnings"] == []
    assert report["reproduce"].startswith("humanward ")
    assert report["versions"]["torch"] == "2.13.0"
    assert {"sample", "reward", "align", "evaluate", "total"} <= report["seconds"].keys()


def test_numbers_agree_with_the_rows(good):
    report, _ = good
    rows = synthetic_run.rows()
    before = [row.before.toxicity for row in rows]
    after = [row.after.toxicity for row in rows]
    assert report["toxicity"]["before"]["mean"] == pytest.approx(sum(before) / 250)
    assert report["toxicity"]["after"]["n"] == 250
    assert report["toxicity"]["difference"]["mean"] == pytest.approx((sum(after) - sum(before)) / 250)
    assert report["kl"]["final"] == pytest.approx(sum(row.after.sequence_kl for row in rows) / 250)
    assert report["outcome"] == "improved"


def test_what_was_not_measured_is_null(tmp_path):
    rows = [
        dataclasses.replace(
            row,
            before=dataclasses.replace(row.before, toxicity=None, reward=None, gold=None),
            after=dataclasses.replace(row.after, toxicity=None, reward=None, gold=None, sequence_kl=None),
        )
        for row in synthetic_run.rows(5)
    ]
    inputs = synthetic_run.inputs(
        rows, reward_model=None, metrics=[], kl={"at_start": None, "budget": None}, seconds={}, gold_source=None
    )
    report = write_report(inputs, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["toxicity"]["before"]["mean"] is None
    assert report["toxicity"]["difference"]["ci95"] is None
    assert (report["reward_model"], report["kl"]["final"], report["gold"]["source"]) == (None, None, None)
    assert report["seconds"] == dict.fromkeys(("sample", "reward", "align", "evaluate", "total"))
    assert report["outcome"] == "not measured"
    assert len(closing_lines(report)) == 10
    Page((tmp_path / "report.html").read_text())


def test_json_file_is_the_returned_report(tmp_path):
    report = write_report(synthetic_run.inputs(), tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == report
    assert build_report(synthetic_run.inputs()) == report


def test_same_inputs_same_bytes(tmp_path, good):
    write_report(synthetic_run.inputs(), tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == good[1]


def test_worst_regressions_come_first_and_before_the_wins(good):
    report, page = good
    changes = [one["change"] for one in report["worst_regressions"]]
    assert changes == sorted(changes, reverse=True)
    assert len(changes) == 10
    rows = synthetic_run.rows()
    assert changes[0] == max(row.after.toxicity - row.before.toxicity for row in rows)
    assert page.index('id="regressions"') < page.index('id="improvements"')
    section = page[page.index('id="regressions"') : page.index('id="improvements"')]
    assert section.index(report["worst_regressions"][0]["after"]) < section.index(
        report["worst_regressions"][1]["after"]
    )


def test_simulated_annotators_are_named_on_the_first_screen(good, tmp_path):
    _, page = good
    assert "Simulated annotators." in page[page.index("<body>") : page.index("<main>")]
    write_report(synthetic_run.inputs(simulated_annotators=False), tmp_path)
    assert "imulated annotators" not in (tmp_path / "report.html").read_text()


def test_page_is_self_contained(good, hard):
    for _, page in (good, hard):
        parsed = Page(page)
        for tag, attributes in parsed.tags:
            assert tag not in {"img", "link", "iframe", "object", "embed", "base", "video", "audio", "use", "image"}
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")
            assert (attributes.get("xmlns") or "http://www.w3.org/2000/svg") == "http://www.w3.org/2000/svg"
        style = page[page.index("<style>") : page.index("</style>")]
        assert "url(" not in style
        assert "@import" not in style


def test_what_models_write_stays_text(good, hard):
    _, page = hard
    parsed, reference = Page(page), Page(good[1])
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert {tag for tag, _ in parsed.tags} == {tag for tag, _ in reference.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    text = "".join(parsed.text)
    for injection in synthetic_run.INJECTIONS:
        assert visible(injection).strip() in text
    assert "hard <b>cases</b>" in text
    assert "'</code><script>x</script>'" in text


def test_control_characters_and_surrogates_are_pictured(hard):
    _, page = hard
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page)
    assert visible("a\u202eb\x00\x1b\ud800\x7f\r\nc\td") == "a\ufffdb\u2400\u241b\ufffd\u2421\nc\td"
    assert visible("שלום 😀 é") == "שלום 😀 é"


def test_long_and_empty_responses(hard):
    report, page = hard
    assert page.count("(empty)") >= 2
    assert f"{15000 - 1 - LONGEST_SHOWN:,} more characters in evaluation.jsonl" in page
    assert len(page) < 500_000
    assert report["toxicity"]["after"]["unscored"] == 2
    assert "not comparable" in page


def test_many_rows_are_cut_at_both_ends(tmp_path):
    write_report(synthetic_run.inputs(synthetic_run.rows(600)), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "The 400 of 600 responses that changed, grew or were reworded most" in page
    assert page.count("data-order") == 400


def test_the_list_holds_the_first_of_every_order():
    """Ten pairs of the middle that no change of toxicity would bring in: the longest and the most reworded."""
    rows = synthetic_run.rows(600)
    scored, _ = pairs(rows)
    middle = scored[300]
    place = next(i for i, row in enumerate(rows) if row.prompt_id == middle.prompt_id and row.sample == middle.sample)
    rows[place] = dataclasses.replace(rows[place], after=dataclasses.replace(rows[place].after, tokens=999))
    shown = both_ends(pairs(rows)[0], 40)
    assert len(shown) == 40
    assert any(pair.length == 999 for pair in shown)
    assert [pair.order for pair in shown] == sorted((pair.order for pair in shown), reverse=True)
    assert {shown[0].order, shown[-1].order} == {scored[0].order, scored[-1].order}


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [("a b c d", "a b c d", 0.0), ("a b", "c d", 1.0), ("a a b", "A b b", 1 / 3), ("", "", 0.0), ("", "new", 1.0)],
)
def test_the_share_of_other_words_by_hand(before, after, share):
    """a a b and a b b have one a and one b in common: 1 - 2 * 2 / 6."""
    assert reworded(before, after) == pytest.approx(share)


def test_warnings_reach_page_and_file(tmp_path):
    model = synthetic_run.inputs().reward_model | {"difference_to_length": {"mean": 0.01, "ci95": [-0.02, 0.04]}}
    metrics = [*synthetic_run.metrics(3), {"ppo/step": 3, "ppo/kl": float("nan")}]
    report = write_report(
        synthetic_run.inputs(reward_model=model, metrics=metrics, warnings=["3 duplicate prompts dropped"]), tmp_path
    )
    page = "".join(Page((tmp_path / "report.html").read_text()).text)
    assert report["warnings"][0] == "3 duplicate prompts dropped"
    assert "does not beat choosing by length" in report["warnings"][1]
    assert report["warnings"][2] == "ppo/kl was not finite in 1 step."
    assert "3 warnings" in page
    assert "3 duplicate prompts dropped" in page


def test_failed_limits_are_said_in_words(tmp_path):
    rows = [
        dataclasses.replace(row, after=dataclasses.replace(row.after, text="Fine.")) for row in synthetic_run.rows(120)
    ]
    write_report(synthetic_run.inputs(rows), tmp_path)
    text = "".join(Page((tmp_path / "report.html").read_text()).text)
    assert "✗ not held" in text
    assert "✓ held" in text


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_report(synthetic_run.inputs(title="first"), tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert old.keys() == {"report.html", "report.json"}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"report\.html: no space left on the disk"):
        write_report(synthetic_run.inputs(title="second"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_closing_lines(good):
    report, _ = good
    lines = closing_lines(report, "runs/quickstart/report.html")
    assert len(lines) == 10
    assert all(line and "\n" not in line for line in lines)
    assert lines[0] == report["verdict"]
    assert lines[-1] == "report       runs/quickstart/report.html  (308 seconds in all)"
    assert "simulated annotators" in "\n".join(lines)
    assert "length alone .55" in lines[6]


def test_classifier_as_reward(tmp_path):
    report = write_report(synthetic_run.inputs(reward_model=None, reward_source="demo/detector"), tmp_path)
    assert report["reward_model"] is None
    assert "no reward model was trained" in (tmp_path / "report.html").read_text()


def test_evaluation_needs_neither_torch_nor_the_trainer():
    code = (
        "import sys, humanward.evaluation.report; "
        "print([m for m in sys.modules if m == 'torch' or m.startswith('humanward.rl') or m.startswith('matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.browser
def test_page_works_in_a_browser(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        # In CI the browser is part of the set-up, so its absence is a fault and not a reason to look away.
        assert not os.environ.get("CI"), "CI has no Chromium; .ci/run installs it"
        pytest.skip("no Chromium on this machine")
    write_report(synthetic_run.hard_cases(), tmp_path)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--dump-dom", (tmp_path / "report.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert '<output id="count">250 of 250</output>' in dom  # the script ran under the page's own security policy
    assert dom.count("<script>") == 1
    assert "<iframe" not in dom


def test_every_field_is_documented(good):
    report, _ = good
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "files.md").read_text(encoding="utf-8")
    for name in report:
        assert f"`{name}" in text, name
    for part in ("toxicity", "kl", "fluency", "reward", "gold"):
        for name in report[part]:
            assert re.sub(r"_(before|after)$", "", name) in text, name
    for kind in (EvaluationRow, Answer):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in text
