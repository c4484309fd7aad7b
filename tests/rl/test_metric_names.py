"""The glossary in docs/metrics.md names exactly what runs write to metrics.jsonl."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from models import tiny
from reward.test_reward_model import preferences
from rl.checks import make_trainer
from safetensors.torch import load_file

from humanward.config import parse_config
from humanward.progress import Reporter
from humanward.records import write_jsonl
from humanward.run_dir import open_run
from humanward.stages.align import run_align
from humanward.stages.context import Run
from humanward.stages.reward import run_reward

STAGE = {"ppo/toxicity", "ppo/alarms", "ppo/truncated"}  # what the stage adds to the trainer's metrics
GLOSSARY = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def glossary(prefix: str) -> set[str]:
    """Names in the first column of the glossary's tables."""
    rows = re.findall(r"^\| `([a-z]+/[a-z_0-9]+)` \|(.+)\|(.+)\|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows), "a name stands twice"
    assert all(formula.strip() and unit.strip() for _, formula, unit in rows)
    return {name for name, _, _ in rows if name.startswith(prefix)}


def make_run(tmp_path: Path, **ppo: float) -> Run:
    tiny.save(tmp_path / "policy")
    tiny.save_classifier(tmp_path / "classifier")
    lines = [json.dumps({"id": p.id, "text": p.text}) for p in tiny.prompts(24, words=4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    config = parse_config(
        {
            "model": {"policy": str(tmp_path / "policy"), "dtype": "float32", "device": "cpu"},
            "lora": {"rank": 4},
            "prompts": {"path": str(tmp_path / "prompts.jsonl")},
            "sampling": {"max_new_tokens": 6},
            "feedback": {"source": "none"},
            "reward": {
                "source": "classifier",
                "classifier": str(tmp_path / "classifier"),
                "epochs": 1,
                "rank": 4,
                "max_tokens_trained": 32,
            },
            "ppo": {
                "steps": 3,
                "rollout_size": 8,
                "minibatch_size": 4,
                "micro_batch_size": 4,
                "critic_warmup_steps": 1,
                **ppo,
            },
            "evaluation": {"judge": str(tmp_path / "classifier")},
        }
    )
    return Run(open_run(tmp_path / "run", config), Reporter(quiet=True))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path)


def names(run: Run, prefix: str) -> set[str]:
    rows = [row for row in run.folder.metrics() if any(key.startswith(prefix) for key in row)]
    assert rows
    assert all(row.keys() == rows[0].keys() for row in rows)
    return set(rows[0])


def test_the_align_stage_logs_what_the_glossary_names(run: Run) -> None:
    run_align(run)
    assert names(run, "ppo/") == glossary("ppo/") - {"ppo/kl_loss"}
    assert [row["ppo/step"] for row in run.folder.metrics()] == [1, 2, 3]
    facts = run.folder.facts("align", "")
    assert facts["kl_at_start"] == 0
    assert (run.folder.file("adapter") / "adapter_model.safetensors").exists()


def test_looks_at_held_out_prompts_log_what_the_glossary_names(run: Run) -> None:
    held_out = [{"kind": "length", "per": "character"}]
    values = {**run.config.model_dump(exclude_unset=True), "monitors": {"every": 2, "prompts": 8, "sources": held_out}}
    values["prompts"] = {**values["prompts"], "validation_fraction": 0.5}
    watched = Run(open_run(run.folder.path.with_name("watched"), parse_config(values)), Reporter(quiet=True))
    run_align(watched)
    assert names(watched, "monitor/") == glossary("monitor/")
    assert [row["monitor/step"] for row in watched.folder.metrics() if "monitor/step" in row] == [0, 2, 3]


def test_the_reward_stage_logs_what_the_glossary_names(run: Run) -> None:
    pairs = [*preferences(24, seed=1), *preferences(12, seed=2)]
    marked = [
        replace(p, prompt=replace(p.prompt, text=f"{i} {p.prompt.text}"), split="train" if i < 24 else "validation")
        for i, p in enumerate(pairs)
    ]
    write_jsonl(run.folder.file("preferences.jsonl"), marked)
    run_reward(run)
    assert names(run, "reward/") == glossary("reward/") - {"reward/tie_parameter"}


def test_the_trainer_alone_logs_all_but_what_the_stage_adds() -> None:
    trainer, _ = make_trainer()
    assert set(trainer.step()) == glossary("ppo/") - STAGE - {"ppo/kl_loss"}
    trainer, _ = make_trainer(kl_place="loss")
    assert set(trainer.step()) == glossary("ppo/") - STAGE


def test_without_a_critic_its_metrics_are_absent() -> None:
    trainer, _ = make_trainer(algorithm="rloo", samples_per_prompt=4)
    critic = {"ppo/value_loss", "ppo/value_clip_fraction", "ppo/explained_variance"}
    assert set(trainer.step()) == glossary("ppo/") - STAGE - {"ppo/kl_loss"} - critic


def test_over_the_budget_the_last_policy_within_it_is_kept(tmp_path: Path) -> None:
    """The policy first moves in step 2, which step 3 measures: what is kept is the policy of step 2's rollout."""
    run = make_run(tmp_path, kl_budget=1e-3, learning_rate=0.1, critic_learning_rate=0.1)
    run_align(run)
    measured = [row["ppo/sequence_kl"] for row in run.folder.metrics()]
    assert measured[:2] == [0, 0]
    assert measured[2] > 1e-3
    facts = run.folder.facts("align", "")
    assert facts["stopped_at_budget"] is True
    assert any("above ppo.kl_budget" in line for line in facts["warnings"])
    saved = load_file(run.folder.file("adapter") / "adapter_model.safetensors")
    assert not any(bool(weight.any()) for name, weight in saved.items() if "lora_B" in name)
