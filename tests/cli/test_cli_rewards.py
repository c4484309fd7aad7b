"""Every kind of reward through the commands: combined sources, ensembles, and what happens when a source fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import small
from cli.running import humanward, leftovers
from reward.test_remote import SECRET, Server, lengths
from safetensors.torch import load_file


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def combined(tiny: Path, folder: Path, *sources: dict[str, Any], trained: bool = False) -> dict[str, Any]:
    values = small.settings(tiny, folder, trained=trained)
    values["reward"] = {
        "rank": 2,
        "epochs": 1,
        "max_tokens_trained": 96,
        "source": "combined",
        "sources": list(sources),
    }
    values["best_of_n"] = {"samples": 2, "prompts": 2}
    return values


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_several_sources_make_one_reward(tiny: Path, tmp_path: Path, server: Server) -> None:
    """Anchored or not, weighted, measured by name in training, evaluation and report; the total is their sum."""
    sources = [
        {"kind": "classifier", "classifier": str(tiny / "roberta"), "label": "nothate", "max_tokens": 6},
        {"kind": "trained", "weight": 2.0},
        {"kind": "length", "per": "token", "target": 4, "anchor": False, "weight": -0.5},
        {"kind": "length", "name": "letters", "per": "character"},
        {"kind": "regex", "pattern": "[a-m]", "anchor": False},
        {"kind": "http", "url": server.url, "batch_size": 5},
    ]
    values = combined(tiny, tmp_path, *sources, trained=True)
    values["reward"]["ensemble"] = 2
    run = tmp_path / "run"
    report = humanward("run", small.write(tmp_path / "c.toml", values), "--out", run, "--json").json()
    names = ["classifier", "trained", "length", "letters", "regex", "http"]
    members = [f"trained-{name}" for name in ("member-1", "member-2", "disagreement")]
    logged = [row for row in rows(run / "metrics.jsonl") if "ppo/step" in row]
    assert all(
        f"ppo/reward/{name}_{of}" in row for row in logged for name in (*names, *members) for of in ("mean", "std")
    )
    # The server counts letters, as the source beside it does.
    assert all(row["ppo/reward/http_mean"] == pytest.approx(row["ppo/reward/letters_mean"]) for row in logged)
    anchors = json.loads((run / "reward_anchors.json").read_text())
    assert list(anchors["sources"]) == names
    assert anchors["sources"]["regex"] == anchors["sources"]["length"] == {"shift": 0, "scale": 1}
    weights = dict(zip(names, (1, 2, -0.5, 1, 1, 1), strict=True))
    for row in rows(run / "evaluation.jsonl"):
        for side in ("before", "after"):
            parts = row[side]["reward_parts"]
            assert set(parts) == {*names, *members}
            total = sum(
                weight * (parts[name] - anchors["sources"][name]["shift"]) / anchors["sources"][name]["scale"]
                for name, weight in weights.items()
            )
            assert row[side]["reward"] == pytest.approx(total, rel=1e-3, abs=1e-4)
            assert parts["http"] == len(row[side]["text"])
    assert report["reward"]["source"] == "1 classifier + 2 trained + -0.5 length + 1 letters + 1 regex + 1 http"
    assert [source["name"] for source in report["reward"]["sources"]] == names
    assert report["reward"]["parts"]["http"]["before"] == report["reward"]["parts"]["letters"]["before"]
    assert len(report["reward_model"]["members"]) == 2
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What it is made of" in page
    # Texts of more than six tokens were cut for the classifier, counted by stage, and told.
    cut = report["truncated"]["evaluate"]["reward classifier"]
    assert cut > 0
    line = f"evaluate: {cut} texts were longer than a classifier reads (reward classifier) and were truncated"
    assert line in report["warnings"]
    assert sum(row["ppo/truncated"] for row in logged) <= sum(report["truncated"]["align"].values())
    assert leftovers(run) == []


def test_truncations_are_counted_alike_in_one_go_and_stage_by_stage(tiny: Path, tmp_path: Path) -> None:
    values = small.settings(tiny, tmp_path)
    values["reward"]["max_tokens"] = 5
    values["evaluation"]["judge_options"] = {"max_tokens": 4, "truncation": "left"}
    config = small.write(tmp_path / "c.toml", values)
    whole = humanward("run", config, "--out", tmp_path / "one", "--json").json()
    assert humanward("align", "--run", tmp_path / "two", "--config", config).code == 0
    assert humanward("evaluate", "--run", tmp_path / "two").code == 0
    resumed = humanward("run", config, "--out", tmp_path / "two", "--json").json()
    assert resumed["truncated"] == whole["truncated"]
    assert whole["truncated"]["evaluate"]["judge"] > 0
    assert whole["truncated"]["evaluate"]["reward"] > 0
    assert set(whole["truncated"]["align"]) == {"reward", "judge"}


def test_a_combined_reward_chooses_the_best_of_n(tiny: Path, tmp_path: Path) -> None:
    """A single unanchored length: what is chosen is never shorter than the first answer, counted in words."""
    values = combined(tiny, tmp_path, {"kind": "length", "per": "character", "anchor": False})
    del values["ppo"]
    values |= {"algorithm": "best-of-n", "best_of_n": {"samples": 3}}
    run = tmp_path / "run"
    assert humanward("run", small.write(tmp_path / "c.toml", values), "--out", run, "--json").code == 0
    answers = rows(run / "evaluation.jsonl")
    assert all(len(row["after"]["text"]) >= len(row["before"]["text"]) for row in answers)
    assert all(row["after"]["reward"] == len(row["after"]["text"]) for row in answers)


def test_in_an_off_policy_run_a_combined_reward_watches(tiny: Path, tmp_path: Path) -> None:
    values = combined(tiny, tmp_path, {"kind": "length"}, {"kind": "regex", "pattern": "[aeiou]"}, trained=True)
    del values["ppo"], values["best_of_n"]
    values |= {"algorithm": "dpo", "offline": {"max_tokens": 90}}
    run = tmp_path / "run"
    report = humanward("run", small.write(tmp_path / "c.toml", values), "--out", run, "--json").json()
    assert report["reward"]["source"] == "preferences; 1 length + 1 regex only watched"
    assert {source["name"]: source["scale"] > 0 for source in report["reward"]["sources"]} == {"length": 1, "regex": 1}
    assert set(rows(run / "evaluation.jsonl")[0]["after"]["reward_parts"]) == {"length", "regex"}
    assert not (run / "reward_model").exists()


# --- sources that fail -----------------------------------------------------------------------------------------------


def test_an_endpoint_that_fails_in_training_stops_the_run_and_keeps_the_policy(
    tiny: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORES_TOKEN", SECRET)
    http = {"kind": "http", "url": server.url, "token_env": "SCORES_TOKEN", "retries": 1, "backoff": 0.0}
    values = combined(tiny, tmp_path, {**http, "anchor": False})
    values["ppo"] |= {"steps": 3, "anchor_scores": False, "learning_rate": 0.1}
    values["best_of_n"] = {"samples": 2, "prompts": 0}
    config, run = small.write(tmp_path / "c.toml", values), tmp_path / "run"
    good = server.replies[0]
    # Nothing is anchored, so the first request is the first step's.
    server.replies = [good, (500, f"out of memory, {SECRET}")]
    outcome = humanward("run", config, "--out", run)
    line = outcome.refusal(after_work=True)
    kept = run / "adapter-stopped"
    assert f"{server.url}: gave status 500: out of memory, *** (2 attempts)" in line
    assert f"the policy after 1 of 3 steps is in {kept}" in line
    moved = load_file(kept / "adapter_model.safetensors")
    assert any(bool(weight.any()) for name, weight in moved.items() if "lora_B" in name)
    assert not (run / "adapter").exists()
    assert len([row for row in rows(run / "metrics.jsonl") if "ppo/step" in row]) == 1
    assert list(json.loads((run / "stages.json").read_text())) == ["prompts"]
    server.replies = [good]
    assert humanward("run", config, "--out", run, "--json").code == 0
    assert not kept.exists()
    written = b"".join(file.read_bytes() for file in run.rglob("*") if file.is_file())
    assert SECRET.encode() not in written
    assert SECRET not in outcome.err
    assert leftovers(run) == []


def test_an_endpoint_that_is_not_there_stops_before_training(tiny: Path, tmp_path: Path) -> None:
    http = {"kind": "http", "url": "http://127.0.0.1:9/score", "retries": 0}
    values = combined(tiny, tmp_path, http)
    line = humanward("run", small.write(tmp_path / "c.toml", values), "--out", tmp_path / "run").refusal(
        after_work=True
    )
    assert "http://127.0.0.1:9/score: gave ConnectError" in line
    assert not (tmp_path / "run" / "adapter-stopped").exists()


FUNCTIONS = """
calls = 0
def wary(prompts, responses):
    global calls
    calls += 1
    if calls > 2:
        raise RuntimeError("third time unlucky")
    return [float(len(r)) for r in responses]
"""


def test_a_function_that_raises_stops_the_run_in_one_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_unlucky_rewards.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    values = combined(tiny, tmp_path, {"kind": "function", "function": "my_unlucky_rewards:wary"})
    values["best_of_n"]["prompts"] = 0
    values["ppo"]["steps"] = 3
    run = tmp_path / "run"
    line = humanward("run", small.write(tmp_path / "c.toml", values), "--out", run).refusal(after_work=True)
    assert "my_unlucky_rewards:wary: raised RuntimeError: third time unlucky on 4 responses" in line
    assert f"the policy after 1 of 3 steps is in {run / 'adapter-stopped'}" in line
    assert (run / "prompts.jsonl").exists()
    sys.modules.pop("my_unlucky_rewards", None)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"kind": "lenght"}, ("reward.sources[0]", "needs a kind of trained, classifier, length")),
        ({"kind": "length", "traget": 3}, ("unknown key reward.sources[0].traget = 3", "did you mean target?")),
        ({"kind": "classifier", "classifier": "./nowhere"}, ("./nowhere", "no such folder")),
        ({"kind": "function", "function": "no_such_module_x:f"}, ("no module no_such_module_x",)),
        ({"kind": "words", "path": "no-words.txt"}, ("no-words.txt", "not a readable UTF-8 file")),
        ({"kind": "http", "url": "http://127.0.0.1:9/", "token_env": "NOT_SET_X"}, ("NOT_SET_X", "not set")),
        ({"kind": "trained"}, ("sources of kind 'trained' needs rankings", "set feedback.source")),
    ],
)
def test_what_is_wrong_with_a_source_is_said_before_any_work(
    source: dict[str, Any], words: tuple[str, ...], tiny: Path, tmp_path: Path
) -> None:
    values = combined(tiny, tmp_path, source)
    line = humanward("run", small.write(tmp_path / "c.toml", values), "--out", tmp_path / "run").refusal()
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_a_label_that_a_source_does_not_have_lists_those_it_has(tiny: Path, tmp_path: Path) -> None:
    values = combined(tiny, tmp_path, {"kind": "classifier", "classifier": str(tiny / "bert"), "label": "kind"})
    line = humanward("run", small.write(tmp_path / "c.toml", values), "--out", tmp_path / "run").refusal()
    assert "has no label 'kind'; its labels are toxic, severe_toxic, obscene" in line


def test_a_source_that_never_varies_cannot_be_anchored(tiny: Path, tmp_path: Path) -> None:
    values = combined(tiny, tmp_path, {"kind": "regex", "name": "rare", "pattern": "zebra zebra zebra"})
    line = humanward("run", small.write(tmp_path / "c.toml", values), "--out", tmp_path / "run").refusal(
        after_work=True
    )
    assert "reward.sources: rare: its scores of" in line
    assert "set its anchor = false" in line


def test_the_judge_among_the_sources_is_told(tiny: Path, tmp_path: Path) -> None:
    source = {"kind": "classifier", "classifier": str(tiny / "bert"), "label": "toxic", "weight": -1.0}
    values = combined(tiny, tmp_path, source)
    report = humanward("run", small.write(tmp_path / "c.toml", values), "--out", tmp_path / "run", "--json").json()
    assert any(line.startswith("The judge is the reward") for line in report["warnings"])


# --- ensembles, and scoring any text ---------------------------------------------------------------------------------


def score(folder: Path, *options: object) -> list[dict[str, Any]]:
    lines = folder / "in.jsonl"
    lines.write_text('{"prompt": "a", "response": "bb", "mine": 1}\n{"response": "c"}\n', encoding="utf-8")
    out = folder / "scored.jsonl"
    done = humanward("reward", "score", *options, "--input", lines, "--output", out, "--json")
    assert done.json()["scored"] == 2
    return rows(out)


def test_an_ensemble_is_trained_measured_and_scores_with_its_uncertainty(tiny: Path, tmp_path: Path) -> None:
    values = small.settings(tiny, tmp_path, trained=True)
    values["reward"] |= {"ensemble": 2, "ensemble_score": "mean-std", "ensemble_lambda": 0.5}
    run = tmp_path / "run"
    report = humanward("run", small.write(tmp_path / "c.toml", values), "--out", run, "--json").json()
    assert report["reward"]["source"] == "mean-std of 2 reward models trained on the rankings"
    logged = rows(run / "metrics.jsonl")
    assert {row["reward/member"] for row in logged if "reward/member" in row} == {1, 2}
    steps = [row for row in logged if "ppo/step" in row]
    assert all(row["ppo/reward/disagreement_mean"] >= 0 for row in steps)
    assert (run / "reward_model" / "member-2" / "adapter_model.safetensors").exists()
    measured = humanward("reward", "evaluate", "--run", run, "--no-probes", "--json").json()
    assert measured["reward"]["members"] == 2
    assert {row["part"] for row in measured["sets"][0]["by_part"]} <= {"member-1", "member-2"}
    by_run = score(tmp_path, "--run", run)
    for row in by_run:
        first, second = row["parts"]["member-1"], row["parts"]["member-2"]
        deviation = abs(first - second) / 2
        assert row["uncertainty"] == pytest.approx(deviation, abs=1e-5)
        assert row["score"] == pytest.approx((first + second) / 2 - 0.5 * deviation, abs=1e-5)
    assert by_run[0]["mine"] == 1
    assert score(tmp_path, "--source", run) == by_run
    # The folder by itself: its base is loaded, in the machine's own precision, and the mean is taken.
    alone = score(tmp_path, "--source", run / "reward_model")
    assert alone[0]["score"] == pytest.approx(sum(by_run[0]["parts"][f"member-{n}"] for n in (1, 2)) / 2, abs=0.1)


def test_text_is_scored_by_every_kind_of_source(
    tiny: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_length_rewards.py").write_text("def letters(p, r):\n    return [len(x) for x in r]\n")
    monkeypatch.chdir(tmp_path)
    assert [row["score"] for row in score(tmp_path, "--source", server.url)] == [2, 1]
    assert [row["score"] for row in score(tmp_path, "--source", "my_length_rewards:letters")] == [2, 1]
    assert all("parts" not in row for row in score(tmp_path, "--source", tiny / "roberta", "--label", "1"))
    values = combined(tiny, tmp_path, {"kind": "length", "per": "character", "anchor": False, "weight": 2.0})
    config = small.write(tmp_path / "c.toml", values)
    assert humanward("align", "--run", tmp_path / "run", "--config", config).code == 0
    assert score(tmp_path, "--run", tmp_path / "run") == [
        {"prompt": "a", "response": "bb", "mine": 1, "score": 4.0, "parts": {"length": 2.0}},
        {"response": "c", "score": 2.0, "parts": {"length": 1.0}},
    ]
    assert lengths(server.bodies[0]) == [2, 1]


@pytest.mark.parametrize("given", [(), ("--source", "demo/judge", "--run", "x")])
def test_exactly_one_of_source_and_run_scores(given: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"response": "c"}\n')
    line = humanward("reward", "score", *given, "--input", tmp_path / "in", "--output", tmp_path / "out").refusal()
    assert "--source, --run: give exactly one of the two" in line
