"""Alarms: silent on what is well, and one line that names the likely causes on what is not."""

from __future__ import annotations

import pytest
import torch
from rl.checks import make_trainer

from humanward.rl import alarms

WELL = {
    "ppo/sequence_kl": 1.0,
    "ppo/score_std": 1.0,
    "ppo/ended": 0.9,
    "ppo/clip_fraction": 0.1,
    "ppo/entropy": 2.0,
}


def test_a_healthy_step_is_silent() -> None:
    assert alarms.during(WELL) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ppo/sequence_kl", -1.5, "KL is -1.50 nats a sequence"),
        ("ppo/score_std", 0.0, "all scores of a rollout are equal"),
        ("ppo/ended", 0.04, "fewer than 5 % of the responses end by themselves"),
        ("ppo/clip_fraction", 0.5, "50% of the tokens are clipped"),
        ("ppo/entropy", 0.05, "entropy has fallen to 0.050"),
    ],
)
def test_each_fault_has_its_line(name: str, value: float, words: str) -> None:
    (line,) = alarms.during({**WELL, name: value})
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize("function", [alarms.kl_at_start, alarms.ratio_at_start])
def test_the_threshold_follows_the_precision_and_padding_does_not_count(function) -> None:
    ours, mask = torch.zeros(2, 3), torch.tensor([[True, True, True], [True, False, False]])
    assert function(ours, torch.where(mask, ours, 9.0), mask, torch.float32) is None
    off = ours.clone()
    off[0, 1] = 0.001  # mean .00025 a token over four: rounding in bfloat16, a fault in float32
    assert function(ours, off, mask, torch.bfloat16) is None
    assert "0.001" in str(function(ours, off, mask, torch.float32))
    off[0, 1] = 1.0
    assert function(ours, off, mask, torch.bfloat16) is not None


def test_an_alarm_is_raised_once() -> None:
    trainer, lines = make_trainer(lambda prompts, texts, tokens: torch.ones(len(prompts)))
    for _ in range(3):
        trainer.step()
    assert len([line for line in lines if "all scores of a rollout are equal" in line]) == 1
    assert lines[0].startswith("step 1: ")
