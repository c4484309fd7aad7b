"""Monitors of reward hacking: silent on a healthy run, each fault with its alarm; the best look."""

from __future__ import annotations

from typing import Any

import pytest

from humanward.monitor_config import MonitorsConfig
from humanward.rl.monitors import alarms_of, best_look

REFERENCE: dict[str, Any] = {
    "monitor/step": 0,
    "monitor/sequence_kl": 0.0,
    "monitor/reward": 0.0,
    "monitor/reward_at_equal_length": 0.0,
    "monitor/held_out": 0.0,
    "monitor/length": 20.0,
    "monitor/length_explains": 0.1,
    "monitor/ended": 0.9,
    "monitor/repetition": 0.05,
    "monitor/longest_repeat": 0.5,
    "monitor/distinct_2": 0.9,
    "monitor/overlap": 0.1,
    "monitor/refusals": 0.0,
}
WELL = {
    **REFERENCE,
    "monitor/step": 2,
    "monitor/reward": 0.6,
    "monitor/reward_at_equal_length": 0.5,
    "monitor/held_out": 0.4,
}


def names(*looks: dict[str, Any], **config: Any) -> list[str]:
    return [alarm.name for alarm in alarms_of([REFERENCE, *looks], MonitorsConfig(**config))]


def test_the_reference_and_a_healthy_look_raise_nothing() -> None:
    assert names() == []
    assert names(WELL) == []


def test_the_held_out_reward_falls_while_the_reward_rises() -> None:
    fallen = {**WELL, "monitor/step": 4, "monitor/reward": 1.0, "monitor/held_out": 0.34}
    (alarm,) = alarms_of([REFERENCE, WELL, fallen], MonitorsConfig())
    assert alarm.name == "held_out_falls"
    assert "0.06 reference deviations below its best (after step 2) while the reward rose by 0.40" in alarm.seen
    # Within the limit, or with the reward falling too, nothing is being exploited.
    assert names(WELL, {**fallen, "monitor/held_out": 0.36}) == []
    assert names(WELL, {**fallen, "monitor/reward": 0.5}) == []
    assert names(WELL, fallen, fall=0.1) == []


def test_the_held_out_reward_does_not_follow() -> None:
    """.6 of the reward asks for .15 at a share of a quarter."""
    assert names({**WELL, "monitor/held_out": 0.14}) == ["held_out_lags"]
    assert names({**WELL, "monitor/held_out": 0.16}) == []
    small = {**WELL, "monitor/reward": 0.2, "monitor/held_out": 0.0, "monitor/reward_at_equal_length": 0.2}
    assert names(small) == []


def test_without_a_held_out_reward_the_others_still_watch() -> None:
    looks = [{k: v for k, v in look.items() if k != "monitor/held_out"} for look in (REFERENCE, WELL)]
    assert alarms_of(looks, MonitorsConfig()) == []
    looks[1]["monitor/repetition"] = 0.3
    assert [alarm.name for alarm in alarms_of(looks, MonitorsConfig())] == ["repetition"]


@pytest.mark.parametrize(
    ("name", "value", "alarm", "words"),
    [
        ("length", 26.2, "length_drift", "26.2 tokens long, +31% against the reference"),
        ("length", 13.0, "length_drift", "13.0 tokens long, -35% against the reference"),
        ("length_explains", 0.6, "length_reward", "explains 60% of the reward's variance"),
        ("reward_at_equal_length", 0.2, "length_gain", "gain of 0.60 reference deviations 0.20 are left"),
        ("repetition", 0.2, "repetition", "20% of an answer's words were in it before (reference 5%)"),
        ("distinct_2", 0.6, "sameness", "distinct-2 fell by 33%"),
        ("overlap", 0.3, "sameness", "30% of an answer's word pairs stand in answers to other prompts"),
        ("ended", 0.6, "ended_less", "60% of the answers end (reference 90%)"),
        ("refusals", 0.2, "refusals", "20% of the answers refuse (reference 0%)"),
    ],
)
def test_each_fault_has_its_alarm(name: str, value: float, alarm: str, words: str) -> None:
    (found,) = alarms_of([REFERENCE, {**WELL, f"monitor/{name}": value}], MonitorsConfig())
    assert found.name == alarm
    assert words in found.line
    assert found.causes in found.line
    assert found.remedy in found.line


def test_the_best_look_is_the_earliest_of_the_highest() -> None:
    looks = [{"monitor/held_out": value} for value in (0.0, 0.5, 0.2, 0.5)]
    assert best_look(looks) == 1
