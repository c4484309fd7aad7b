"""The pairwise (Bradley-Terry) loss."""

from __future__ import annotations

import torch
from torch.nn import functional


def pairwise_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    tie: torch.Tensor,
    weight: torch.Tensor,
    margin: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted mean of -log sigmoid(chosen - rejected - margin) over pairs, all inputs (N,); scalar.

    A tie has the target 1/2: -(log sigmoid(d) + log sigmoid(-d)) / 2, which is least at d = 0. The loss depends on
    differences alone, so a shift of all scores changes nothing. Source: Ouyang et al. 2022 (arXiv 2203.02155),
    equation 1; margins as in Llama 2 (arXiv 2307.09288), equation 2.
    """
    difference = chosen - rejected
    strict = -functional.logsigmoid(difference if margin is None else difference - margin)
    level = -0.5 * (functional.logsigmoid(difference) + functional.logsigmoid(-difference))
    return (weight * torch.where(tie, level, strict)).sum() / weight.sum()
