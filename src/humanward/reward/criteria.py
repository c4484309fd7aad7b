"""A score head for each criterion on one adapter, and how they become one score."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class CriterionHead(nn.Module):
    """One linear head a criterion, all on the same states, combined by weight.

    Criterion c scores s_c = (raw_c - shift_c) / scale_c, mean 0 and standard deviation 1 on reference samples. The
    score is (sum of weight_c s_c - shift) / scale, anchored in the same way. Weights so compare criteria in their own
    standard deviations; only their proportions matter. Starts as ``humanward.models.heads.ScoreHead`` does.
    """

    weights: torch.Tensor
    shifts: torch.Tensor
    scales: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, weights: Mapping[str, float], generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.criteria = tuple(weights)
        self.linear = nn.Linear(width, len(weights))
        nn.init.normal_(self.linear.weight, std=(width + 1) ** -0.5, generator=generator)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("weights", torch.tensor(list(weights.values()), dtype=torch.float32))
        self.register_buffer("shifts", torch.zeros(len(weights)))
        self.register_buffer("scales", torch.ones(len(weights)))
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def by_criterion(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., C) the criteria's scores in float32."""
        return (self.linear(hidden.float()) - self.shifts) / self.scales

    def combine(self, scores: torch.Tensor) -> torch.Tensor:
        """(..., C) scores of the criteria -> (...) scores."""
        return ((scores * self.weights).sum(-1) - self.shift) / self.scale

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (...) combined scores in float32."""
        return self.combine(self.by_criterion(hidden))

    @torch.no_grad()
    def anchor(self, scores: torch.Tensor) -> None:
        """Anchor every criterion, then their combination, on the present scores (N, C) of reference samples."""
        deviations = scores.std(0, correction=0)
        if len(scores) < 2 or not bool((deviations > 0).all()):
            raise ValueError(f"anchoring needs at least two different scores a criterion, got {len(scores)} samples")
        self.shifts += scores.mean(0) * self.scales
        self.scales *= deviations
        total = (((scores - scores.mean(0)) / deviations) * self.weights).sum(-1)
        if float(total.std(correction=0)) == 0:
            raise ValueError("anchoring needs at least two different combined scores")
        self.shift.copy_(total.mean())
        self.scale.copy_(total.std(correction=0))

    @torch.no_grad()
    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(weight (D,), bias ()) of the one linear map that gives the combined score: a sum of linear maps is one."""
        share = self.weights / self.scales / self.scale
        bias = (share * (self.linear.bias - self.shifts)).sum() - self.shift / self.scale
        return share @ self.linear.weight, bias
