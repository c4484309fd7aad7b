"""Stage 3: a reward model trained on the preferences, and how far it can be trusted."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from humanward.errors import InputError
from humanward.evaluation.reward_accuracy import Score, check_held_out, evaluate_reward
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.preferences import PromptPairs, check_straddling, group_by_prompt
from humanward.records import Preference, read_jsonl
from humanward.reward.calibration import Temperature, fit_temperature
from humanward.reward.loss import MODELLED
from humanward.reward.model import ROLE, RewardEnsemble, RewardModel, role_of
from humanward.reward.training import TrainingStep, check_criteria, train_reward_model
from humanward.run_dir import new_folder, write_text
from humanward.stages.context import REWARD_SEED, Run
from humanward.stages.scoring import ANCHORS

CHECKPOINTS = "reward_checkpoints"
ENSEMBLE_SEEDS = 100
"""Purposes of the seeds of an ensemble's further members: this and their number."""


def run_reward(run: Run) -> None:
    """Train on the ``train`` pairs, measure on the ``validation`` pairs; write reward_model/ and reward.json.

    An interrupted training goes on from reward_checkpoints/, which is gone when the stage has finished. With
    ``reward.ensemble`` more than one, alike but for their seeds, and measured together and each by itself.
    """
    started = time.perf_counter()
    if run.config.feedback.source == "ratings":
        raise InputError(
            f"{run.folder.path}: holds ratings of single answers, and a reward model learns from pairs; import "
            "rankings or preferences into a run of their own, or align with kto or sft"
        )
    train, held_out = read_pairs(run)
    check_held_out(held_out)
    groups = training_groups(run, train)
    run.folder.begin("reward", "reward")
    run.folder.file(ANCHORS).unlink(missing_ok=True)
    members = [_train(run, groups, number) for number in range(1, run.config.reward.ensemble + 1)]
    reward = run.config.reward
    model: RewardModel | RewardEnsemble = members[0]
    if len(members) > 1:
        model = RewardEnsemble(members, reward.ensemble_score, reward.ensemble_lambda)
    measured = measure(model, train, held_out, seed=run.config.seed)
    measured["temperature"] = asdict(calibrate(model, held_out))
    with new_folder(run.folder.file("reward_model")) as folder:
        model.save(
            folder, {"accuracy": measured["accuracy"], "trained_on": {"pairs": len(train), "prompts": len(groups)}}
        )
    write_text(run.folder.file("reward.json"), json.dumps(measured, indent=1) + "\n")
    run._reward_models = model
    run.folder.finish("reward", time.perf_counter() - started, **measured)
    shutil.rmtree(run.folder.file(CHECKPOINTS), ignore_errors=True)
    run.reporter.say(describe(measured))


def read_pairs(run: Run) -> tuple[list[Preference], list[Preference]]:
    """The run's pairs to train on and those held out; InputError where a prompt has some of both."""
    file = run.folder.file("preferences.jsonl")
    preferences = read_jsonl(file, Preference)
    try:
        check_straddling(preferences)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    train = [p for p in preferences if p.split != "validation"]
    return train, [p for p in preferences if p.split == "validation"]


def training_groups(run: Run, train: Sequence[Preference]) -> list[PromptPairs]:
    """What is learnt from one prompt, criteria together; pairs of criteria without a head are left out, and said."""
    reward = run.config.reward
    if reward.criteria:
        check_criteria(group_by_prompt(train, criteria_together=True), reward)
        others = Counter(p.criterion for p in train if p.criterion not in reward.criteria)
        for name, count in others.items():
            run.reporter.warn(f"{count} pairs of the criterion {name!r} left out: reward.criteria does not name it")
        train = [p for p in train if p.criterion in reward.criteria]
    modelled = reward.ties in MODELLED
    groups = group_by_prompt(train, criteria_together=True)
    return [g for g in groups if modelled or any(not pair.tie for pair in g.pairs)]


def calibrate(model: RewardModel | RewardEnsemble, held_out: Sequence[Preference]) -> Temperature:
    """Fit the model's temperature, and each member's, on the strict held-out pairs; returns the model's."""
    strict = [p for p in held_out if not p.tie]
    prompts = [p.prompt for p in strict]
    found = None
    for one in (*(model.members if isinstance(model, RewardEnsemble) else ()), model):
        above, below = (one.score(prompts, [getattr(p, side) for p in strict]) for side in ("chosen", "rejected"))
        found = fit_temperature((above - below).double().numpy())
        one.temperature = found.value
    assert found is not None
    return found


def _train(run: Run, groups: Sequence[PromptPairs], number: int) -> RewardModel:
    """Member ``number`` of the ensemble, from 1; its metrics are logged."""
    config = run.config.reward
    steps = -(-len(groups) // config.batch_size) * config.epochs
    title = "reward model" if config.ensemble == 1 else f"reward model {number} of {config.ensemble}"
    with run.reporter.track(title, steps) as tracker:

        def on_step(step: TrainingStep) -> None:
            row = {"reward/step": step.step, "reward/loss": step.loss, "reward/accuracy": step.accuracy}
            if step.tie_parameter is not None:
                row["reward/tie_parameter"] = step.tie_parameter
            run.folder.log({**row, "reward/member": number})
            tracker.at(step.step, f"loss {step.loss:.3f}  accuracy {step.accuracy:.2f}")

        return train_reward_model(
            own_base(run) if config.train == "full" else run.base(),
            groups,
            config,
            run.config.lora,
            seed=run.seed(REWARD_SEED) if number == 1 else run.seed(ENSEMBLE_SEEDS + number),
            role=ROLE if config.train == "full" else role_of(number),
            checkpoint=run.folder.file(CHECKPOINTS) / str(number),
            on_step=on_step,
            on_notice=run.reporter.warn,
        )


def own_base(run: Run) -> SharedBase:
    """The base once more, to be trained as a whole: the shared one keeps its weights."""
    model = run.config.model
    if model.quantization != "none":
        raise InputError(
            f"reward.train = 'full' and model.quantization = {model.quantization!r}: 4-bit weights cannot be trained "
            "themselves; set reward.train = 'adapter' (QLoRA)"
        )
    loaded = load_model(
        model.model_copy(update={"revision": run.folder.revision("policy", model.policy, model.revision)})
    )
    return SharedBase(loaded, system_prompt=model.system_prompt, gradient_checkpointing=model.gradient_checkpointing)


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
