"""The off-policy alarms: each on the numbers that it exists for, and silent on healthy ones."""

from __future__ import annotations

import pytest
import torch

from humanward.offline import alarms

NAN = float("nan")


def history(**columns: list[float]) -> list[dict[str, float]]:
    """Rows of metrics from columns of one length."""
    count = len(next(iter(columns.values())))
    return [{f"offline/{name}": values[i] for name, values in columns.items()} for i in range(count)]


def at_the_end(rows, held_out: int):
    return alarms.at_the_end(rows, held_out, against_reference=True)


def names(found) -> list[str]:
    return [alarm.name for alarm in found]


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
def test_a_start_that_differs(dtype: torch.dtype, allowed: float) -> None:
    """Ten tokens in all: a difference of ten times what a token may differ by, more or less."""
    lengths = torch.tensor([4, 6])
    assert alarms.log_ratios_at_start(torch.tensor([0.0, -9.9 * allowed]), lengths, dtype) is None
    # Differences that cancel out are differences all the same.
    alarm = alarms.log_ratios_at_start(torch.tensor([6 * allowed, -6 * allowed]), lengths, dtype)
    assert alarm is not None
    assert alarm.name == "kl_at_start"
    assert "before the first update" in alarm.line


def test_labels_out_of_balance() -> None:
    """30 against 20: 1.5 to 1. A desirable weight of 20 / 30 = .67 balances them, .89 is a third above that."""
    alarm = alarms.unbalanced(30, 20, (1.0, 1.0))
    assert alarm is not None
    assert "weigh 1.50 to 1" in alarm.line
    assert "between 0.67 and 0.89" in alarm.line
    assert alarms.unbalanced(30, 20, (0.7, 1.0)) is None
    assert alarms.unbalanced(20, 20, (1.0, 1.0)) is None
    assert alarms.unbalanced(20, 30, (1.0, 1.0)) is not None


def test_likelihood_displacement_on_held_out_prompts() -> None:
    """-3 to -3.6 nats a token with a growing margin; not with a small fall, and not when the margin falls too."""

    def seen(likely: float, margin: float):
        return alarms.displaced(
            history(validation_chosen_logprob=[-3.0, NAN, likely], validation_margin=[0.0, NAN, margin])
        )

    alarm = seen(-3.6, 0.5)
    assert alarm is not None
    assert "by 0.60 nats a token (-3.00 to -3.60)" in alarm.line
    assert seen(-3.4, 0.5) is None
    assert seen(-3.6, -0.1) is None
    assert seen(-2.0, 0.5) is None


def test_likelihood_displacement_without_held_out_prompts() -> None:
    """Quarters of eight steps: -3 and -3.1 against -3.8 and -3.9."""
    likely = [-3.0, -3.1, -3.2, -3.3, -3.4, -3.5, -3.8, -3.9]
    rising = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    nothing = [NAN] * 8
    rows = history(chosen_logprob=likely, margin=rising, validation_chosen_logprob=nothing, validation_margin=nothing)
    alarm = alarms.displaced(rows)
    assert alarm is not None
    assert "by 0.80 nats a token (-3.05 to -3.85)" in alarm.line
    assert alarms.displaced(rows[:1]) is None


def test_sft_cannot_be_displaced() -> None:
    assert alarms.displaced(history(validation_chosen_logprob=[-3.0, -9.0], validation_margin=[NAN, NAN])) is None


def test_a_loss_that_does_not_fall() -> None:
    falling = [0.69, 0.68, 0.67, 0.66, 0.65, 0.64, 0.63, 0.62]
    assert names(at_the_end(history(loss=falling), 0)) == []
    assert names(at_the_end(history(loss=falling[::-1]), 0)) == ["loss_not_falling"]
    assert names(at_the_end(history(loss=[NAN, *falling[::-1][:7]]), 0)) == [], "seven steps say little"


def test_a_held_out_loss_that_rises() -> None:
    assert names(at_the_end(history(validation_loss=[0.69, 0.6, 0.75]), 40)) == ["learnt_by_heart"]
    assert names(at_the_end(history(validation_loss=[0.69, 0.6, 0.65]), 40)) == []
    assert names(at_the_end(history(validation_loss=[3.30, 3.31]), 40)) == [], "a hundredth is noise"


def test_accuracy_at_chance() -> None:
    """Of 100 prompts: 1.96 * .05 = .098 above one half is what chance reaches once in forty times."""

    def seen(accuracy: float, prompts: int) -> list[str]:
        return names(at_the_end(history(validation_accuracy=[0.5, accuracy]), prompts))

    assert seen(0.59, 100) == ["validation_at_chance"]
    assert seen(0.60, 100) == []
    assert seen(0.60, 40) == ["validation_at_chance"]
    assert names(at_the_end(history(validation_accuracy=[NAN, NAN]), 100)) == []
    odds = history(validation_accuracy=[0.58, 0.59])
    assert names(alarms.at_the_end(odds, 100, against_reference=False)) == [], "orpo starts anywhere"


def test_several_at_once() -> None:
    rising = [0.6 + i / 100 for i in range(8)]
    found = at_the_end(history(loss=rising, validation_loss=rising, validation_accuracy=[0.5] * 8), 10)
    assert names(found) == ["loss_not_falling", "learnt_by_heart", "validation_at_chance"]
    assert all("\n" not in alarm.line for alarm in found)
