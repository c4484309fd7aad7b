"""Named alarms of off-policy training with likely causes. Each function returns a line for a person, or None."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

START_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-3}
"""Mean difference in nats a token that different packings explain at the start, by dtype (humanward.rl.alarms)."""

LESS_LIKELY = 0.25
"""Nats a token by which preferred responses may become less likely: their perplexity rises by 28 %."""

DESIRABLE_RATIO = (1.0, 4 / 3)
"""Where (desirable weight x number) / (undesirable weight x number) should lie: KTO (arXiv:2402.01306), equation 8."""

STEPS_TO_JUDGE = 8
"""Optimizer steps below which a trend of the loss is not spoken of."""

Metrics = Mapping[str, float]


def log_ratios_at_start(log_ratios: torch.Tensor, lengths: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Before the first update policy and reference are one model: every response's log p/q (N,) must be 0."""
    apart = float(log_ratios.abs().sum() / lengths.sum())
    if apart <= START_TOLERANCE.get(dtype, START_TOLERANCE[torch.bfloat16]):
        return None
    return (
        f"policy and reference differ by {apart:.3g} nats a token before the first update, but should be one model: "
        "look for dropout left on, a wrong reference adapter, or padding or position ids that differ"
    )


def unbalanced(desirable: int, undesirable: int, weights: tuple[float, float]) -> str | None:
    """For kto: the two kinds should weigh about alike; ``weights`` are those of one response of either kind."""
    low, high = DESIRABLE_RATIO
    ratio = weights[0] * desirable / (weights[1] * undesirable)
    if low * 0.9 <= ratio <= high * 1.1:
        return None
    balanced = weights[1] * undesirable / desirable
    return (
        f"{desirable} desirable and {undesirable} undesirable responses weigh {ratio:.2f} to 1; KTO works best between "
        f"1 and 1.33 to 1: set offline.desirable_weight between {balanced:.2g} and {high * balanced:.2g}"
    )


def displaced(history: Sequence[Metrics]) -> str | None:
    """Likelihood displacement: the margin grows because the rejected fall faster than the chosen, which fall too.

    Looks at the held-out responses, else at those trained on. Razin et al. 2024 (arXiv:2410.08847).
    """
    likely, margins = (_values(history, f"offline/validation_{name}") for name in ("chosen_logprob", "margin"))
    share = 1
    if len(likely) < 2:
        likely, margins = (_values(history, f"offline/{name}") for name in ("chosen_logprob", "margin"))
        # Single batches scatter: the mean of the first quarter of the steps against that of the last.
        share = max(1, len(likely) // 4)
    if len(likely) < 2 or len(margins) < 2:
        return None
    (before, after), (low, high) = _ends(likely, share), _ends(margins, share)
    if before - after <= LESS_LIKELY or high <= low:
        return None
    return (
        f"the preferred responses have become less likely too, by {before - after:.2f} nats a token ({before:.2f} to "
        f"{after:.2f}), while the margin rose: probability moves to responses that nobody ranked. Raise offline.beta, "
        "lower offline.learning_rate, or fine-tune on the preferred responses first (algorithm = 'sft')"
    )


def at_the_end(history: Sequence[Metrics], held_out: int) -> list[str]:
    """What the metrics of a whole training warn of; ``held_out`` counts the prompts that validation is measured on."""
    lines = []
    losses = _values(history, "offline/loss")
    if len(losses) >= STEPS_TO_JUDGE:
        first, last = _ends(losses, len(losses) // 4)
        if last >= first:
            lines.append(
                f"the loss did not fall ({first:.4g} in the first quarter of the steps, {last:.4g} in the last): raise "
                "offline.learning_rate or offline.epochs, or look at the preferences"
            )
    checked = _values(history, "offline/validation_loss")
    if len(checked) > 1 and checked[-1] > checked[0]:
        lines.append(
            f"the loss on held-out prompts rose from {checked[0]:.4g} to {checked[-1]:.4g}: the training pairs are "
            "learnt by heart. Lower offline.epochs or offline.learning_rate, or collect more rankings"
        )
    right = _values(history, "offline/validation_accuracy")
    if right and held_out and right[-1] - 1.96 * math.sqrt(0.25 / held_out) <= 0.5:
        lines.append(
            f"held-out pairs are ordered no better than by chance ({right[-1]:.3f} of those on {held_out} prompts): "
            "collect more rankings, train longer, or hold out more prompts to see a small effect"
        )
    return lines


def _ends(values: Sequence[float], count: int) -> tuple[float, float]:
    """The mean of the first ``count`` values and that of the last."""
    return sum(values[:count]) / count, sum(values[-count:]) / count


def _values(history: Sequence[Metrics], name: str) -> list[float]:
    return [row[name] for row in history if name in row and math.isfinite(row[name])]
