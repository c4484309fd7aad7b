"""The report's pictures of the looks at held-out prompts."""

from __future__ import annotations

from humanward.evaluation.curves import monitor_curves, training_curves

LOOKS = [
    {
        "monitor/step": step,
        "monitor/sequence_kl": 0.5 * step,
        "monitor/reward": 0.3 * step,
        "monitor/held_out": 0.2 - 0.1 * step,
        "monitor/repetition": 0.1,
        "monitor/overlap": 0.2,
    }
    for step in range(4)
]


def test_looks_are_drawn_by_step_and_over_kl() -> None:
    figures = [figure for figure in monitor_curves(LOOKS) if figure is not None]
    assert [figure.title for figure in figures] == ["Held-out prompts", "Held-out prompts over KL", "Repetition"]
    assert [words for _, words in figures[0].key] == ["reward", "held-out reward"]
    assert "square root of sequence KL" in figures[1].picture


def test_a_run_without_looks_has_no_pictures_of_them() -> None:
    assert [figure for figure in training_curves([{"ppo/step": 1}], None) if figure.title.startswith("Held-out")] == []


def test_without_a_held_out_reward_the_reward_stands_alone() -> None:
    looks = [{key: value for key, value in look.items() if key != "monitor/held_out"} for look in LOOKS]
    assert monitor_curves(looks)[0].key == ()
