"""Stage 3: a reward model trained on the preferences, and how far it can be trusted."""

from __future__ import annotations

import json
import time

import numpy as np

from humanward.evaluation.reward_accuracy import evaluate_reward
from humanward.preferences import group_by_prompt
from humanward.records import Preference, read_jsonl
from humanward.reward.model import RewardModel
from humanward.reward.training import TrainingStep, train_reward_model
from humanward.run_dir import new_folder, write_text
from humanward.stages.context import REWARD_SEED, Run


def run_reward(run: Run) -> None:
    """Train on the ``train`` pairs, measure on the ``validation`` pairs; write reward_model/ and reward.json."""
    started = time.perf_counter()
    preferences = read_jsonl(run.folder.file("preferences.jsonl"), Preference)
    train = [p for p in preferences if p.split != "validation"]
    held_out = [p for p in preferences if p.split == "validation"]
    groups = [g for g in group_by_prompt(train) if any(not pair.tie for pair in g.pairs)]
    run.folder.forget_metrics("reward")
    batches = -(-len(groups) // run.config.reward.batch_size) * run.config.reward.epochs
    with run.reporter.track("reward model", batches) as tracker:

        def on_step(step: TrainingStep) -> None:
            run.folder.log({"reward/step": step.step, "reward/loss": step.loss, "reward/accuracy": step.accuracy})
            tracker.at(step.step, f"loss {step.loss:.3f}  accuracy {step.accuracy:.2f}")

        model = train_reward_model(
            run.base(), groups, run.config.reward, run.config.lora, seed=run.seed(REWARD_SEED), on_step=on_step
        )
    measured = measure(model, train, held_out, seed=run.config.seed)
    with new_folder(run.folder.file("reward_model")) as folder:
        model.save(
            folder, {"accuracy": measured["accuracy"], "trained_on": {"pairs": len(train), "prompts": len(groups)}}
        )
    write_text(run.folder.file("reward.json"), json.dumps(measured, indent=1) + "\n")
    run._reward_model = model
    run.folder.finish("reward", time.perf_counter() - started, **measured)
    run.reporter.say(describe(measured))


def measure(model: RewardModel, train: list[Preference], held_out: list[Preference], *, seed: int) -> dict[str, object]:
    """Held-out accuracy of a reward model with baselines; see humanward.evaluation.reward_accuracy."""

    def score(prompts, texts) -> np.ndarray:  # type: ignore[no-untyped-def]
        return model.score(prompts, texts).double().numpy()

    return evaluate_reward(score, train, held_out, seed=seed)


def describe(measured: dict) -> str:  # type: ignore[type-arg]
    """One line about accuracy and baselines."""
    a, length = measured["accuracy"], measured["baselines"]["length"]
    low, high = a["ci95"]
    return (
        f"reward model: {a['value']:.3f} of {a['n']} held-out pairs right (95 % interval {low:.3f} to {high:.3f}); "
        f"length alone {length['value']:.3f}, a constant .500"
    )
