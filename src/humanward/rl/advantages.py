"""Advantage estimators, pure functions of tensors. Legend: B batch, R response length."""

from __future__ import annotations

import torch


def generalized_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    discounts: torch.Tensor,
    mask: torch.Tensor,
    *,
    gae_lambda: float,
    bootstrap: torch.Tensor | None = None,
) -> torch.Tensor:
    """(B, R) A_t = delta_t + discount_t * lambda * A_{t+1} with delta_t = r_t + discount_t * V_{t+1} - V_t.

    All inputs are (B, R); ``discounts`` holds gamma for every step (0 ends an episode inside a row), ``bootstrap``
    (B,) the value after the last real token (default 0: a response is a whole episode). Masked tokens have advantage
    0, and the state of the recursion passes over them unchanged, so padding never leaks in. Source: Schulman et al.
    2016 (arXiv 1506.02438), equation 16.
    """
    following_value = torch.zeros_like(values[:, 0]) if bootstrap is None else bootstrap
    following_advantage = torch.zeros_like(following_value)
    advantages = torch.zeros_like(values)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + discounts[:, t] * following_value - values[:, t]
        advantage = delta + discounts[:, t] * gae_lambda * following_advantage
        real = mask[:, t]
        advantages[:, t] = torch.where(real, advantage, 0.0)
        following_advantage = torch.where(real, advantage, following_advantage)
        following_value = torch.where(real, values[:, t], following_value)
    return advantages


def returns_of(advantages: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, R) what the critic learns: advantages + values, taken before any whitening; 0 on padding."""
    return torch.where(mask, advantages + values, 0.0)


def leave_one_out_advantages(rewards: torch.Tensor, mask: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """(B, R) RLOO: a response's summed reward less the mean of the other responses to its prompt, on every real token.

    ``rewards`` (B, R) after the KL penalty, 0 on padding; ``group`` (B,) numbers the prompt. A prompt with one response
    is a ValueError. Source: Ahmadian et al. 2024 (arXiv 2402.14740), section 3.2; Kool et al. 2019.
    """
    totals = rewards.sum(1)
    sums, counts = _by_group(totals, group)
    others = (sums - totals) / (counts - 1)
    return torch.where(mask, (totals - others)[:, None], 0.0)


def group_relative_advantages(
    rewards: torch.Tensor, mask: torch.Tensor, group: torch.Tensor, *, scale: bool
) -> torch.Tensor:
    """(B, R) GRPO: a response's summed reward less its prompt's mean, over their standard deviation, on real tokens.

    The standard deviation has n - 1 in its denominator and 1e-4 added. Without ``scale`` the difference stays as it is
    (Dr. GRPO: Liu et al. 2025, arXiv 2503.20783, section 3.1). Source: Shao et al. 2024 (arXiv 2402.03300), section
    4.1.2, where the KL penalty is not in the reward but in the loss.
    """
    totals = rewards.sum(1)
    sums, counts = _by_group(totals, group)
    differences = totals - sums / counts
    if scale:
        squares, _ = _by_group(differences**2, group)
        differences = differences / ((squares / (counts - 1)).sqrt() + 1e-4)
    return torch.where(mask, differences[:, None], 0.0)


def _by_group(values: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of ``values`` over each row's group, size of each row's group), both (B,)."""
    groups = int(group.max()) + 1
    sums = values.new_zeros(groups).index_add(0, group, values)
    counts = values.new_zeros(groups).index_add(0, group, torch.ones_like(values))
    if bool((counts[group] < 2).any()):
        raise ValueError("a prompt has one response, so there is nothing to compare it with; sample two or more")
    return sums[group], counts[group]
