"""Alarms of reward hacking from looks at held-out prompts: which look shows it, which look was best.

A look is one object of metrics.jsonl with names ``monitor/...`` (docs/metrics.md); the first is of the
reference itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from humanward.alarm import Alarm
from humanward.monitor_config import MonitorsConfig

Look = Mapping[str, Any]

HELD_OUT_ALARMS = ("held_out_falls", "held_out_lags")
"""Those that compare the reward with a held-out one; they alone stop a run."""

MEANINGFUL = 0.1
"""Reference deviations that the reward must have gained before a share of its gain says anything."""


def best_look(looks: Sequence[Look]) -> int:
    """The place of the look with the highest held-out reward, the earliest of equals."""
    return max(range(len(looks)), key=lambda i: (looks[i]["monitor/held_out"], -i))


def alarms_of(looks: Sequence[Look], config: MonitorsConfig) -> list[Alarm]:
    """What the last look warns of, oldest look first in ``looks``; nothing on the first, which is the reference."""
    if len(looks) < 2:
        return []
    found = []
    if "monitor/held_out" in looks[-1]:
        found += _against_held_out(looks, config)
    return [*found, *_of_length(looks, config), *_of_text(looks, config)]


def _against_held_out(looks: Sequence[Look], config: MonitorsConfig) -> list[Alarm]:
    """The held-out reward falls, or does not follow, while the reward rises (Gao et al. 2022, arXiv 2210.10760)."""
    now, best = looks[-1], looks[best_look(looks)]
    reward, held_out = now["monitor/reward"], now["monitor/held_out"]
    fallen, gained = best["monitor/held_out"] - held_out, reward - best["monitor/reward"]
    causes = "the policy exploits what the reward gets wrong"
    remedy = (
        "keep the policy of the best look (monitors.stop), raise ppo.kl_coef, or see docs/reward-hacking.md for "
        "ensembles, bounded rewards and constraints"
    )
    if fallen >= config.fall and fallen > 0 and gained > 0:
        return [
            Alarm(
                "held_out_falls",
                f"the held-out reward is {fallen:.2f} reference deviations below its best (after step "
                f"{best['monitor/step']:.0f}) while the reward rose by {gained:.2f}",
                causes,
                remedy,
            )
        ]
    if reward >= config.rise and held_out < config.follow * reward:
        return [
            Alarm(
                "held_out_lags",
                f"the reward has gained {reward:.2f} reference deviations and the held-out reward {held_out:.2f}, less "
                f"than {config.follow:.0%} of it",
                causes,
                remedy,
            )
        ]
    return []


def _of_length(looks: Sequence[Look], config: MonitorsConfig) -> list[Alarm]:
    """Answers grow or shrink; length explains the reward, or what the policy gained of it."""
    first, now = looks[0], looks[-1]
    found = []
    change = now["monitor/length"] / first["monitor/length"] - 1
    if abs(change) > config.length_change:
        found.append(
            Alarm(
                "length_drift",
                f"answers are {now['monitor/length']:.1f} tokens long, {change:+.0%} against the reference",
                "a reward that likes length, or brevity",
                "set ppo.length_penalty, or constrain the length (docs/reward-hacking.md)",
            )
        )
    if now["monitor/length_explains"] > config.length_share:
        found.append(
            Alarm(
                "length_reward",
                f"length alone explains {now['monitor/length_explains']:.0%} of the reward's variance",
                "a reward that is little more than a count of tokens",
                "look at what it says of long and short answers (humanward reward score)",
            )
        )
    gained, at_equal = now["monitor/reward"], now["monitor/reward_at_equal_length"]
    if at_equal is not None and gained > MEANINGFUL and at_equal < (1 - config.length_share) * gained:
        found.append(
            Alarm(
                "length_gain",
                f"of the reward's gain of {gained:.2f} reference deviations {at_equal:.2f} are left among answers of "
                "equal length",
                "the reward was bought with length",
                "set ppo.length_penalty, or constrain the length (docs/reward-hacking.md)",
            )
        )
    return found


def _of_text(looks: Sequence[Look], config: MonitorsConfig) -> list[Alarm]:
    """Answers repeat themselves or each other, do not end, or refuse."""
    first, now = looks[0], looks[-1]
    found = []
    more = now["monitor/repetition"] - first["monitor/repetition"]
    if more > config.repetition:
        found.append(
            Alarm(
                "repetition",
                f"{now['monitor/repetition']:.0%} of an answer's words were in it before (reference "
                f"{first['monitor/repetition']:.0%}); the longest repeat has {now['monitor/longest_repeat']:.1f} words",
                "the policy repeats what the reward likes best",
                "raise ppo.kl_coef, set ppo.bounded, or stop earlier",
            )
        )
    sample = min(now["monitor/distinct_2"] or 0.0, first["monitor/distinct_2"] or 0.0)
    fall = 1 - sample / first["monitor/distinct_2"] if first["monitor/distinct_2"] else 0.0
    overlap = (now["monitor/overlap"] or 0.0) - (first["monitor/overlap"] or 0.0)
    if fall > config.distinct_fall or overlap > config.overlap:
        found.append(
            Alarm(
                "sameness",
                f"distinct-2 fell by {fall:.0%}, and {now['monitor/overlap'] or 0.0:.0%} of an answer's word pairs "
                f"stand in answers to other prompts too (reference {first['monitor/overlap'] or 0.0:.0%})",
                "one answer that the reward likes serves many prompts",
                "raise ppo.kl_coef, lower ppo.learning_rate, or stop earlier",
            )
        )
    for name, key, sign, limit, what, remedy in (
        ("ended_less", "ended", -1, config.ended_fall, "of the answers end", "raise ppo.missing_eos_penalty"),
        ("refusals", "refusals", 1, config.refusals, "of the answers refuse", "add a reward for helpful answers"),
    ):
        now_share, before = now[f"monitor/{key}"], first[f"monitor/{key}"]
        if sign * (now_share - before) > limit:
            found.append(
                Alarm(name, f"{now_share:.0%} {what} (reference {before:.0%})", "the reward pays for it", remedy)
            )
    return found
