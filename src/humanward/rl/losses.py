"""PPO's losses as pure functions. Legend: B batch, R response length.

Each returns a SUM over real tokens: the trainer divides by the number of real tokens of the whole minibatch, so that
micro-batches and processes of unequal length give the same gradient as one big batch.
"""

from __future__ import annotations

import torch

LOG_RATIO_LIMIT = 20.0


def log_ratio(new_logprobs: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """log pi_new - log pi_old, clamped to +-20 so that its exponential stays finite; any shape."""
    return (new_logprobs - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def policy_loss_sum(
    new_logprobs: torch.Tensor,
    logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_range: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of -min(ratio A, clip(ratio) A), number of tokens where the clip is what counts), all inputs (B, R).

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    ratio = log_ratio(new_logprobs, logprobs).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss = torch.where(mask, torch.maximum(unclipped, clipped), 0.0).sum()
    return loss, ((clipped > unclipped) & mask).sum()


def value_loss_sum(
    new_values: torch.Tensor,
    values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_range: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of .5 max((V - R)^2, (clip(V) - R)^2), number of tokens where the clip is what counts), all inputs (B, R).

    V is clipped to +-``clip_range`` around its value at collection. Source: openai/baselines ppo2 `model.py`.
    """
    clipped_values = values + (new_values - values).clamp(-clip_range, clip_range)
    unclipped = (new_values - returns) ** 2
    clipped = (clipped_values - returns) ** 2
    loss = 0.5 * torch.where(mask, torch.maximum(unclipped, clipped), 0.0).sum()
    return loss, ((clipped > unclipped) & mask).sum()
