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
    "ppo/explained_variance": 0.4,
}


def during(*steps: dict[str, float], warmup_steps: int = 0) -> list[alarms.Alarm]:
    return alarms.during([WELL, *({**WELL, **step} for step in steps)], warmup_steps=warmup_steps)


def test_a_healthy_step_is_silent() -> None:
    assert during() == []
    assert during({}, {}) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ppo/sequence_kl", -1.5, "negative_kl: KL is -1.50 nats a sequence"),
        ("ppo/score_std", 0.0, "equal_scores: all scores of a rollout are equal"),
        ("ppo/ended", 0.04, "all_truncated: 96% of the responses are cut off"),
        ("ppo/clip_fraction", 0.5, "clip_fraction: 50% of the tokens are clipped"),
        ("ppo/entropy", 0.45, "entropy_collapse: entropy has fallen from 2.00 to 0.45"),
    ],
)
def test_each_fault_has_its_alarm_with_causes_and_a_remedy(name: str, value: float, words: str) -> None:
    (alarm,) = during({name: value})
    assert words in f"{alarm.name}: {alarm.line}"
    assert alarm.causes in alarm.line
    assert alarm.remedy in alarm.line
    assert "\n" not in alarm.line


def test_a_critic_is_given_time_to_explain_something() -> None:
    nothing = {"ppo/explained_variance": -0.1}
    assert during(*[nothing] * 4) == []  # the first, healthy step is one of the six looked at
    (alarm,) = during(*[nothing] * 5)
    assert alarm.name == "critic_explains_nothing"
    assert during(*[nothing] * 5, warmup_steps=3) == []
    assert during(*[nothing] * 4, {"ppo/explained_variance": 0.01}) == []


def test_without_a_critic_none_is_missed() -> None:
    rows = [{k: v for k, v in WELL.items() if k != "ppo/explained_variance"}] * 9
    assert alarms.during(rows, warmup_steps=0) == []


def ratio_at_start(new: torch.Tensor, old: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> alarms.Alarm | None:
    return alarms.ratio_at_start((new - old)[mask], dtype)


@pytest.mark.parametrize("function", [alarms.kl_at_start, ratio_at_start])
def test_the_threshold_follows_the_precision_and_padding_does_not_count(function) -> None:
    ours, mask = torch.zeros(2, 3), torch.tensor([[True, True, True], [True, False, False]])
    assert function(ours, torch.where(mask, ours, 9.0), mask, torch.float32) is None
    off = ours.clone()
    off[0, 1] = 0.001  # mean .00025 a token over four: rounding in bfloat16, a fault in float32
    assert function(ours, off, mask, torch.bfloat16) is None
    assert "0.001" in function(ours, off, mask, torch.float32).seen
    off[0, 1] = 1.0
    assert function(ours, off, mask, torch.bfloat16) is not None


@pytest.mark.parametrize("function", [alarms.kl_at_start, ratio_at_start])
@pytest.mark.parametrize(("dtype", "fine", "fault"), [(torch.float32, 9e-5, 2e-4), (torch.bfloat16, 0.4, 0.6)])
def test_one_token_alone_is_enough(function, dtype: torch.dtype, fine: float, fault: float) -> None:
    """One of 1,000 tokens: the mean stays far below its limit (1e-5 and 1e-2), the largest passes its own."""
    ours, mask = torch.zeros(10, 100), torch.ones(10, 100).bool()
    off = ours.clone()
    off[3, 7] = fine
    assert function(ours, off, mask, dtype) is None
    off[3, 7] = -fault
    assert function(ours, off, mask, dtype) is not None


def test_an_alarm_is_raised_once() -> None:
    trainer, found = make_trainer(lambda prompts, texts, tokens: torch.ones(len(prompts)))
    for _ in range(3):
        trainer.step()
    assert [alarm.name for alarm in found].count("equal_scores") == 1
    assert "equal_scores" in [alarm.name for alarm in trainer.alarms], "those of the last step name it still"
