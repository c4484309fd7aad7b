"""A run on hub ids keeps to the commits that it began with; the cache of the hub client is made here."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
from cli import small, tiny_models
from cli.running import humanward

OLD, NEW = "a" * 40, "b" * 40


def cached(cache: Path, name: str, commit: str) -> Path:
    """The place of a commit in the cache."""
    return cache / f"models--{name.replace('/', '--')}" / "snapshots" / commit


def point(cache: Path, name: str, commit: str) -> None:
    """Let main name ``commit``."""
    refs = cache / f"models--{name.replace('/', '--')}" / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(commit)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """owner/policy and owner/reward with two commits each; main names the old ones."""
    folder = tmp_path / "hub"
    for seed, commit in enumerate((OLD, NEW)):
        tiny_models.causal(cached(folder, "owner/policy", commit), seed=seed)
        tiny_models.roberta(cached(folder, "owner/reward", commit), seed=seed)
    for name in ("owner/policy", "owner/reward"):
        point(folder, name, OLD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def test_a_run_goes_on_with_its_commits(cache: Path, tiny: Path, tmp_path: Path) -> None:
    """Half of the run, then both branches move, then the other half: it is bitwise the run that was not disturbed."""
    values = small.settings(tiny, tmp_path)
    values["model"]["policy"] = "owner/policy"
    values["reward"]["classifier"] = "owner/reward"
    values["best_of_n"] = {"samples": 2, "prompts": 2}
    config = small.write(tmp_path / "config.toml", values)
    whole = humanward("run", config, "--out", tmp_path / "whole", "--json").json()
    assert humanward("align", "--run", tmp_path / "parts", "--config", config).code == 0
    for name in ("owner/policy", "owner/reward"):
        point(cache, name, NEW)
    parts = humanward("run", config, "--out", tmp_path / "parts", "--json").json()
    recorded = json.loads((tmp_path / "parts" / "models.json").read_text(encoding="utf-8"))
    assert recorded["policy"] == {"name": "owner/policy", "commit": OLD}
    assert recorded["reward"] == {"name": "owner/reward", "commit": OLD}
    assert parts["toxicity"] == whole["toxicity"]
    assert parts["reward"] == whole["reward"]
    assert parts["versions"]["policy"] == f"owner/policy (commit {OLD})"
    assert parts["reproduce"].endswith(f" --set model.revision={OLD} --out NEW_FOLDER")
    other = humanward("run", config, "--out", tmp_path / "later", "--json").json()
    assert other["versions"]["policy"] == f"owner/policy (commit {NEW})"
    assert other["toxicity"] != whole["toxicity"]
    assert humanward("export", tmp_path / "parts", "--out", tmp_path / "adapter", "--adapter").code == 0
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("owner/policy", OLD)
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nbase_model: owner/policy\nlibrary_name: peft\n")
    assert OLD in card
