"""The align stage of the on-policy family: sample, score, learn, step by step, within the KL budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from humanward.models.tokens import Tokens
from humanward.records import Prompt
from humanward.rl.alarms import Alarm
from humanward.rl.trainer import Metrics, OnPolicyTrainer
from humanward.run_dir import new_folder
from humanward.stages.best_of_n import measure_frontier, measure_policy
from humanward.stages.context import ROLLOUT_SEED, Run
from humanward.stages.scoring import build_scorer, reward_name


def align_on_policy(run: Run) -> None:
    """Train the policy; write metrics.jsonl (``ppo/...``) and adapter/ in PEFT's format."""
    started = time.perf_counter()
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

    texts: list[str] = []

    def watched(asked: Sequence[Prompt], responses: Sequence[str], tokens: Tokens) -> torch.Tensor:
        texts[:] = responses
        return scorer(asked, responses, tokens)

    trainer = OnPolicyTrainer(
        base,
        config,
        run.config.sampling,
        prompts,
        watched,
        seed=run.seed(ROLLOUT_SEED),
        algorithm=run.config.algorithm,
        on_alarm=on_alarm,
    )
    run.folder.forget_metrics("ppo")
    kl_at_start, within, stopped = 0.0, trainer.snapshot(), False
    with run.reporter.track(f"align ({run.config.algorithm})", config.steps) as tracker:
        for step in range(config.steps):
            before = trainer.snapshot()
            metrics = trainer.step()
            # The judge only watches: nothing is chosen or stopped by what it says.
            metrics["ppo/toxicity"] = float(judge.score_texts(texts).mean())
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
    with new_folder(run.folder.file("adapter")) as folder:
        base.save_role("policy", folder)
    measure_policy(run, scorer, frontier)
    run.folder.finish(
        "align",
        time.perf_counter() - started,
        algorithm=run.config.algorithm,
        steps=trainer.steps_done,
        kl_at_start=kl_at_start,
        stopped_at_budget=stopped,
        reward=reward_name(run.config),
        warnings=warnings,
        alarms=sounded,
    )


def live_words(metrics: Metrics) -> str:
    """What a person watches: score, KL in nats a sequence, toxicity."""
    return (
        f"reward {metrics['ppo/score_mean']:+.2f}  KL {metrics['ppo/sequence_kl']:.2f}  "
        f"toxicity {metrics['ppo/toxicity']:.3f}"
    )
