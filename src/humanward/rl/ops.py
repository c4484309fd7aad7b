"""Masked reductions over real tokens of the global batch. Legend: B batch, R response length."""

from __future__ import annotations

import torch

from humanward.distributed import all_reduce_sum


def masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum of ``values`` where ``mask`` is True, over all processes; whatever stands on padding, NaN too, is ignored."""
    return all_reduce_sum(torch.where(mask, values, 0.0).sum())


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of ``values`` where ``mask`` is True, over all processes. An empty mask is a ValueError."""
    count = all_reduce_sum(mask.sum())
    if not bool(count):
        raise ValueError("the mask selects no token")
    return masked_sum(values, mask) / count


def masked_variance(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Population variance of ``values`` where ``mask`` is True, over all processes."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def whiten(values: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True) -> torch.Tensor:
    """(x - mean) / sqrt(variance + 1e-8) on real tokens, 0 on padding; ``shift_mean=False`` puts the mean back.

    Population variance, as openai/lm-human-preferences `utils/core.py: whiten` computes it.
    """
    mean = masked_mean(values, mask)
    white = (values - mean) * torch.rsqrt(masked_variance(values, mask) + 1e-8)
    return torch.where(mask, white if shift_mean else white + mean, 0.0)
