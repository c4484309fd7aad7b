"""Stage 3: a reward model trained on the preferences, and how far it can be trusted."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from humanward.errors import InputError
from humanward.evaluation.reward_accuracy import Score, evaluate_reward
from humanward.preferences import PromptPairs, group_by_prompt
from humanward.records import Preference, read_jsonl
from humanward.reward.model import RewardEnsemble, RewardModel, role_of
from humanward.reward.training import TrainingStep, train_reward_model
from humanward.run_dir import new_folder, write_text
from humanward.stages.context import REWARD_SEED, Run
from humanward.stages.scoring import ANCHORS

ENSEMBLE_SEEDS = 100
"""Purposes of the seeds of an ensemble's further members: this and their number."""


def run_reward(run: Run) -> None:
    """Train on the ``train`` pairs, measure on the ``validation`` pairs; write reward_model/ and reward.json.

    With ``reward.ensemble`` more than one, alike but for their seeds, and measured together and each by itself.
    """
    started = time.perf_counter()
    if run.config.feedback.source == "ratings":
        raise InputError(
            f"{run.folder.path}: holds ratings of single answers, and a reward model learns from pairs; import "
            "rankings or preferences into a run of their own, or align with kto or sft"
        )
    preferences = read_jsonl(run.folder.file("preferences.jsonl"), Preference)
    train = [p for p in preferences if p.split != "validation"]
    held_out = [p for p in preferences if p.split == "validation"]
    groups = [g for g in group_by_prompt(train) if any(not pair.tie for pair in g.pairs)]
    run.folder.begin("reward", "reward")
    run.folder.file(ANCHORS).unlink(missing_ok=True)
    members = [_train(run, groups, number) for number in range(1, run.config.reward.ensemble + 1)]
    reward = run.config.reward
    model: RewardModel | RewardEnsemble = members[0]
    if len(members) > 1:
        model = RewardEnsemble(members, reward.ensemble_score, reward.ensemble_lambda)
    measured = measure(model, train, held_out, seed=run.config.seed)
    with new_folder(run.folder.file("reward_model")) as folder:
        model.save(
            folder, {"accuracy": measured["accuracy"], "trained_on": {"pairs": len(train), "prompts": len(groups)}}
        )
    write_text(run.folder.file("reward.json"), json.dumps(measured, indent=1) + "\n")
    run._reward_models = model
    run.folder.finish("reward", time.perf_counter() - started, **measured)
    run.reporter.say(describe(measured))


def _train(run: Run, groups: Sequence[PromptPairs], number: int) -> RewardModel:
    """Member ``number`` of the ensemble, from 1; its metrics are logged."""
    config = run.config.reward
    steps = -(-len(groups) // config.batch_size) * config.epochs
    title = "reward model" if config.ensemble == 1 else f"reward model {number} of {config.ensemble}"
    with run.reporter.track(title, steps) as tracker:

        def on_step(step: TrainingStep) -> None:
            row = {"reward/step": step.step, "reward/loss": step.loss, "reward/accuracy": step.accuracy}
            run.folder.log({**row, "reward/member": number})
            tracker.at(step.step, f"loss {step.loss:.3f}  accuracy {step.accuracy:.2f}")

        return train_reward_model(
            run.base(),
            groups,
            config,
            run.config.lora,
            seed=run.seed(REWARD_SEED) if number == 1 else run.seed(ENSEMBLE_SEEDS + number),
            role=role_of(number),
            on_step=on_step,
            on_notice=run.reporter.warn,
        )


def measure(
    model: RewardModel | RewardEnsemble, train: list[Preference], held_out: list[Preference], *, seed: int
) -> dict[str, object]:
    """Held-out accuracy with baselines (humanward.evaluation.reward_accuracy); of an ensemble ``members`` too, the
    accuracy of each."""

    def score_by(one: RewardModel | RewardEnsemble) -> Score:
        return lambda prompts, texts: one.score(prompts, texts).double().numpy()

    measured = evaluate_reward(score_by(model), train, held_out, seed=seed)
    if isinstance(model, RewardEnsemble):
        each = [evaluate_reward(score_by(one), train, held_out, seed=seed) for one in model.members]
        measured["members"] = [one["accuracy"] for one in each]
    return measured


def describe(measured: dict) -> str:  # type: ignore[type-arg]
    """One line about accuracy and baselines."""
    a, length = measured["accuracy"], measured["baselines"]["length"]
    low, high = a["ci95"]
    members = measured.get("members", [])
    each = f"; its members alone {', '.join(format(one['value'], '.3f') for one in members)}" if members else ""
    return (
        f"reward model: {a['value']:.3f} of {a['n']} held-out pairs right (95 % interval {low:.3f} to {high:.3f}); "
        f"length alone {length['value']:.3f}, a constant .500{each}"
    )
