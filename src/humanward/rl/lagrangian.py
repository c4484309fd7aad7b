"""A constraint on a second reward, held by a Lagrange multiplier. Legend: B batch."""

from __future__ import annotations

import math

import torch


def constrained(scores: torch.Tensor, costs: torch.Tensor, multiplier: float) -> torch.Tensor:
    """(B,): (r - lambda c) / (1 + lambda) of scores r and costs c.

    Advantages of the family are linear in the scores (grpo's but for its division by the standard deviation), so those
    of this sum are (A_r - lambda A_c) / (1 + lambda), with one critic for both. Source: Dai et al. 2023, Safe RLHF
    (arXiv 2310.12773), appendix B, which trains a critic for each.
    """
    return (scores - multiplier * costs) / (1 + multiplier)


class Multiplier:
    """lambda > 0: after each step log lambda rises by rate * lambda * violation, up to ``largest``.

    violation = mean cost of the step's episodes, above 0 where the constraint does not hold. This is gradient ascent in
    log lambda on lambda * violation. Source: Dai et al. 2023 (arXiv 2310.12773), section 3.2.
    """

    def __init__(self, start: float, rate: float, largest: float) -> None:
        self.value, self.rate, self.largest = start, rate, largest

    def update(self, violation: float) -> None:
        """Learn from the mean cost of one step."""
        # The exponent is bounded: one wild cost must not overflow, and lambda must be able to come back from it.
        moved = max(-2.0, min(2.0, self.rate * self.value * violation))
        self.value = min(self.largest, self.value * math.exp(moved))
