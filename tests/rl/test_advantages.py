"""Generalised advantage estimation against tables worked by hand."""

from __future__ import annotations

import pytest
import torch

from humanward.rl.advantages import generalized_advantages, returns_of

# Two rows with the value after the end (bootstrap) in the last column; row 2 ends an episode at t = 3 (discount 0).
REWARDS = [[0.0, 0.0, 1.0, 0.0, -0.5], [0.0, 0.0, 0.0, 0.0, 1.0]]
VALUES = [[1.0, 4.0, -3.0, -2.0, -1.0, -1.0], [-3.0, -2.0, -1.0, 0.0, 5.0, -1.0]]
DISCOUNTS = [[0.99] * 5, [0.9, 0.9, 0.9, 0.0, 0.9]]
# delta, row 1: 0+.99*4-1=2.96  0+.99*-3-4=-6.97  1+.99*-2+3=2.02  0+.99*-1+2=1.01  -.5+.99*-1+1=-.49
# delta, row 2: 0+.9*-2+3=1.2   0+.9*-1+2=1.1     0+.9*0+1=1       0+0-0=0          1+.9*-1-5=-4.9
# lambda 1, row 1 from the end: -.49; 1.01-.99*.49=.5249; 2.02+.99*.5249=2.539651; -6.97+.99*2.539651=-4.45574551;
#   2.96-.99*4.45574551=-1.4511880549.  Row 2: -4.9; 0; 1; 1.1+.9=2; 1.2+.9*2=3.
# lambda .7 (factor .693, .63): -.49; 1.01-.693*.49=.67043; 2.02+.693*.67043=2.48460799; -6.97+.693*2.48460799
#   =-5.24816666293; 2.96-.693*5.24816666293=-.67697949741.  Row 2: -4.9; 0; 1; 1.1+.63=1.73; 1.2+.63*1.73=2.2899.
TABLES = {
    1.0: [[-1.4511880549, -4.45574551, 2.539651, 0.5249, -0.49], [3.0, 2.0, 1.0, 0.0, -4.9]],
    0.7: [[-0.67697949741, -5.24816666293, 2.48460799, 0.67043, -0.49], [2.2899, 1.73, 1.0, 0.0, -4.9]],
}


def f64(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def check_table(gae_lambda: float, generalized_advantages=generalized_advantages) -> None:
    values = f64(VALUES)
    advantages = generalized_advantages(
        f64(REWARDS),
        values[:, :-1],
        f64(DISCOUNTS),
        torch.ones(2, 5).bool(),
        gae_lambda=gae_lambda,
        bootstrap=values[:, -1],
    )
    torch.testing.assert_close(advantages, f64(TABLES[gae_lambda]), rtol=1e-6, atol=1e-12)


def check_padding_leaks_nothing(generalized_advantages=generalized_advantages) -> None:
    """A row followed by padding full of rubbish has the advantages of the bare row; so has one with a masked middle."""
    # Terminal: t=2: 1-.75=.25; t=1: .2+.75+.25=1.2, +.95*.25=1.4375; t=0: -.1-.25-.5=-.85, +.95*1.4375=.515625
    expected = [0.515625, 1.4375, 0.25]
    bare = generalized_advantages(
        f64([[-0.1, 0.2, 1.0]]),
        f64([[0.5, -0.25, 0.75]]),
        torch.ones(1, 3, dtype=torch.float64),
        torch.ones(1, 3).bool(),
        gae_lambda=0.95,
    )
    torch.testing.assert_close(bare, f64([expected]), rtol=1e-6, atol=0)
    nan = float("nan")
    rewards = f64([[-0.1, 0.2, 1.0, nan, 9.0], [-0.1, nan, 0.2, 8.0, 1.0]])
    values = f64([[0.5, -0.25, 0.75, 7.0, nan], [0.5, 6.0, -0.25, nan, 0.75]])
    mask = torch.tensor([[True, True, True, False, False], [True, False, True, False, True]])
    padded = generalized_advantages(rewards, values, torch.ones(2, 5, dtype=torch.float64), mask, gae_lambda=0.95)
    zero = 0.0
    torch.testing.assert_close(
        padded,
        f64([[*expected, zero, zero], [expected[0], zero, expected[1], zero, expected[2]]]),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("gae_lambda", [1.0, 0.7])
def test_tables(gae_lambda: float) -> None:
    check_table(gae_lambda)


def test_padding_leaks_nothing() -> None:
    check_padding_leaks_nothing()


def test_lambda_zero_is_the_one_step_error_and_lambda_one_the_return_less_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    values = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    ones, mask = torch.ones(3, 4, dtype=torch.float64), torch.ones(3, 4).bool()
    one_step = generalized_advantages(rewards, values, ones, mask, gae_lambda=0.0)
    following = torch.cat([values[:, 1:], torch.zeros(3, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(one_step, rewards + following - values, rtol=1e-12, atol=1e-12)
    full = generalized_advantages(rewards, values, ones, mask, gae_lambda=1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(full, to_go - values, rtol=1e-12, atol=1e-12)


def test_returns_are_advantages_plus_values_and_zero_on_padding() -> None:
    mask = torch.tensor([[True, True, False]])
    returns = returns_of(f64([[1.0, -2.0, 0.0]]), f64([[0.5, 4.0, float("nan")]]), mask)
    assert torch.equal(returns, f64([[1.5, 2.0, 0.0]]))


def test_a_constant_that_the_critic_has_absorbed_changes_no_advantage() -> None:
    rewards, values = f64([[0.1, -0.2, 1.0]]), f64([[0.3, 0.2, -0.4]])
    ones, mask = torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 3).bool()
    before = generalized_advantages(rewards, values, ones, mask, gae_lambda=0.95)
    shifted = generalized_advantages(rewards + f64([[0, 0, 5.0]]), values + 5.0, ones, mask, gae_lambda=0.95)
    torch.testing.assert_close(before, shifted, rtol=1e-12, atol=1e-12)
