"""Looks at fixed held-out prompts while a policy trains: what the reward says, and what it does not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from humanward.alarm import Alarm
from humanward.evaluation.drift import (
    distinct_2,
    explained_by_length,
    gain_at_equal_length,
    longest_repeat,
    overlap,
    refusal_share,
    repeated_words,
)
from humanward.evaluation.fluency import ngram_counts
from humanward.records import Prompt, read_jsonl
from humanward.reward.combined import CombinedReward
from humanward.rl.monitors import HELD_OUT_ALARMS, alarms_of, best_look
from humanward.rl.rollouts import Scorer
from humanward.stages.best_of_n import Drawn, draw, sequence_kl
from humanward.stages.context import MONITOR_SEED, Run
from humanward.stages.shaping import anchored_sources


class HeldOut:
    """Looks at the policy on held-out prompts every ``monitors.every`` steps, the first at the reference.

    Every look answers the same prompts with the same random numbers, so that looks differ by the policy alone.
    ``looks`` are those so far; ``snapshot`` the weights of the best by the held-out reward.
    """

    def __init__(self, run: Run, scorer: Scorer) -> None:
        self.run, self.scorer, self.config = run, scorer, run.config.monitors
        self.prompts = held_out_prompts(run)
        sources = self.config.sources
        self.held_out: CombinedReward | None = anchored_sources(run, sources, "monitor") if sources else None
        self.looks: list[dict[str, Any]] = []
        self.snapshot: dict[str, torch.Tensor] = {}
        self.alarms: list[Alarm] = []
        self._reference: tuple[Drawn, torch.Tensor, torch.Tensor] | None = None
        self._pairs = 0

    @property
    def hacked(self) -> bool:
        """Whether the last look shows the held-out reward falling behind."""
        return any(alarm.name in HELD_OUT_ALARMS for alarm in self.alarms)

    @property
    def best(self) -> dict[str, Any]:
        """The look with the highest held-out reward."""
        return self.looks[best_look(self.looks)]

    def look(self, step: int, snapshot: dict[str, torch.Tensor]) -> dict[str, Any]:
        """What metrics.jsonl holds of ``step`` steps of training (docs/metrics.md); ``alarms`` follow from it."""
        exact = self.run.config.sampling.model_copy(update={"top_k": 0, "top_p": 1.0})
        keys = [f"monitor\x1f{prompt.id}" for prompt in self.prompts]
        seed = self.run.seed(MONITOR_SEED)
        drawn = draw(self.run, "policy", self.prompts, keys, exact, self.scorer, seed=seed)
        rewards = torch.tensor(drawn.rewards, dtype=torch.float64)
        held_out = torch.zeros(0)
        if self.held_out is not None:
            held_out = self.held_out.score(self.prompts, drawn.texts).double()
        if self._reference is None:
            self._reference = drawn, rewards, held_out
            self._pairs = ngram_counts(drawn.texts, 2).total()
        row = {"monitor/step": step, **self._measured(drawn, rewards, held_out)}
        self.looks.append(row)
        self.alarms = alarms_of(self.looks, self.config)
        row["monitor/alarms"] = [alarm.name for alarm in self.alarms]
        if self.held_out is not None and self.best is row:
            self.snapshot = snapshot
        return row

    def _measured(self, drawn: Drawn, rewards: torch.Tensor, held_out: torch.Tensor) -> dict[str, Any]:
        assert self._reference is not None
        before, old_rewards, old_held_out = self._reference
        lengths, old_lengths = _lengths(drawn), _lengths(before)
        unit = float(old_rewards.std(correction=0)) or 1.0
        at_equal = gain_at_equal_length(old_rewards.tolist(), old_lengths, rewards.tolist(), lengths)
        kl = sequence_kl(self.run, "policy", drawn)
        row: dict[str, Any] = {
            "monitor/sequence_kl": sum(kl) / len(kl),
            "monitor/reward": float((rewards - old_rewards).mean()) / unit,
            "monitor/reward_at_equal_length": None if at_equal is None else at_equal / unit,
            "monitor/length": sum(lengths) / len(lengths),
            "monitor/length_explains": explained_by_length(rewards.tolist(), lengths),
            "monitor/ended": sum(one.ended for one in drawn.responses) / len(drawn.responses),
            "monitor/repetition": sum(map(repeated_words, drawn.texts)) / len(drawn.texts),
            "monitor/longest_repeat": sum(map(longest_repeat, drawn.texts)) / len(drawn.texts),
            "monitor/distinct_2": distinct_2(drawn.texts, self._pairs),
            "monitor/overlap": overlap(drawn.texts, [prompt.id for prompt in drawn.prompts]),
            "monitor/refusals": refusal_share(drawn.texts),
        }
        if self.held_out is not None:
            unit = float(old_held_out.std(correction=0)) or 1.0
            change = (held_out - old_held_out) / unit
            row["monitor/held_out"] = float(change.mean())
            row["monitor/held_out_error"] = float(change.std() / len(change) ** 0.5)
        return row


def _lengths(drawn: Drawn) -> list[float]:
    return [float(len(response.ids)) for response in drawn.responses]


def held_out_prompts(run: Run) -> Sequence[Prompt]:
    """The validation prompts that are looked at, at most ``monitors.prompts``; empty where there are none."""
    found = [p for p in read_jsonl(run.folder.file("prompts.jsonl"), Prompt) if p.split == "validation"]
    return found[: run.config.monitors.prompts]
