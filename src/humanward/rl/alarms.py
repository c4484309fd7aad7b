"""Named alarms: what was seen, what likely causes it, what helps. Each check returns alarms, or None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from humanward.alarm import Alarm

# Measured on the demo policy in bfloat16, 64 responses packed by 1 to 64: a mean of up to 4.5e-3 and a maximum of .09,
# because small matrices are multiplied by another kernel. A forgotten temperature or dropout left on give a mean above
# 2e-2.
START_TOLERANCE = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (1e-2, 0.5)}
"""Mean and largest difference in nats a token that different packings explain, by dtype."""


PATIENCE = 5
"""Steps in a row in which the critic must explain nothing before that is worth an alarm."""


def kl_at_start(
    logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype
) -> Alarm | None:
    """Before the first update policy and reference are one model: their log-probabilities must agree."""
    difference = (logprobs - ref_logprobs).abs()[mask]
    mean, largest = START_TOLERANCE.get(dtype, START_TOLERANCE[torch.bfloat16])
    if float(difference.mean()) <= mean and float(difference.max()) <= largest:
        return None
    kl = float(torch.where(mask, logprobs - ref_logprobs, 0.0).sum(1).mean())
    return Alarm(
        "kl_at_start",
        f"KL is {kl:.3f} nats a sequence before the first update (largest token difference "
        f"{float(difference.max()):.3g}), but policy and reference should be one model",
        "dropout left on, a wrong reference adapter, padding or position ids that differ, or a sampling filter applied "
        "to one of them",
        "stop this run: its KL penalty does not measure the distance to the reference",
    )


def ratio_at_start(log_ratios: torch.Tensor, dtype: torch.dtype) -> Alarm | None:
    """At a step's first minibatch the policy has not moved: the log-ratios of its real tokens must be 0."""
    difference = log_ratios.abs()
    mean, largest = START_TOLERANCE.get(dtype, START_TOLERANCE[torch.bfloat16])
    if float(difference.mean()) <= mean and float(difference.max()) <= largest:
        return None
    return Alarm(
        "ratio_at_start",
        f"the probability ratio at the first minibatch is off by up to {float(difference.max()):.3g} nats a token",
        "dropout left on, another temperature, or log-probabilities taken from another engine",
        "stop this run: it learns from ratios that mean nothing",
    )


def during(history: Sequence[Mapping[str, float]], *, warmup_steps: int) -> list[Alarm]:
    """What the metrics of the last step warn of; ``history`` holds those of all steps so far, oldest first.

    ``warmup_steps``: steps in which the critic alone learns, and may still explain nothing.
    """
    now, first = history[-1], history[0]
    found = []
    if now["ppo/sequence_kl"] < -1.0:
        found.append(
            Alarm(
                "negative_kl",
                f"KL is {now['ppo/sequence_kl']:.2f} nats a sequence: sampled tokens are less probable under the "
                "policy than under the reference",
                "a sampling filter, a suppressed end token, or a generation engine of other weights",
                "sample without filters; a true KL is never negative",
            )
        )
    if now["ppo/score_std"] < 1e-6:
        found.append(
            Alarm(
                "equal_scores",
                "all scores of a rollout are equal",
                "a saturated or constant reward, a wrong label, or score_clip too small",
                "look at reward.source and at what it says of a few texts (humanward reward score)",
            )
        )
    if now["ppo/ended"] < 0.05:
        found.append(
            Alarm(
                "all_truncated",
                f"{1 - now['ppo/ended']:.0%} of the responses are cut off before their end",
                "max_new_tokens too small, or a model that never learned to end (a base model, a wrong stop token)",
                "raise sampling.max_new_tokens, set sampling.stop, or begin with --algorithm sft",
            )
        )
    if now["ppo/clip_fraction"] > 0.4:
        found.append(
            Alarm(
                "clip_fraction",
                f"{now['ppo/clip_fraction']:.0%} of the tokens are clipped",
                "steps too large for the clip range",
                "lower ppo.learning_rate or ppo.epochs",
            )
        )
    if now["ppo/entropy"] < max(0.1, 0.25 * first["ppo/entropy"]):
        found.append(
            Alarm(
                "entropy_collapse",
                f"entropy has fallen from {first['ppo/entropy']:.2f} to {now['ppo/entropy']:.2f} nats a token",
                "the policy repeats what the reward likes best",
                "raise ppo.kl_coef, lower ppo.learning_rate, or stop earlier",
            )
        )
    explained = [step["ppo/explained_variance"] for step in history[warmup_steps:] if "ppo/explained_variance" in step]
    if len(explained) > PATIENCE and max(explained[-PATIENCE:]) <= 0.0:
        found.append(
            Alarm(
                "critic_explains_nothing",
                f"the critic explains none of the returns' variance ({explained[-1]:.2f})",
                "a critic that learns too slowly or too fast, or too short a warm-up",
                "change ppo.critic_learning_rate, raise ppo.critic_warmup_steps, or use --algorithm rloo",
            )
        )
    return found
