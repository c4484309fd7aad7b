"""The align stage of the off-policy family: learn from the run's preferences (or labels), without sampling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from humanward.alarm import Alarm
from humanward.errors import InputError
from humanward.feedback import files
from humanward.offline import alarms, data
from humanward.offline.data import Group, LabelledTexts
from humanward.offline.trainer import Metrics, OfflineTrainer
from humanward.records import Completion, Label, Preference, Ranking, read_jsonl
from humanward.run_dir import new_folder
from humanward.stages.context import ROLLOUT_SEED, Run

NO_REWARD = "preferences (no reward model)"
"""What the report calls the reward of a run that learns from preferences directly."""


def align_off_policy(run: Run) -> None:
    """Train the policy on what was preferred; write metrics.jsonl (``offline/...``) and adapter/ in PEFT's format."""
    started = time.perf_counter()
    run.folder.facts("feedback", f"run `humanward feedback simulate --run {run.folder.path}`")
    algorithm, config = run.config.algorithm, run.config.offline
    warnings: list[str] = []
    sounded: list[dict[str, Any]] = []
    trainer: OfflineTrainer | None = None

    def warn(line: str) -> None:
        warnings.append(line)
        run.reporter.warn(line)

    def on_alarm(alarm: Alarm) -> None:
        step = 0 if trainer is None else trainer.steps_done
        sounded.append({"step": step, **asdict(alarm)})
        warn(f"step {step}: {alarm.line}")

    training, validation = _groups(run, on_alarm)
    trainer = OfflineTrainer(
        run.base(),
        algorithm,
        config,
        training,
        validation,
        seed=run.seed(ROLLOUT_SEED),
        on_alarm=on_alarm,
        on_notice=warn,
    )
    if trainer.cut:
        warn(f"{trainer.cut} responses are longer than offline.max_tokens = {config.max_tokens} and were cut")
    run.folder.begin("align", "ppo", "offline")
    with run.reporter.track("judge the responses under the reference", len(training) + len(validation)) as tracker:
        trainer.judge_reference(tracker.at)
    run.folder.log(trainer.start())
    with run.reporter.track(f"align ({algorithm})", trainer.steps) as tracker:
        for step in range(trainer.steps):
            metrics = trainer.step()
            run.folder.log(metrics)
            tracker.at(step + 1, live_words(metrics))
    trainer.finish()
    with new_folder(run.policy_folder) as folder:
        run.base().save_role("policy", folder)
    run.folder.finish(
        "align",
        time.perf_counter() - started,
        algorithm=algorithm,
        steps=trainer.steps_done,
        precision=run.base().precision,
        kl_at_start=trainer.kl_at_start,
        stopped_at_budget=False,
        reward=NO_REWARD,
        warnings=warnings,
        alarms=sounded,
        prompts=len({group.prompt.id for group in training}),
        held_out=len({group.prompt.id for group in validation}),
        sequences=sum(len(group.texts) for group in training) * config.epochs,
    )


def live_words(metrics: Metrics) -> str:
    """What a person watches: loss, and where the algorithm compares responses, accuracy and margin."""
    words = f"loss {metrics['offline/loss']:.4f}"
    if metrics["offline/margin"] == metrics["offline/margin"]:
        words += f"  accuracy {metrics['offline/accuracy']:.2f}  margin {metrics['offline/margin']:+.3f}"
    return words


def _groups(run: Run, on_alarm: Callable[[Alarm], None]) -> tuple[Sequence[Group], Sequence[Group]]:
    """(what is learnt from, what is held out), of the kind that the algorithm learns from."""
    algorithm = run.config.algorithm
    if run.config.feedback.source == "ratings":
        sides = _by_split(read_jsonl(run.folder.file(files.LABELS), Label))
        if algorithm == "sft":
            groups: list[Sequence[Group]] = [data.labelled_demonstrations(side) for side in sides]
        else:
            groups = _labelled(run, [data.labels_of_ratings(side) for side in sides], on_alarm)
    else:
        preferences = _by_split(read_jsonl(run.folder.file(files.PREFERENCES), Preference))
        unfinished = _unfinished(run)
        if algorithm == "sft":
            refused = _refused(run)
            groups = [data.demonstrations(side, unfinished, refused) for side in preferences]
        elif algorithm == "kto":
            groups = _labelled(run, [data.labels_of_pairs(side, unfinished) for side in preferences], on_alarm)
        else:
            groups = [data.pairs(side, unfinished) for side in preferences]
    training, validation = groups
    if not training:
        raise InputError(
            f"{run.folder.path}: nothing to train on: no response on a prompt to train on was preferred; rank more"
        )
    if not validation:
        run.reporter.say("no prompts are held out: nothing tells what is learnt from what is learnt by heart")
    return training, validation


def _labelled(
    run: Run, sides: Sequence[list[LabelledTexts]], on_alarm: Callable[[Alarm], None]
) -> list[Sequence[Group]]:
    """Both sides joined by responses to other prompts; held-out ones of a single prompt are left out."""
    config = run.config.offline
    weights = config.desirable_weight, config.undesirable_weight
    if alarm := alarms.unbalanced(*data.count_kinds(sides[0]), weights):
        on_alarm(alarm)
    seed = run.seed(ROLLOUT_SEED)
    few = len({group.prompt.id for group in sides[1]}) < 2
    return [data.with_others(sides[0], seed), [] if few else data.with_others(sides[1], seed)]


def _by_split(records: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """(to train on, held out)."""
    records = list(records)
    return [r for r in records if r.split != "validation"], [r for r in records if r.split == "validation"]


def _unfinished(run: Run) -> set[tuple[str, str]]:
    """(prompt id, text) of the responses that sampling cut off."""
    file = run.folder.file(files.COMPLETIONS)
    if not file.exists():
        return set()
    completions = read_jsonl(file, Completion)
    ended = {(c.prompt_id, c.text) for c in completions if c.ended}
    return {(c.prompt_id, c.text) for c in completions if not c.ended} - ended


def _refused(run: Run) -> set[str]:
    """Ids of the rankings whose annotator accepted no answer: the better of two bad answers is nothing to imitate."""
    file = run.folder.file(files.RANKINGS)
    return {r.id for _, r in files.read_records(file, Ranking) if r.none_acceptable} if file.exists() else set()
