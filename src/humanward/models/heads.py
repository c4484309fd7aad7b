"""Scalar heads on the trunk's states."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class FoldableHead(Protocol):
    """A reward model's head: however it is anchored and put together, a linear map of the state."""

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(weight (D,), bias ()) of the anchored score."""
        ...


class ValueHead(nn.Module):
    """The critic: V = 0 everywhere at the start, so that the first advantages are the rewards themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    @torch.no_grad()
    def from_score_head(cls, head: FoldableHead) -> ValueHead:
        """A critic that begins by saying what the reward model says, anchored."""
        weight, bias = head.folded()
        made = cls(len(weight)).to(weight.device)
        made.linear.weight.copy_(weight[None])
        made.linear.bias.copy_(bias)
        return made

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (...) in float32."""
        return self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1)


class ScoreHead(nn.Module):
    """The reward model's head, normal with standard deviation 1 / sqrt(D + 1) at the start and bias 0.

    ``shift`` and ``scale`` anchor the score after training: (raw - shift) / scale has mean 0 and standard deviation 1
    on reference samples. Source: openai/lm-human-preferences, train_reward.py.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.normal_(self.linear.weight, std=(width + 1) ** -0.5, generator=generator)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (...) anchored scores in float32."""
        return (self.linear(hidden.float()).squeeze(-1) - self.shift) / self.scale

    @torch.no_grad()
    def anchor(self, scores: torch.Tensor) -> None:
        """Anchor on the given present scores of reference samples, (N,), N >= 2 and not all equal."""
        if len(scores) < 2 or float(scores.std(correction=0)) == 0.0:
            raise ValueError(f"anchoring needs at least two different scores, got {len(scores)}")
        self.shift += scores.mean() * self.scale
        self.scale *= scores.std(correction=0)

    @torch.no_grad()
    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(weight (D,), bias ()) of the one linear map that gives the anchored score."""
        return self.linear.weight[0] / self.scale, (self.linear.bias[0] - self.shift) / self.scale
