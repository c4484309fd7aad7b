"""The align stage of the on-policy family: sample, score, learn, step by step, within the KL budget."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from humanward.errors import InputError
from humanward.models.heads import ValueHead
from humanward.models.tokens import Tokens
from humanward.progress import Tracker
from humanward.records import Prompt
from humanward.reward.model import ROLE
from humanward.reward.sources import SourceError
from humanward.rl.alarms import Alarm
from humanward.rl.trainer import Metrics, OnPolicyTrainer
from humanward.run_dir import new_folder
from humanward.stages.best_of_n import measure_frontier, measure_policy
from humanward.stages.context import CRITIC_SEED, ROLLOUT_SEED, Run
from humanward.stages.held_out import HeldOut, held_out_prompts
from humanward.stages.profile import FILE, StepProfile, table
from humanward.stages.scoring import RewardScorer, build_scorer, reward_name
from humanward.stages.shaping import ShapedScorer


def align_on_policy(run: Run, watch: Callable[[int], None] = lambda step: None) -> None:
    """Train the policy; write metrics.jsonl (``ppo/...``, ``monitor/...``) and adapter/ in PEFT's format.

    ``watch`` is called at every look at held-out prompts with the steps done, the policy being in the base. A reward
    source that fails stops it: the policy so far is kept, and the SourceError says where.
    """
    started, cut = time.perf_counter(), run.truncated()
    base, config = run.base(), run.config
    prompts = run.prompts("train")
    scorer = build_scorer(run, prompts)
    frontier = measure_frontier(run, scorer)
    training = _Training(run, prompts, scorer, watch)
    run.folder.begin("align", "ppo", "offline", "monitor")
    with run.reporter.track(f"align ({config.algorithm})", config.ppo.steps) as tracker:
        training.all_steps(tracker)
    run.folder.file(FILE).unlink(missing_ok=True)
    if training.profile:
        for line in table(training.profile.write(run.folder.path)):
            run.reporter.say(line)
    with new_folder(run.policy_folder) as folder:
        base.save_role("policy", folder)
    with training.keeping_the_policy():
        measure_policy(run, scorer, frontier)
    shutil.rmtree(_stopped_folder(run), ignore_errors=True)
    run.folder.finish(
        "align",
        time.perf_counter() - started,
        algorithm=config.algorithm,
        steps=training.trainer.steps_done,
        precision=base.precision,
        kl_at_start=training.kl_at_start,
        stopped_at_budget=training.stopped_at_budget,
        kept_step=training.kept_step,
        reward=reward_name(config),
        warnings=training.warnings,
        alarms=training.alarms,
        truncated=run.truncated(cut),
    )


class _Training:
    """The steps of one align stage: learnt, watched, logged, and stopped where budget or monitors say so."""

    def __init__(self, run: Run, prompts: Sequence[Prompt], scorer: RewardScorer, watch: Callable[[int], None]) -> None:
        self.run, self.config, self.watch = run, run.config.ppo, watch
        self.scorer = _shaped(run, scorer, prompts)
        self.judge = run.classifier("judge")
        self.monitor = _monitor(run, scorer)
        self.warnings: list[str] = []
        self.alarms: list[dict[str, Any]] = []
        self.kl_at_start, self.stopped_at_budget = 0.0, False
        self.kept_step: int | None = None
        self._answered: list[tuple[Prompt, str]] = []
        self.profile = StepProfile(run.base().device) if run.profile else None
        self.trainer = OnPolicyTrainer(
            run.base(),
            self.config,
            run.config.sampling,
            prompts,
            self._score,
            seed=run.seed(ROLLOUT_SEED),
            algorithm=run.config.algorithm,
            value_head=_own_critic(run),
            from_reference=run.config.rounds.start is None,
            on_alarm=lambda alarm: self._sound(alarm, self.trainer.steps_done + 1),
            on_notice=self._warn,
        )
        self.trainer.phases.detailed = run.profile

    def all_steps(self, tracker: Tracker) -> None:
        """Every step, with a look before each that ``monitors.every`` names and one after the last."""
        within = self.trainer.snapshot()
        for step in range(self.config.steps):
            if self._hacked(step):
                return
            before = self.trainer.snapshot()
            metrics = self._step()
            tracker.at(step + 1, live_words(metrics))
            if metrics["ppo/sequence_kl"] > self.config.kl_budget:
                self._warn(
                    f"step {step + 1}: KL {metrics['ppo/sequence_kl']:.2f} is above ppo.kl_budget = "
                    f"{self.config.kl_budget}; training stopped and the last policy within the budget was kept"
                )
                self.trainer.restore(within)
                self.stopped_at_budget = True
                return
            within = before
        self._hacked(self.config.steps)

    def _step(self) -> Metrics:
        already_cut = self.run.truncated()
        number = self.trainer.steps_done + 1
        with self.keeping_the_policy(), self.profile.step(number) if self.profile else nullcontext():
            metrics = self.trainer.step() | self.scorer.metrics()
        if self.profile:
            tokens = metrics["ppo/response_length"] * self.config.rollout_size
            self.profile.add(number, self.trainer.spent, tokens)
        # The judge only watches: nothing is chosen or stopped by what it says.
        metrics["ppo/toxicity"] = float(self.judge.score(*zip(*self._answered, strict=True)).mean())
        metrics["ppo/truncated"] = float(sum(self.run.truncated(already_cut).values()))
        self.run.folder.log({**metrics, "ppo/alarms": [alarm.name for alarm in self.trainer.alarms]})
        if self.trainer.steps_done == 1 and self.trainer.from_reference:
            self.kl_at_start = metrics["ppo/sequence_kl"]
        return metrics

    def _hacked(self, steps: int) -> bool:
        """Look at held-out prompts after ``steps`` steps, if it is time; True where that stops the run.

        The weights of the best look are then put back.
        """
        monitor, config = self.monitor, self.run.config.monitors
        if monitor is None or (steps % config.every and steps < self.config.steps):
            return False
        with self.keeping_the_policy():
            self.run.folder.log(monitor.look(steps, self.trainer.snapshot()))
        for alarm in monitor.alarms:
            self._sound(alarm, steps)
        self.watch(steps)
        if not (config.stop and monitor.hacked):
            return False
        self.kept_step = int(monitor.best["monitor/step"])
        self.trainer.restore(monitor.snapshot)
        self._warn(
            f"step {steps}: training stopped, as monitors.stop asks; the policy after step {self.kept_step} was kept, "
            "which had the best held-out reward"
        )
        return True

    def _score(self, asked: Sequence[Prompt], responses: Sequence[str], tokens: Tokens) -> torch.Tensor:
        self._answered = list(zip(asked, responses, strict=True))
        return self.scorer(asked, responses, tokens)

    def _warn(self, line: str) -> None:
        self.warnings.append(line)
        self.run.reporter.warn(line)

    def _sound(self, alarm: Alarm, step: int) -> None:
        """Record an alarm and tell it, the first of its name."""
        if all(known["name"] != alarm.name for known in self.alarms):
            self.alarms.append({"step": step, **asdict(alarm)})
            self._warn(f"step {step}: {alarm.line}")

    @contextmanager
    def keeping_the_policy(self) -> Iterator[None]:
        """Where a reward source fails, write the policy as it is beside where it would lie; the error says so."""
        run, done = self.run, self.trainer.steps_done
        try:
            yield
        except SourceError as error:
            if not done:
                raise SourceError(f"{error} (nothing was trained yet: the same command goes on from here)") from error
            with new_folder(_stopped_folder(run)) as folder:
                run.base().save_role("policy", folder)
            raise SourceError(
                f"{error} (the policy after {done} of {run.config.ppo.steps} steps is in "
                f"{_stopped_folder(run)}; the same command begins the align stage again)"
            ) from error


def _shaped(run: Run, scorer: RewardScorer, prompts: Sequence[Prompt]) -> RewardScorer | ShapedScorer:
    """What the policy learns from: the reward, bounded or constrained where the configuration says so."""
    if run.config.ppo.bounded == "off" and not run.config.constraint.sources:
        return scorer
    return ShapedScorer(run, scorer, prompts)


def _monitor(run: Run, scorer: RewardScorer) -> HeldOut | None:
    """The looks at held-out prompts, if asked for; InputError where there are no validation prompts to look at."""
    if run.config.monitors.every == 0:
        return None
    if not held_out_prompts(run):
        raise InputError(
            f"monitors.every = {run.config.monitors.every}: there are no validation prompts to look at; set "
            "prompts.validation or prompts.validation_fraction, or monitors.every = 0"
        )
    return HeldOut(run, scorer)


def _stopped_folder(run: Run) -> Path:
    return run.policy_folder.with_name(f"{run.policy_folder.name}-stopped")


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
