"""humanward run --rounds N: every round goes on from the one before, and so does a killed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import small
from cli.running import humanward, leftovers
from safetensors.torch import load_file

from humanward.records import Completion, Preference, Prompt, read_jsonl
from humanward.reward.model import RewardEnsemble
from humanward.stages import rounds


def config(tiny: Path, folder: Path, **changes: dict[str, Any]) -> Path:
    values = small.settings(tiny, folder, trained=True)
    values["feedback"] |= {"prompts": 8, "noise": 0.0}
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys}
    return small.write(folder / "config.toml", values)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_two_rounds(tiny: Path, tmp_path: Path) -> None:
    """Each round ranks new prompts, trains on all pairs so far, and goes on from the policy and not from its start."""
    file, out = config(tiny, tmp_path, reward={"ensemble": 2}), tmp_path / "run"
    content = humanward("run", file, "--rounds", "2", "--out", out, "--json").json()
    first, second = (out / "rounds" / str(number) for number in (1, 2))
    assert leftovers(out) == []
    pairs = [read_jsonl(run / "preferences.jsonl", Preference) for run in (first, second)]
    assert pairs[1][: len(pairs[0])] == pairs[0]
    ranked = [{one.prompt_id for one in read_jsonl(run / "completions.jsonl", Completion)} for run in (first, second)]
    assert len(ranked[0]) == len(ranked[1]) == 8
    assert not ranked[0] & ranked[1]
    assert (first / "prompts.jsonl").read_bytes() == (second / "prompts.jsonl").read_bytes()
    # The most uncertain of a pool three times as large, the earlier prompts at its end.
    unsure = json.loads((second / "uncertainty.json").read_text(encoding="utf-8"))
    assert len(unsure) == 24
    assert min(unsure[one] for one in ranked[1]) >= max(value for one, value in unsure.items() if one not in ranked[1])
    # The KL of the second round is measured from the original: it does not start at 0, and no alarm says it should.
    steps = [json.loads(line) for line in (second / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kls = [row["ppo/sequence_kl"] for row in steps if "ppo/sequence_kl" in row]
    assert kls[0] != 0.0
    assert not any("kl_at_start" in row.get("ppo/alarms", ()) for row in steps)
    assert not all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))
    # What each round bought, on the same held-out pairs and prompts.
    assert [one["round"] for one in content["rounds"]] == [1, 2]
    told = content["rounds"][1]
    held_out = [p for p in pairs[1] if p.split == "validation" and not p.tie]
    assert told["reward"]["before"]["n"] == told["reward"]["after"]["n"] == len(held_out)
    assert told["rankings"]["pairs"] == len(pairs[1]) - len(pairs[0])
    bought = told["judged"]["toxicity"]
    assert bought["before"]["value"] == pytest.approx(content["rounds"][0]["judged"]["toxicity"]["after"]["value"])
    assert bought["bought"]["mean"] == pytest.approx(bought["after"]["value"] - bought["before"]["value"])
    assert bought["start"] == content["rounds"][0]["judged"]["toxicity"]["start"]
    page = (out / "rounds.html").read_text(encoding="utf-8")
    assert "rounds/2/report.html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    # One round more goes on; nothing that has finished runs again.
    third = humanward("run", file, "--rounds", "3", "--out", out)
    assert third.code == 0, third.err
    assert third.err.count("finished before, not run again") == 12
    assert (out / "rounds" / "3" / "adapter").exists()


KILLED = """
import os, signal, sys
from humanward.stages import {module}
known = {module}.{name}
def once(*args, **kwargs):
    if {when}:
        os.kill(os.getpid(), signal.SIGKILL)
    return known(*args, **kwargs)
{module}.{name} = once
from humanward.cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "name", "when", "kept"),
    [
        ("rounds", "merge_earlier", "True", ["prompts", "sample", "feedback"]),
        (
            "rounds",
            "_learnt",
            "args[1] is not None",
            ["prompts", "sample", "feedback", "reward", "align", "evaluate", "report"],
        ),
        ("rounds", "_same_prompts", "True", []),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    module: str, name: str, when: str, kept: list[str], tiny: Path, tmp_path: Path
) -> None:
    """kill -9 between rounds, within one, and between a reward model's training and its measurement."""
    file, out = config(tiny, tmp_path), tmp_path / "run"
    code = KILLED.format(module=module, name=name, when=when)
    killed = subprocess.run(
        [sys.executable, "-c", code, "run", str(file), "--rounds", "2", "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    stages = out / "rounds" / "2" / "stages.json"
    assert list(json.loads(stages.read_text(encoding="utf-8")) if stages.exists() else {}) == kept
    resumed = humanward("run", file, "--rounds", "2", "--out", out, "--json").json()
    whole = humanward("run", file, "--rounds", "2", "--out", tmp_path / "whole", "--json").json()
    for content in (resumed, whole):
        content["reproduce"] = None
        for one in content["rounds"]:
            one["seconds"] = None
    for ours, theirs in zip(resumed["rounds"], whole["rounds"], strict=True):
        assert {k: v for k, v in ours.items() if v != theirs[k]} == {}
    assert resumed == whole
    for one in (out, tmp_path / "whole"):
        assert leftovers(one) == []
    ours, theirs = weights(out / "rounds" / "2"), weights(tmp_path / "whole" / "rounds" / "2")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_that_collects_waits_for_people_in_every_round(tiny: Path, tmp_path: Path) -> None:
    file = config(tiny, tmp_path, feedback={"source": "collect"})
    line = humanward("run", file, "--rounds", "2", "--out", tmp_path / "run").refusal(after_work=True)
    place = tmp_path / "run" / "rounds" / "1"
    assert f"humanward collect --run {place}" in line
    assert list(json.loads((place / "stages.json").read_text(encoding="utf-8"))) == ["prompts", "sample"]


def test_the_reference_may_follow(tiny: Path, tmp_path: Path) -> None:
    file, out = config(tiny, tmp_path, rounds={"reference": "previous"}), tmp_path / "run"
    assert humanward("run", file, "--rounds", "2", "--out", out).code == 0
    align = json.loads((out / "rounds" / "2" / "stages.json").read_text(encoding="utf-8"))["align"]
    assert align["kl_at_start"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"feedback": {"source": "none"}, "reward": {"source": "classifier"}},
            "reward.source = 'classifier' trains nothing",
        ),
        ({"feedback": {"source": "rankings", "path": "x.jsonl"}}, "feedback.source = 'rankings' ranks nothing anew"),
        (
            {"feedback": {"source": "collect", "db": "sqlite:///x.db"}},
            "keeps them in its own store; leave feedback.db out",
        ),
    ],
)
def test_what_cannot_be_repeated_is_refused(changes: dict[str, Any], words: str, tiny: Path, tmp_path: Path) -> None:
    file = config(tiny, tmp_path, **changes)
    assert words in humanward("run", file, "--rounds", "2", "--out", tmp_path / "run").refusal()
    assert not (tmp_path / "run").exists()


def test_other_algorithms_have_no_rounds(tiny: Path, tmp_path: Path) -> None:
    file = small.write(tmp_path / "dpo.toml", {"algorithm": "dpo", "model": {"policy": str(tiny / "chat")}})
    line = humanward("run", file, "--rounds", "2", "--out", tmp_path / "run").refusal()
    assert "--rounds: algorithm = 'dpo' has no reward to train again" in line


class Fixed:
    """A reward model with given scores."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = torch.tensor(scores)

    def score(self, prompts: object, texts: object) -> torch.Tensor:
        return self.scores


def test_uncertainty_by_hand() -> None:
    """Two prompts with two answers. One model: log 3 apart, p = 3/4, 4 p (1 - p) = 3/4; equal scores: 1.

    Two models with p = 3/4 and 1/4: standard deviation 1/4. The same text twice teaches nothing.
    """
    asked = [Prompt("a", "x")] * 2 + [Prompt("b", "y")] * 2
    log3 = float(torch.tensor(3.0).log())
    one = Fixed([log3, 0.0, 1.0, 1.0])
    torch.testing.assert_close(
        rounds.uncertainties(one, asked, ["p", "q", "r", "s"], 2),
        torch.tensor([0.75, 1.0]).double(),  # type: ignore[arg-type]
    )
    ensemble = RewardEnsemble([one, Fixed([0.0, log3, 1.0, 1.0])])  # type: ignore[list-item]
    torch.testing.assert_close(
        rounds.uncertainties(ensemble, asked, ["p", "q", "r", "s"], 2), torch.tensor([0.25, 0.0]).double()
    )
    assert rounds.uncertainties(one, asked, ["p", "p", "r", "s"], 2).tolist() == [0.0, 1.0]  # type: ignore[arg-type]
    pool, unsure = [Prompt("a", "x"), Prompt("b", "y"), Prompt("c", "z")], {"a": 0.1, "b": 0.3, "c": 0.3}
    assert rounds.choose(pool, unsure, 1, "uncertainty") == {"b"}
    assert rounds.choose(pool, unsure, 2, "random") == {"a", "b"}
