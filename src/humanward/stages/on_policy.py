"""The align stage of the on-policy family: sample, score, learn, step by step, within the KL budget."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from humanward.models.heads import ValueHead
from humanward.models.tokens import Tokens
from humanward.records import Prompt
from humanward.reward.model import ROLE
from humanward.reward.sources import SourceError
from humanward.rl.alarms import Alarm
from humanward.rl.trainer import Metrics, OnPolicyTrainer
from humanward.run_dir import new_folder
from humanward.stages.best_of_n import measure_frontier, measure_policy
from humanward.stages.context import CRITIC_SEED, ROLLOUT_SEED, Run
from humanward.stages.scoring import build_scorer, reward_name


def align_on_policy(run: Run) -> None:
    """Train the policy; write metrics.jsonl (``ppo/...``) and adapter/ in PEFT's format.

    A reward source that fails stops it: the policy so far is kept, and the SourceError says where.
    """
    started, cut = time.perf_counter(), run.truncated()
    base, config = run.base(), run.config.ppo
    prompts = run.prompts("train")
    scorer = build_scorer(run, prompts)
    frontier = measure_frontier(run, scorer)
    judge = run.classifier("judge")
    warnings: list[str] = []
    sounded: list[dict[str, Any]] = []

    def warn(line: str) -> None:
        warnings.append(line)
        run.reporter.warn(line)

    def on_alarm(alarm: Alarm) -> None:
        step = trainer.steps_done + 1
        sounded.append({"step": step, **asdict(alarm)})
        warn(f"step {step}: {alarm.line}")

    answered: list[tuple[Prompt, str]] = []

    def watched(asked: Sequence[Prompt], responses: Sequence[str], tokens: Tokens) -> torch.Tensor:
        answered[:] = zip(asked, responses, strict=True)
        return scorer(asked, responses, tokens)

    critic_head = _own_critic(run)
    trainer = OnPolicyTrainer(
        base,
        config,
        run.config.sampling,
        prompts,
        watched,
        seed=run.seed(ROLLOUT_SEED),
        algorithm=run.config.algorithm,
        value_head=critic_head,
        on_alarm=on_alarm,
        on_notice=warn,
    )
    run.folder.begin("align", "ppo", "offline")
    kl_at_start, within, stopped = 0.0, trainer.snapshot(), False
    with run.reporter.track(f"align ({run.config.algorithm})", config.steps) as tracker:
        for step in range(config.steps):
            before, already_cut = trainer.snapshot(), run.truncated()
            with _keeping_the_policy(run, trainer):
                metrics = trainer.step() | scorer.metrics()
            # The judge only watches: nothing is chosen or stopped by what it says.
            metrics["ppo/toxicity"] = float(judge.score(*zip(*answered, strict=True)).mean())
            metrics["ppo/truncated"] = float(sum(run.truncated(already_cut).values()))
            run.folder.log({**metrics, "ppo/alarms": [alarm.name for alarm in trainer.alarms]})
            if step == 0:
                kl_at_start = metrics["ppo/sequence_kl"]
            tracker.at(step + 1, live_words(metrics))
            if metrics["ppo/sequence_kl"] > config.kl_budget:
                warn(
                    f"step {step + 1}: KL {metrics['ppo/sequence_kl']:.2f} is above ppo.kl_budget = "
                    f"{config.kl_budget}; training stopped and the last policy within the budget was kept"
                )
                trainer.restore(within)
                stopped = True
                break
            within = before
    with new_folder(run.policy_folder) as folder:
        base.save_role("policy", folder)
    with _keeping_the_policy(run, trainer):
        measure_policy(run, scorer, frontier)
    shutil.rmtree(_stopped_folder(run), ignore_errors=True)
    run.folder.finish(
        "align",
        time.perf_counter() - started,
        algorithm=run.config.algorithm,
        steps=trainer.steps_done,
        precision=base.precision,
        kl_at_start=kl_at_start,
        stopped_at_budget=stopped,
        reward=reward_name(run.config),
        warnings=warnings,
        alarms=sounded,
        truncated=run.truncated(cut),
    )


def _stopped_folder(run: Run) -> Path:
    return run.policy_folder.with_name(f"{run.policy_folder.name}-stopped")


@contextmanager
def _keeping_the_policy(run: Run, trainer: OnPolicyTrainer) -> Iterator[None]:
    """Where a reward source fails, writes the policy as it is beside where it would lie, and says so in the error."""
    try:
        yield
    except SourceError as error:
        if not trainer.steps_done:
            raise SourceError(f"{error} (nothing was trained yet: the same command goes on from here)") from error
        with new_folder(_stopped_folder(run)) as folder:
            run.base().save_role("policy", folder)
        raise SourceError(
            f"{error} (the policy after {trainer.steps_done} of {run.config.ppo.steps} steps is in "
            f"{_stopped_folder(run)}; the same command begins the align stage again)"
        ) from error


def _own_critic(run: Run) -> ValueHead | None:
    """Adds the role ``critic`` where PPO's critic has an adapter of its own; a head that begins as the reward's."""
    config, base = run.config.ppo, run.base()
    if run.config.algorithm != "ppo" or config.critic == "trunk":
        return None
    if config.critic_start == "zero":
        base.add_role("critic", run.config.lora, seed=run.seed(CRITIC_SEED))
        return None
    model = run.reward_model()
    base.copy_role("critic", ROLE)
    return ValueHead.from_score_head(model.head)


def live_words(metrics: Metrics) -> str:
    """What a person watches: score, KL in nats a sequence, toxicity."""
    return (
        f"reward {metrics['ppo/score_mean']:+.2f}  KL {metrics['ppo/sequence_kl']:.2f}  "
        f"toxicity {metrics['ppo/toxicity']:.3f}"
    )
