"""Whole runs with other kinds of roles: full fine-tuning, a critic of its own, DoRA, a 4-bit base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli import small
from cli.running import humanward
from transformers import AutoModelForCausalLM


def run(tiny: Path, folder: Path, *, trained: bool = False, **sections: dict[str, Any]) -> dict[str, Any]:
    """report.json of a run whose settings differ by ``sections``."""
    values = small.settings(tiny, folder, trained=trained)
    for section, keys in sections.items():
        values[section] = {**values.get(section, {}), **keys}
    config = small.write(folder / "config.toml", values)
    return humanward("run", config, "--out", folder / "run", "--json").json()


def align_facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "stages.json").read_text(encoding="utf-8"))["align"]


def test_full_fine_tuning_leaves_a_whole_model(tiny: Path, tmp_path: Path) -> None:
    report = run(tiny, tmp_path, model={"train": "full"}, ppo={"learning_rate": 1e-4})
    assert abs(report["kl"]["at_start"]) <= 1e-5
    assert not (tmp_path / "run" / "adapter").exists()
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", local_files_only=True)
    answer = humanward("chat", tmp_path / "run", "--prompt", "what is a?", "--json").json()
    assert set(answer) >= {"before", "after"}


def test_full_fine_tuning_with_dpo_and_a_trained_reward(tiny: Path, tmp_path: Path) -> None:
    values = small.settings(tiny, tmp_path, trained=True)
    del values["ppo"]
    values |= {"algorithm": "dpo", "offline": {"learning_rate": 1e-4}}
    values["model"]["train"] = "full"
    report = humanward("run", small.write(tmp_path / "c.toml", values), "--out", tmp_path / "run", "--json").json()
    assert abs(report["kl"]["at_start"]) <= 1e-5
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("start", ["zero", "reward"])
def test_a_critic_with_an_adapter_of_its_own(tiny: Path, tmp_path: Path, start: str) -> None:
    report = run(tiny, tmp_path, trained=True, ppo={"critic": "adapter", "critic_start": start})
    assert abs(report["kl"]["at_start"]) <= 1e-5
    assert align_facts(tmp_path)["precision"]["adapters"] == "float32"


def test_a_critic_cannot_start_from_a_classifier(tiny: Path, tmp_path: Path) -> None:
    values = small.settings(tiny, tmp_path)
    values["ppo"] |= {"critic": "adapter", "critic_start": "reward"}
    outcome = humanward("run", small.write(tmp_path / "c.toml", values), "--out", tmp_path / "run")
    assert "has no adapter on this base to start from; set ppo.critic_start = 'zero'" in outcome.refusal()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
def test_qlora_trains_reward_model_and_policy(tiny: Path, tmp_path: Path, algorithm: str) -> None:
    pytest.importorskip("bitsandbytes")
    values = small.settings(tiny, tmp_path, trained=True)
    values["algorithm"] = algorithm
    if algorithm == "dpo":
        del values["ppo"]
    values["model"] |= {"quantization": "nf4", "gradient_checkpointing": True}
    report = humanward("run", small.write(tmp_path / "c.toml", values), "--out", tmp_path / "run", "--json").json()
    assert abs(report["kl"]["at_start"]) <= 1e-5
    precision = align_facts(tmp_path)["precision"]
    assert precision["base"] == "nf4, double quantisation"
    assert precision["compute"] == "float32"


def test_dora_and_rslora(tiny: Path, tmp_path: Path) -> None:
    report = run(tiny, tmp_path, lora={"variant": "dora", "rslora": True})
    assert abs(report["kl"]["at_start"]) <= 1e-5
    settings = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (settings["use_dora"], settings["use_rslora"]) == (True, True)
