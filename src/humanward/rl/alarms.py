"""Named alarms with likely causes. Each function returns a line for a person, or None."""

from __future__ import annotations

import torch

# Measured on the demo policy in bfloat16: over 5,000 tokens, packed in two ways, a mean of 4e-4 and a maximum of .09 at
# the start, a mean of up to 2e-3 late in training. A forgotten temperature or dropout left on give a mean above 2e-2.
START_TOLERANCE = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (5e-3, 0.5)}
"""Mean and largest difference in nats a token that different packings explain, by dtype."""


def kl_at_start(
    logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype
) -> str | None:
    """Before the first update policy and reference are one model: their log-probabilities must agree."""
    difference = (logprobs - ref_logprobs).abs()[mask]
    mean, largest = START_TOLERANCE.get(dtype, START_TOLERANCE[torch.bfloat16])
    if float(difference.mean()) <= mean and float(difference.max()) <= largest:
        return None
    kl = float(torch.where(mask, logprobs - ref_logprobs, 0.0).sum(1).mean())
    return (
        f"KL is {kl:.3f} nats a sequence before the first update (largest token difference "
        f"{float(difference.max()):.3g}), but policy and reference should be one model: look for dropout left on, a "
        "wrong reference adapter, padding or position ids that differ, or a sampling filter applied to one of them"
    )


def ratio_at_start(
    new_logprobs: torch.Tensor, logprobs: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype
) -> str | None:
    """At a step's first minibatch the policy has not moved: ratios must be 1."""
    difference = (new_logprobs - logprobs).abs()[mask]
    mean, largest = START_TOLERANCE.get(dtype, START_TOLERANCE[torch.bfloat16])
    if float(difference.mean()) <= mean and float(difference.max()) <= largest:
        return None
    return (
        f"the probability ratio at the first minibatch is off by up to {float(difference.max()):.3g} nats a token: "
        "look for dropout left on, another temperature, or log-probabilities taken from another engine"
    )


def during(metrics: dict[str, float]) -> list[str]:
    """What the metrics of one step warn of."""
    lines = []
    if metrics["ppo/sequence_kl"] < -1.0:
        lines.append(
            f"KL is {metrics['ppo/sequence_kl']:.2f} nats a sequence: sampled tokens are less probable under the "
            "policy than under the reference, which only a sampling filter or a suppressed end token explains"
        )
    if metrics["ppo/score_std"] < 1e-6:
        lines.append("all scores of a rollout are equal: the reward tells nothing apart (saturated, or a constant)")
    if metrics["ppo/ended"] < 0.05:
        lines.append("fewer than 5 % of the responses end by themselves: raise sampling.max_new_tokens")
    if metrics["ppo/clip_fraction"] > 0.4:
        lines.append(f"{metrics['ppo/clip_fraction']:.0%} of the tokens are clipped: lower ppo.learning_rate")
    if metrics["ppo/entropy"] < 0.1:
        lines.append(
            f"entropy has fallen to {metrics['ppo/entropy']:.3f} nats a token: the policy repeats itself; "
            "raise ppo.kl_coef"
        )
    return lines
