"""Named alarms of off-policy training: what was seen, likely causes, what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from humanward.alarm import Alarm

START_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
"""Mean difference in nats a token that different packings explain at the start, by dtype: as in humanward.rl.alarms."""

LESS_LIKELY = 0.5
"""Nats a token by which preferred responses may become less likely, their perplexity rising by 65 %.

Some of it is healthy: on the demo policy DPO lowers judged toxicity by four fifths while the preferred responses, which
the policy itself wrote, lose .3 nats a token.
"""

DESIRABLE_RATIO = (1.0, 4 / 3)
"""Where (desirable weight x number) / (undesirable weight x number) should lie: KTO (arXiv:2402.01306), equation 8."""

RISE = 0.02
"""Share by which the loss on held-out prompts may rise: imitating one's own best answers hardly moves it at all."""

STEPS_TO_JUDGE = 8
"""Optimizer steps below which a trend of the loss is not spoken of."""

Metrics = Mapping[str, float]


def log_ratios_at_start(log_ratios: torch.Tensor, lengths: torch.Tensor, dtype: torch.dtype) -> Alarm | None:
    """Before the first update policy and reference are one model: every response's log p/q (N,) must be 0."""
    apart = float(log_ratios.abs().sum() / lengths.sum())
    if apart <= START_TOLERANCE.get(dtype, START_TOLERANCE[torch.bfloat16]):
        return None
    return Alarm(
        "kl_at_start",
        f"policy and reference differ by {apart:.3g} nats a token before the first update, but should be one model",
        "dropout left on, a wrong reference adapter, or padding or position ids that differ",
        "stop this run: its loss does not measure the distance to the reference",
    )


def unbalanced(desirable: int, undesirable: int, weights: tuple[float, float]) -> Alarm | None:
    """For kto: the two kinds should weigh about alike; ``weights`` are those of one response of either kind."""
    low, high = DESIRABLE_RATIO
    ratio = weights[0] * desirable / (weights[1] * undesirable)
    if 0.9 * low <= ratio <= 1.1 * high:
        return None
    balanced = weights[1] * undesirable / desirable
    return Alarm(
        "unbalanced_labels",
        f"{desirable} desirable and {undesirable} undesirable responses weigh {ratio:.2f} to 1",
        "KTO works best between 1 and 1.33 to 1",
        f"set offline.desirable_weight between {balanced:.2g} and {high * balanced:.2g}",
    )


def displaced(history: Sequence[Metrics]) -> Alarm | None:
    """Likelihood displacement: the margin grows because the rejected fall faster than the chosen, which fall too.

    Looks at the held-out responses, else at those trained on. Razin et al. 2024 (arXiv:2410.08847).
    """
    likely, margins = (_values(history, f"offline/validation_{name}") for name in ("chosen_logprob", "margin"))
    count = 1
    if len(likely) < 2:
        likely, margins = (_values(history, f"offline/{name}") for name in ("chosen_logprob", "margin"))
        # Single batches scatter: the mean of the first quarter of the steps against that of the last.
        count = max(1, len(likely) // 4)
    if len(likely) < 2 or len(margins) < 2:
        return None
    (before, after), (low, high) = _ends(likely, count), _ends(margins, count)
    if before - after <= LESS_LIKELY or high <= low:
        return None
    return Alarm(
        "likelihood_displacement",
        f"the preferred responses have become less likely too, by {before - after:.2f} nats a token ({before:.2f} to "
        f"{after:.2f}), while the margin rose",
        "probability moves to responses that nobody ranked, as the loss rewards the difference alone",
        "raise offline.beta, lower offline.learning_rate, or fine-tune on the preferred responses first "
        "(algorithm = 'sft')",
    )


def at_the_end(history: Sequence[Metrics], held_out: int, *, against_reference: bool) -> list[Alarm]:
    """What the metrics of a whole training warn of; ``held_out`` counts the prompts that validation is measured on.

    ``against_reference``: rewards are of policy against reference, so that accuracy starts at one half; orpo's odds do
    not.
    """
    found = []
    losses = _values(history, "offline/loss")
    if len(losses) >= STEPS_TO_JUDGE:
        first, last = _ends(losses, len(losses) // 4)
        if last >= first:
            found.append(
                Alarm(
                    "loss_not_falling",
                    f"the loss did not fall: {first:.4g} in the first quarter of the steps, {last:.4g} in the last",
                    "steps that are too small or too few, or rankings that contradict each other",
                    "raise offline.learning_rate or offline.epochs, or look at the preferences",
                )
            )
    checked = _values(history, "offline/validation_loss")
    if len(checked) > 1 and checked[-1] > (1 + RISE) * checked[0]:
        found.append(
            Alarm(
                "learnt_by_heart",
                f"the loss on held-out prompts rose from {checked[0]:.4g} to {checked[-1]:.4g}",
                "the training responses are learnt by heart, or the steps are too large",
                "lower offline.epochs or offline.learning_rate, or collect more rankings",
            )
        )
    right = _values(history, "offline/validation_accuracy")
    if right and against_reference and held_out and right[-1] - 1.96 * math.sqrt(0.25 / held_out) <= 0.5:
        found.append(
            Alarm(
                "validation_at_chance",
                f"held-out responses are ordered no better than by chance: {right[-1]:.3f} of the pairs on {held_out} "
                "prompts are right",
                "too few rankings, too little training, or too few prompts held out to see a small effect",
                "collect more rankings, train longer, or raise offline.validation_fraction",
            )
        )
    return found


def _ends(values: Sequence[float], count: int) -> tuple[float, float]:
    """The mean of the first ``count`` values and that of the last."""
    return sum(values[:count]) / count, sum(values[-count:]) / count


def _values(history: Sequence[Metrics], name: str) -> list[float]:
    return [row[name] for row in history if name in row and math.isfinite(row[name])]
