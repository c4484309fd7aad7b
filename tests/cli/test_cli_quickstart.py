"""The quickstart on the embedded models, cut down to seconds: both rewards, and rankings by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.running import Outcome, humanward, leftovers

from humanward import demo

SMALL = {
    "ppo.steps": 2,
    "ppo.critic_warmup_steps": 0,
    "ppo.rollout_size": 8,
    "ppo.minibatch_size": 4,
    "ppo.micro_batch_size": 4,
    "ppo.epochs": 1,
    "sampling.max_new_tokens": 8,
    "evaluation.prompts": 8,
    "reward.epochs": 1,
}


@pytest.fixture(autouse=True)
def embedded() -> None:
    missing = [name for name in demo.NAMES if not demo.path(name).exists()]
    assert missing == [], "the embedded default is not whole"


def quickstart(out: Path, *more: object, prompts: int = 16, typed: str = "") -> Outcome:
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    count = ["--set", f"feedback.prompts={prompts}"] if prompts else []
    return humanward("quickstart", "--out", out, *settings, *count, *more, typed=typed)


def test_trained_on_simulated_rankings(tmp_path: Path) -> None:
    report = quickstart(tmp_path / "run", "--seed", 3, "--json").json()
    assert report["gold"]["simulated_annotators"] is True
    assert report["gold"]["source"] not in (report["toxicity"]["judge"], report["reward"]["source"])
    assert report["reward_model"]["accuracy"]["n"] > 0
    assert report["reproduce"].startswith("humanward quickstart --seed 3 ")
    assert abs(report["kl"]["at_start"]) <= 1e-2
    for name in ("completions.jsonl", "rankings.jsonl", "preferences.jsonl", "evaluation.jsonl"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    rankings = (tmp_path / "run" / "rankings.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["simulated"] for line in rankings)
    assert leftovers(tmp_path) == []


def test_ready_made_classifier(tmp_path: Path) -> None:
    report = quickstart(tmp_path / "run", "--reward", "classifier", "--json").json()
    assert report["reward_model"] is None
    assert report["gold"]["simulated_annotators"] is False
    assert report["reward"]["source"] != report["toxicity"]["judge"]
    assert not (tmp_path / "run" / "rankings.jsonl").exists()


def test_ranked_by_hand_with_a_break(tmp_path: Path) -> None:
    stopped = quickstart(tmp_path / "run", "--rank-yourself", "--json", prompts=0, typed="b a c d\n")
    assert "the same command goes on where you stopped" in stopped.refusal(after_work=True)
    outcome = quickstart(tmp_path / "run", "--rank-yourself", "--json", prompts=0, typed="b a=c d\n" * 9)
    report = outcome.json()
    assert report["gold"] == {**report["gold"], "source": None, "simulated_annotators": False}
    text = (tmp_path / "run" / "rankings.jsonl").read_text(encoding="utf-8")
    rankings = [json.loads(line) for line in text.splitlines()]
    assert len(rankings) == 10
    assert not any(ranking["simulated"] for ranking in rankings)
    assert [len(ranking["tiers"]) for ranking in rankings] == [4] + [3] * 9


def test_another_algorithm_on_rankings_by_hand(tmp_path: Path) -> None:
    settings = ["--set", "sampling.max_new_tokens=8", "--set", "evaluation.prompts=8", "--set", "offline.epochs=1"]
    arguments = ("--algorithm", "dpo", "--rank-yourself", *settings, "--out", tmp_path / "run", "--json")
    report = humanward("quickstart", *arguments, typed="b a c d\n" * 10).json()
    assert report["algorithm"] == "dpo"
    assert report["gold"]["simulated_annotators"] is False
    assert report["reward"]["source"] == "preferences (no reward model)"
    assert report["reproduce"].startswith("humanward quickstart --seed 0 --algorithm dpo --rank-yourself ")
    steps = json.loads((tmp_path / "run" / "stages.json").read_text(encoding="utf-8"))["align"]["steps"]
    assert steps == 3, "nine prompts to learn from, four a step"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--reward", "magic"), "--reward magic"),
        (("--reward", "classifier", "--rank-yourself"), "needs no rankings"),
        (("--set", "ppo.stepz=1"), "did you mean steps?"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    line = humanward("quickstart", "--out", tmp_path / "run", *arguments).refusal()
    assert words in line
    assert not (tmp_path / "run").exists()
