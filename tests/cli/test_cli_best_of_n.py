"""The frontier before training and best-of-n as an algorithm, from the command line on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli import small
from cli.running import humanward, leftovers

from humanward.evaluation.best_of_n import analytic_kl, read_frontier
from humanward.evaluation.rows import read_rows
from humanward.records import Prompt, read_jsonl


def with_frontier(tiny: Path, folder: Path, *, trained: bool = False, **best_of_n: int) -> dict[str, Any]:
    values = small.settings(tiny, folder, trained=trained)
    values["prompts"]["validation_fraction"] = 0.3
    values["best_of_n"] = {"samples": 4, "prompts": 5, **best_of_n}
    return values


def algorithm(tiny: Path, folder: Path, *, trained: bool = False, samples: int = 4) -> dict[str, Any]:
    values = small.settings(tiny, folder, trained=trained)
    values["algorithm"] = "best-of-n"
    del values["ppo"]
    values["best_of_n"] = {"samples": samples}
    return values


def steps(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("ppo/seconds")} for row in rows if "ppo/step" in row]


@pytest.mark.parametrize("trained", [False, True])
def test_the_frontier_stands_beside_training(trained: bool, tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", with_frontier(tiny, tmp_path, trained=trained))
    run = tmp_path / "run"
    outcome = humanward("run", config, "--out", run)
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.strip().splitlines()) == 10
    frontier = read_frontier(run / "frontier.json")
    validation = {p.id for p in read_jsonl(run / "prompts.jsonl", Prompt) if p.split == "validation"}
    assert len(frontier.reference) == 5
    assert {one.prompt_id for one in frontier.reference} <= validation
    assert [one.prompt_id for one in frontier.policy] == [one.prompt_id for one in frontier.reference]
    assert all(len(one.texts) == 4 and set(one.sequence_kl) == {0.0} for one in frontier.reference)
    assert all(len(one.texts) == 4 and 0.0 not in one.sequence_kl for one in frontier.policy)
    summary = json.loads((run / "report.json").read_text(encoding="utf-8"))["best_of_n"]
    assert summary["split"] == "validation"
    assert [point["n"] for point in summary["points"]] == [1, 2, 4]
    assert [point["kl"] for point in summary["points"]] == pytest.approx([0.0, 0.19314718, 0.63629436])
    assert summary["points"][0]["reward"]["value"] == pytest.approx(
        sum(sum(one.reward) for one in frontier.reference) / 20  # type: ignore[arg-type]
    )
    assert summary["policy"]["samples"] == 4
    assert summary["verdict"] in outcome.err, "the verdict is told in the terminal"
    assert "What best-of-n reaches" in (run / "report.html").read_text(encoding="utf-8")
    assert leftovers(run) == []


def test_the_frontier_changes_nothing_in_training(tiny: Path, tmp_path: Path) -> None:
    with_it = small.write(tmp_path / "with.toml", with_frontier(tiny, tmp_path))
    without = small.write(tmp_path / "without.toml", with_frontier(tiny, tmp_path, prompts=0))
    first = humanward("run", with_it, "--out", tmp_path / "one")
    second = humanward("run", without, "--out", tmp_path / "two")
    assert first.code == second.code == 0
    assert "best_of_n.prompts = 0" in second.err
    assert not (tmp_path / "two" / "frontier.json").exists()
    assert humanward("report", "--run", tmp_path / "two", "--json").json()["best_of_n"] is None
    assert steps(tmp_path / "one") == steps(tmp_path / "two")
    adapters = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("one", "two")]
    assert adapters[0] == adapters[1]
    assert (tmp_path / "one" / "evaluation.jsonl").read_bytes() == (tmp_path / "two" / "evaluation.jsonl").read_bytes()


def test_without_validation_prompts_there_is_a_notice(tiny: Path, tmp_path: Path) -> None:
    values = with_frontier(tiny, tmp_path)
    values["prompts"]["validation_fraction"] = 0.0
    config = small.write(tmp_path / "config.toml", values)
    outcome = humanward("run", config, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "there are no validation prompts" in outcome.err
    assert humanward("report", "--run", tmp_path / "run", "--json").json()["best_of_n"] is None
    assert "What best-of-n reaches" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_same_seed_draws_the_same_frontier(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", with_frontier(tiny, tmp_path))
    for name in ("one", "two"):
        assert humanward("run", config, "--out", tmp_path / name, "--json").code == 0
    files = [(tmp_path / name / "frontier.json").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.parametrize("where", ["sequence_kl", "write_frontier"])
def test_an_interrupted_frontier_is_measured_again(
    where: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small.write(tmp_path / "config.toml", with_frontier(tiny, tmp_path))
    run = tmp_path / "run"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"humanward.stages.best_of_n.{where}", interrupt)
        assert humanward("run", config, "--out", run).code == 130
    assert list(json.loads((run / "stages.json").read_text(encoding="utf-8"))) == ["prompts"]
    assert leftovers(run) == []
    assert humanward("run", config, "--out", run, "--json").code == 0
    assert read_frontier(run / "frontier.json").policy


# --- the algorithm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [False, True])
def test_best_of_n_chooses_by_the_reward(trained: bool, tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", algorithm(tiny, tmp_path, trained=trained))
    run = tmp_path / "run"
    outcome = humanward("run", config, "--out", run)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.strip().splitlines()
    assert len(lines) == 10
    assert any(line.startswith("KL           0.64 nats") and "upper bound" in line for line in lines), lines
    assert not (run / "adapter").exists()
    rows = {row.prompt_id: row for row in read_rows(run / "evaluation.jsonl")}
    frontier = read_frontier(run / "frontier.json")
    assert frontier.split == "test"
    assert len(frontier.reference) == len(rows) == small.SETTINGS["evaluation"]["prompts"]
    chosen = 0
    for one in frontier.reference:
        row = rows[one.prompt_id]
        best = max(range(4), key=lambda k: one.reward[k])  # type: ignore[arg-type,return-value]
        assert (row.before.text, row.after.text) == (one.texts[0], one.texts[best])
        assert (row.before.toxicity, row.after.toxicity) == pytest.approx((one.toxicity[0], one.toxicity[best]))
        assert (row.before.sequence_kl, row.after.sequence_kl) == (0.0, pytest.approx(analytic_kl(4)))
        chosen += best != 0
    assert chosen, "the first candidate cannot always be the best"
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["title"].endswith("best of 4")
    assert report["kl"]["analytic"] is True
    assert report["kl"]["budget"] is None
    assert report["best_of_n"]["policy"] is None
    facts = json.loads((run / "stages.json").read_text(encoding="utf-8"))["align"]
    assert (facts["steps"], facts["kl_at_start"], facts["samples"], facts["warnings"]) == (0, 0.0, 4, [])
    assert leftovers(run) == []


def test_more_samples_a_prompt_have_candidates_of_their_own(tiny: Path, tmp_path: Path) -> None:
    values = algorithm(tiny, tmp_path, samples=3)
    values["evaluation"]["samples"] = 2
    config = small.write(tmp_path / "config.toml", values)
    assert humanward("run", config, "--out", tmp_path / "run", "--json").code == 0
    rows = read_rows(tmp_path / "run" / "evaluation.jsonl")
    assert len(rows) == 12
    frontier = read_frontier(tmp_path / "run" / "frontier.json")
    assert len(frontier.reference) == 6
    first = {row.prompt_id: row.before.text for row in rows if row.sample == 0}
    assert {one.prompt_id: one.texts[0] for one in frontier.reference} == first


def test_before_is_what_every_other_algorithm_calls_before(tiny: Path, tmp_path: Path) -> None:
    values = algorithm(tiny, tmp_path)
    ppo = small.write(tmp_path / "ppo.toml", {**small.settings(tiny, tmp_path), "best_of_n": {"prompts": 0}})
    assert humanward("run", small.write(tmp_path / "bon.toml", values), "--out", tmp_path / "bon").code == 0
    assert humanward("run", ppo, "--out", tmp_path / "ppo").code == 0
    before = [[row.before for row in read_rows(tmp_path / name / "evaluation.jsonl")] for name in ("bon", "ppo")]
    assert before[0] == before[1]


def test_chat_chooses_too(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", algorithm(tiny, tmp_path))
    run = tmp_path / "run"
    assert humanward("run", config, "--out", run).code == 0
    shown = humanward("chat", run, "--prompt", "what is a?", "--json").json()
    assert shown.keys() == {"prompt", "before", "after", "toxicity"}
    assert humanward("chat", run, "--prompt", "what is a?", "--json").json() == shown
    answers = {humanward("chat", run, "--prompt", f"what is {k}?", "--json").json()["after"] for k in "abcdef"}
    assert len(answers) > 1
    plain = humanward("chat", run, "--prompt", "what is a?")
    assert plain.code == 0
    assert "best of 4" in plain.out


def test_another_algorithm_takes_the_place_of_an_adapter(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", with_frontier(tiny, tmp_path))
    run = tmp_path / "run"
    assert humanward("run", config, "--out", run).code == 0
    assert (run / "adapter").exists()
    assert humanward("align", "--run", run, "--algorithm", "best-of-n", "--again").code == 0
    assert not (run / "adapter").exists()
    assert not (run / "frontier.json").exists(), "the frontier of the other algorithm is not this one's"
    assert steps(run) == []
    assert humanward("evaluate", "--run", run).code == 0
    report = humanward("report", "--run", run, "--json").json()
    assert report["best_of_n"]["split"] == "test"


@pytest.mark.parametrize("stage", ["align", "evaluate"])
def test_an_interrupted_best_of_n_goes_on(
    stage: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small.write(tmp_path / "config.toml", algorithm(tiny, tmp_path))
    run = tmp_path / "run"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target = {"align": "stages.best_of_n.choosing_scorer", "evaluate": "stages.evaluate._one"}[stage]
    with monkeypatch.context() as patch:
        patch.setattr(f"humanward.{target}", interrupt)
        assert humanward("run", config, "--out", run).code == 130
    assert stage not in json.loads((run / "stages.json").read_text(encoding="utf-8"))
    assert leftovers(run) == []
    assert humanward("run", config, "--out", run, "--json").json()["best_of_n"]["samples"] == 4
    assert leftovers(run) == []


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 1}, "best_of_n.samples = 1"),
        ({"prompts": -1}, "best_of_n.prompts = -1"),
        ({"sample": 4}, "did you mean samples?"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, int], words: str, tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", with_frontier(tiny, tmp_path, **changes))
    assert words in humanward("run", config, "--out", tmp_path / "run").refusal()
    assert not (tmp_path / "run").exists()


def test_an_option_that_best_of_n_does_not_use_is_refused(tiny: Path, tmp_path: Path) -> None:
    values = algorithm(tiny, tmp_path)
    values["best_of_n"]["prompts"] = 8
    config = small.write(tmp_path / "config.toml", values)
    line = humanward("run", config, "--out", tmp_path / "run").refusal()
    assert "best_of_n.prompts = 8: best-of-n does not use it; it uses best_of_n.{samples}" in line


def test_best_of_n_without_a_reward_is_refused(tiny: Path, tmp_path: Path) -> None:
    values = algorithm(tiny, tmp_path)
    values["reward"] = {"source": "trained"}
    config = small.write(tmp_path / "config.toml", values)
    assert "needs rankings" in humanward("run", config, "--out", tmp_path / "run").refusal()
    values = algorithm(tiny, tmp_path, trained=True)
    config = small.write(tmp_path / "config.toml", values)
    line = humanward("align", "--run", tmp_path / "other", "--config", config).refusal(after_work=True)
    assert "has no trained reward model; run `humanward reward train" in line


def test_a_damaged_frontier_is_named(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", with_frontier(tiny, tmp_path))
    run = tmp_path / "run"
    assert humanward("run", config, "--out", run, "--json").code == 0
    value = json.loads((run / "frontier.json").read_text(encoding="utf-8"))
    value["samples"] = 8
    (run / "frontier.json").write_text(json.dumps(value), encoding="utf-8")
    assert "frontier.json: prompt" in humanward("report", "--run", run).refusal()
    (run / "frontier.json").write_text("{", encoding="utf-8")
    assert "frontier.json: damaged" in humanward("report", "--run", run).refusal()
    (run / "frontier.json").unlink()
    assert humanward("report", "--run", run, "--json").json()["best_of_n"] is None
