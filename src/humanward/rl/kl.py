"""Estimators of the KL divergence from samples, and controllers of its coefficient.

For x drawn from p and d = log p(x) - log q(x): k1 = d is unbiased, k2 = d^2 / 2, k3 = exp(-d) - 1 + d is unbiased and
never negative. Source: Schulman, "Approximating KL Divergence" (2020). Only k1 belongs in a reward: k3 there is biased.
"""

from __future__ import annotations

import torch


def k1(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """log p - log q at p's own samples, nats per token, any shape."""
    return logprobs - ref_logprobs


def k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """exp(-d) - 1 + d with d = log p - log q clamped to +-20, nats per token, any shape; never negative."""
    d = (logprobs - ref_logprobs).clamp(-20.0, 20.0)
    return torch.expm1(-d) + d


class FixedKL:
    """A coefficient that stays as it is."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, sequence_kl: float, episodes: int) -> None:
        """Nothing to do."""


class AdaptiveKL:
    """coef *= 1 + clip(KL / target - 1, -.2, .2) * episodes / horizon, after every step.

    ``target`` in nats a sequence, ``horizon`` in episodes. Source: Ziegler et al. 2019 (arXiv 1909.08593), section
    2.2, and openai/lm-human-preferences `train_policy.py: AdaptiveKLController`.
    """

    def __init__(self, coef: float, target: float, horizon: int) -> None:
        self.coef, self.target, self.horizon = coef, target, horizon

    def update(self, sequence_kl: float, episodes: int) -> None:
        """Move the coefficient by what the last ``episodes`` showed on average."""
        error = min(max(sequence_kl / self.target - 1.0, -0.2), 0.2)
        self.coef *= 1.0 + error * episodes / self.horizon
