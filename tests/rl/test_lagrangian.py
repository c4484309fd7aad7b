"""A constraint on a second reward: the combination, its advantages, and the multiplier, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from humanward.rl.advantages import generalized_advantages, leave_one_out_advantages
from humanward.rl.lagrangian import Multiplier, constrained


def test_the_combination() -> None:
    """lambda = 3: (2 - 3 * 1) / 4 = -.25; (-1 - 3 * -2) / 4 = 1.25; without a price the score itself."""
    scores, costs = torch.tensor([2.0, -1.0]).double(), torch.tensor([1.0, -2.0]).double()
    torch.testing.assert_close(constrained(scores, costs, 3.0), torch.tensor([-0.25, 1.25]).double(), rtol=1e-6, atol=0)
    assert torch.equal(constrained(scores, costs, 0.0), scores)


def test_advantages_of_the_combination_are_those_of_safe_rlhf() -> None:
    """GAE and leave-one-out are linear: A(combined) = (A_r - lambda A_c) / (1 + lambda) with V combined alike."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(4)]
    reward, cost, value, cost_value = draw
    mask, price = torch.tensor([[True] * 3, [True, True, False], [True] * 3, [True, False, False]]), 1.7
    reward, cost = reward * mask, cost * mask
    ones = torch.ones_like(reward)

    def gae(rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return generalized_advantages(rewards, values, ones, mask, gae_lambda=0.9)

    apart = (gae(reward, value) - price * gae(cost, cost_value)) / (1 + price)
    together = gae(constrained(reward, cost, price), constrained(value, cost_value, price))
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-12)
    group = torch.tensor([0, 0, 1, 1])
    apart = (leave_one_out_advantages(reward, mask, group) - price * leave_one_out_advantages(cost, mask, group)) / (
        1 + price
    )
    together = leave_one_out_advantages(constrained(reward, cost, price), mask, group)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-12)


def test_the_multiplier_follows_the_violation() -> None:
    """rate .5 from 2: violation .4 moves log lambda by .5 * 2 * .4 = .4; then -1 by .5 * 2 e^.4 * -1 = -e^.4."""
    multiplier = Multiplier(2.0, 0.5, 10.0)
    multiplier.update(0.4)
    assert multiplier.value == pytest.approx(2 * math.exp(0.4), rel=1e-12)
    multiplier.update(-1.0)
    assert multiplier.value == pytest.approx(2 * math.exp(0.4 - math.exp(0.4)), rel=1e-12)


def test_it_rises_to_its_limit_and_comes_back() -> None:
    multiplier = Multiplier(1.0, 1.0, 5.0)
    for _ in range(10):
        multiplier.update(100.0)
    assert multiplier.value == 5.0
    multiplier.update(-100.0)
    assert multiplier.value == pytest.approx(5 * math.exp(-2))  # at most e^2 a step
    assert multiplier.value > 0
