"""The glossary in docs/metrics.md names exactly what off-policy runs write to metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from models import tiny
from offline.offline_checks import ALGORITHMS, make_trainer, plain_logprob, preferences
from rl.test_metric_names import glossary, names

from humanward.config import parse_config
from humanward.progress import Reporter
from humanward.records import Preference, write_jsonl
from humanward.run_dir import open_run
from humanward.stages.align import run_align
from humanward.stages.context import Run

NEVER = {
    "sft": {"accuracy", "chosen_reward", "rejected_reward", "margin", "reference_point"},
    "dpo": {"reference_point"},
    "ipo": {"reference_point"},
    "orpo": {"reference_point"},
    "kto": set(),
}
"""What an algorithm does not have."""


def make_run(tmp_path: Path, algorithm: str, made: list[Preference]) -> Run:
    """A run whose feedback stage has finished with ``made``."""
    tiny.save(tmp_path / "policy")
    tiny.save_classifier(tmp_path / "classifier")
    lines = [json.dumps({"id": p.id, "text": p.text}) for p in tiny.prompts(24, words=4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    config = parse_config(
        {
            "algorithm": algorithm,
            "model": {"policy": str(tmp_path / "policy"), "dtype": "float32", "device": "cpu"},
            "lora": {"rank": 4},
            "prompts": {"path": str(tmp_path / "prompts.jsonl")},
            "sampling": {"max_new_tokens": 6},
            "evaluation": {"judge": str(tmp_path / "classifier")},
            "offline": {"batch_size": 4, "max_tokens": 60},
        }
    )
    run = Run(open_run(tmp_path / "run", config), Reporter(quiet=True))
    write_jsonl(run.folder.file("preferences.jsonl"), made)
    run.folder.finish("feedback", 0.0)
    return run


def split(made: list[Preference]) -> list[Preference]:
    """The last third of the prompts is held out."""
    ids = list(dict.fromkeys(p.prompt_id for p in made))
    held_out = set(ids[-len(ids) // 3 :])
    return [Preference(**{**vars(p), "split": "validation" if p.prompt_id in held_out else "train"}) for p in made]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_align_stage_logs_what_the_glossary_names(algorithm: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, algorithm, split(preferences(12)))
    run_align(run)
    assert names(run, "offline/") == glossary("offline/")
    rows = run.folder.metrics()
    assert [row["offline/step"] for row in rows] == [0, 1, 2]
    assert all(rows[0][name] is None for name in rows[0] if "validation" not in name and name != "offline/step")
    missing = {f"offline/{name}" for name in NEVER[algorithm]}
    held_out = {f"offline/validation_{name}" for name in NEVER[algorithm] & {"accuracy", "margin"}}
    assert {name for name, value in rows[-1].items() if value is None} == missing | held_out
    facts = run.folder.facts("align", "")
    assert facts["kl_at_start"] == 0
    assert (facts["algorithm"], facts["steps"], facts["prompts"], facts["held_out"]) == (algorithm, 2, 8, 4)
    assert (run.folder.file("adapter") / "adapter_model.safetensors").exists()


def test_without_held_out_prompts_their_metrics_are_null(tmp_path: Path) -> None:
    run = make_run(tmp_path, "dpo", preferences(6))
    run_align(run)
    assert names(run, "offline/") == glossary("offline/")
    assert all(value is None for row in run.folder.metrics() for name, value in row.items() if "validation" in name)


def test_metrics_by_hand() -> None:
    """A policy that has moved, pairs of one weight: rewards, margin, accuracy and likelihood from plain forwards."""
    made = [p for p in preferences(3) if p.chosen.startswith("w1") and p.rejected.startswith("w3")]
    trainer, _ = make_trainer("dpo", made, moved=0.3, beta=0.2)
    metrics = trainer.step()
    trainer, _ = make_trainer("dpo", made, moved=0.3, beta=0.2)

    def logprob(role: str, p: Preference, text: str) -> tuple[float, int]:
        return plain_logprob(trainer.base, role, p.prompt, text)

    rewards = [
        [0.2 * (logprob("policy", p, text)[0] - logprob("reference", p, text)[0]) for text in (p.chosen, p.rejected)]
        for p in made
    ]
    likely = [total / count for total, count in (logprob("policy", p, p.chosen) for p in made)]
    chosen, rejected = (sum(row[side] for row in rewards) / 3 for side in (0, 1))
    assert math.isclose(metrics["offline/chosen_reward"], chosen, rel_tol=1e-3)
    assert math.isclose(metrics["offline/rejected_reward"], rejected, rel_tol=1e-3)
    assert math.isclose(metrics["offline/margin"], chosen - rejected, rel_tol=1e-3)
    assert math.isclose(metrics["offline/accuracy"], sum(a > b for a, b in rewards) / 3, rel_tol=1e-6)
    assert math.isclose(metrics["offline/chosen_logprob"], sum(likely) / 3, rel_tol=1e-4)
