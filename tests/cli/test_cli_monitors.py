"""Looks at held-out prompts in a run: they change nothing, raise alarms, and stop where they are told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli import small
from cli.running import humanward
from safetensors.torch import load_file

ALGORITHMS = ("ppo", "rloo", "grpo", "reinforce++")
LENGTH = [{"kind": "length", "per": "character"}]


def config(tiny: Path, folder: Path, **changes: Any) -> Path:
    values = small.settings(tiny, folder)
    values["ppo"] |= {"steps": 3, "learning_rate": 0.05, "kl_budget": 1e6}
    values["best_of_n"] = {"prompts": 0}
    values["prompts"] |= {"validation_fraction": 0.4}
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
    return small.write(folder / f"config{len(list(folder.glob('*.toml')))}.toml", values)


def rows(out: Path, prefix: str) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if any(key.startswith(prefix) for key in row)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_looks_change_no_weight(tiny: Path, tmp_path: Path) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    assert humanward("run", config(tiny, tmp_path), "--out", plain).code == 0
    monitors = {"every": 1, "prompts": 8, "sources": LENGTH}
    done = humanward("run", config(tiny, tmp_path, monitors=monitors), "--out", watched)
    assert done.code == 0, done.err
    assert same(weights(plain), weights(watched))
    assert [row["monitor/step"] for row in rows(watched, "monitor/")] == [0, 1, 2, 3]
    first = rows(watched, "monitor/")[0]
    assert first["monitor/reward"] == first["monitor/held_out"] == first["monitor/sequence_kl"] == 0.0
    assert first["monitor/alarms"] == []
    assert rows(plain, "monitor/") == []


def test_a_stopped_run_keeps_the_best_look(tiny: Path, tmp_path: Path) -> None:
    """The reward is the length, the held-out reward its opposite: the best look is the first, the untouched policy."""
    reward = {"source": "combined", "sources": [{"kind": "length", "per": "character"}]}
    monitors = {"every": 1, "prompts": 12, "stop": True, "fall": 0.0, "sources": [{**LENGTH[0], "weight": -1.0}]}
    ppo = {"steps": 12, "learning_rate": 0.1, "rollout_size": 16, "minibatch_size": 4, "kl_budget": 1e6}
    out = tmp_path / "run"
    values = small.settings(tiny, tmp_path)
    values["reward"], values["monitors"], values["best_of_n"] = reward, monitors, {"prompts": 0}
    values["ppo"] |= ppo
    values["prompts"] |= {"validation_fraction": 0.4}
    done = humanward("run", small.write(tmp_path / "run.toml", values), "--out", out, "--json")
    report = done.json()
    align = json.loads((out / "stages.json").read_text(encoding="utf-8"))["align"]
    looks = rows(out, "monitor/")
    assert align["steps"] < 12
    assert looks[-1]["monitor/alarms"][0] == "held_out_falls"
    best = max(looks, key=lambda look: look["monitor/held_out"])
    assert align["kept_step"] == best["monitor/step"]
    assert any("training stopped, as monitors.stop asks" in line for line in report["warnings"])
    assert "held_out_falls" in [alarm["name"] for alarm in align["alarms"]]
    if align["kept_step"] == 0:
        assert not any(bool(weight.any()) for name, weight in weights(out).items() if "lora_B" in name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_mitigation_works_with_every_algorithm(algorithm: str, tiny: Path, tmp_path: Path) -> None:
    """Bounded, constrained, clipped, with a length penalty: all at once."""
    critic = {} if algorithm == "ppo" else {"samples_per_prompt": 2}
    values = small.settings(tiny, tmp_path)
    values["algorithm"] = algorithm
    values["best_of_n"] = {"prompts": 0}
    values["ppo"] = {key: value for key, value in values["ppo"].items() if algorithm == "ppo" or "critic" not in key}
    values["ppo"] |= {"bounded": "prompt", "score_clip": 0.8, "length_penalty": 0.01, **critic}
    values["constraint"] = {"sources": [{"kind": "length", "per": "character", "target": 5}], "rate": 0.5}
    out = tmp_path / "run"
    done = humanward("run", small.write(tmp_path / "run.toml", values), "--out", out)
    assert done.code == 0, done.err
    found = rows(out, "ppo/")
    assert found[0]["ppo/constraint/lambda"] == 1.0
    first = found[0]
    assert first["ppo/constraint/violation"] == pytest.approx(-first["ppo/constraint/mean"])
    # log lambda moved by rate * lambda * violation, at most 2.
    moved = max(-2.0, min(2.0, 0.5 * first["ppo/constraint/violation"]))
    expected = min(10.0, float(torch.tensor(moved).exp()))
    assert found[1]["ppo/constraint/lambda"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"monitors": {"stop": True, "every": 2}}, "monitors.stop = true needs a held-out reward to stop by"),
        (
            {"monitors": {"sources": LENGTH}},
            "monitors.sources are never asked with every = 0; set monitors.every, 2 say",
        ),
        (
            {"monitors": {"every": 2, "sources": [{"kind": "trained"}]}},
            "monitors.sources: kind = 'trained' is the reward that the policy learns from",
        ),
        ({"constraint": {"sources": [*LENGTH, *LENGTH]}}, "constraint.sources: two are named 'length'"),
        ({"constraint": {"start": 20.0}}, "constraint.start=20 is more than largest=10; lower it"),
        ({"constraint": {"sources": [{"kind": "classifier", "classifier": "no/such"}]}}, "no/such"),
        ({"ppo": {"bounded": "always"}}, "ppo.bounded = 'always'"),
    ],
)
def test_bad_settings_are_one_line(changes: dict[str, Any], words: str, tiny: Path, tmp_path: Path) -> None:
    line = humanward("run", config(tiny, tmp_path, **changes), "--out", tmp_path / "run").refusal()
    assert words in line
    assert not (tmp_path / "run").exists()


def test_monitors_without_validation_prompts(tiny: Path, tmp_path: Path) -> None:
    file = config(tiny, tmp_path, monitors={"every": 2}, prompts={"validation_fraction": 0.0})
    line = humanward("run", file, "--out", tmp_path / "run").refusal(after_work=True)
    assert "monitors.every = 2: there are no validation prompts to look at; set prompts.validation" in line


def test_they_belong_to_the_on_policy_family(tiny: Path, tmp_path: Path) -> None:
    values = {"algorithm": "dpo", "model": {"policy": str(tiny / "chat")}, "monitors": {"every": 2}}
    line = humanward("run", small.write(tmp_path / "x.toml", values), "--out", tmp_path / "run").refusal()
    assert "monitors.every = 2: dpo does not use it" in line
