"""Advantage estimators. Legend: B batch, R response length."""

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
