"""The clipped losses against numbers worked by hand, finite differences, and extreme inputs."""

from __future__ import annotations

import math

import pytest
import torch

from humanward.rl.losses import log_ratio, policy_loss_sum, value_loss_sum


def f64(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def check_policy_golden(policy_loss_sum=policy_loss_sum) -> None:
    """Logits [1,1,1], [2,0,0], [-1,-2,-3]; old ones the same but [-3,-2,-1] in row 3; actions 0, 1, 2; clip .2.

    Rows 1 and 2 have ratio 1. Row 3: p = e^-2 / Z and old p = 1 / Z with Z = 1 + e^-1 + e^-2, so its ratio is e^-2.
    A = .3, .2, .1: -(.3 + .2 + min(.1 e^-2, .1 * .8)) / 3 = -(.5 + .0135335283) / 3 = -.1711778428.
    A negated: (.3 + .2 + max(.1 e^-2, .08)) / 3 = .58 / 3, and the clip counts in row 3.
    """
    new = f64([[1, 1, 1], [2, 0, 0], [-1, -2, -3]]).log_softmax(-1)[torch.arange(3), torch.arange(3)][None]
    old = f64([[1, 1, 1], [2, 0, 0], [-3, -2, -1]]).log_softmax(-1)[torch.arange(3), torch.arange(3)][None]
    advantages, mask = f64([[0.3, 0.2, 0.1]]), torch.ones(1, 3).bool()
    loss, clipped = policy_loss_sum(new, old, advantages, mask, clip_range=0.2)
    assert float(loss) / 3 == pytest.approx(-0.171177843, rel=1e-6)
    assert float(loss) == pytest.approx(-(0.5 + 0.1 * math.exp(-2)), rel=1e-12)
    assert int(clipped) == 0
    loss, clipped = policy_loss_sum(new, old, -advantages, mask, clip_range=0.2)
    assert float(loss) / 3 == pytest.approx(0.58 / 3, rel=1e-6)
    assert int(clipped) == 1


def check_value_golden(value_loss_sum=value_loss_sum) -> None:
    """V at collection 0, clip .2, so V = .5 is clipped to .2.

    V = .5, R = 1: max(.5^2, .8^2) = .64 (the clip counts); V = .5, R = -1: max(1.5^2, 1.2^2) = 2.25;
    V = .1, R = 1: .9^2 = .81 both ways. Half their sum: .5 * 3.70 = 1.85.
    From V = 3, R = 4: V = 3.5, clipped to 3.2: max(.5^2, .8^2) = .64; V = 2.5, to 2.8: max(1.5^2, 1.2^2) = 2.25.
    Half: 1.445.
    """
    loss, clipped = value_loss_sum(
        f64([[0.5, 0.5, 0.1]]), f64([[0, 0, 0]]), f64([[1, -1, 1]]), torch.ones(1, 3).bool(), clip_range=0.2
    )
    assert float(loss) == pytest.approx(1.85, rel=1e-12)
    assert int(clipped) == 1
    loss, clipped = value_loss_sum(
        f64([[3.5, 2.5]]), f64([[3, 3]]), f64([[4, 4]]), torch.ones(1, 2).bool(), clip_range=0.2
    )
    assert float(loss) == pytest.approx(1.445, rel=1e-12)
    assert int(clipped) == 1


def test_policy_golden() -> None:
    check_policy_golden()


def test_value_golden() -> None:
    check_value_golden()


def test_padding_counts_for_nothing() -> None:
    nan = float("nan")
    mask = torch.tensor([[True, False, False]])
    loss, clipped = policy_loss_sum(
        f64([[-1.0, nan, 0.0]]), f64([[-1.0, -2.0, nan]]), f64([[2.0, nan, 5.0]]), mask, clip_range=0.2
    )
    assert float(loss) == -2.0
    assert int(clipped) == 0
    loss, clipped = value_loss_sum(
        f64([[1.0, nan, 9.0]]), f64([[1.0, 0.0, nan]]), f64([[3.0, nan, 0.0]]), mask, clip_range=0.2
    )
    assert float(loss) == 2.0
    assert int(clipped) == 0


def numeric_gradient(function, at: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """Central differences, one coordinate at a time."""
    gradient = torch.zeros_like(at)
    for i in range(at.numel()):
        high, low = at.clone(), at.clone()
        high.view(-1)[i] += step
        low.view(-1)[i] -= step
        gradient.view(-1)[i] = (function(high) - function(low)) / (2 * step)
    return gradient


def test_policy_gradient_by_finite_differences() -> None:
    old = f64([[-1.0, -1.0, -1.0, -1.0], [-2.0, -2.0, -2.0, -2.0]])
    new = old + f64([[0.05, 0.5, -0.5, 0.0], [0.5, -0.5, -0.1, 0.3]])
    advantages = f64([[1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, 5.0]])
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return policy_loss_sum(x, old, advantages, mask, clip_range=0.2)[0]

    at = new.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(at), at)
    torch.testing.assert_close(gradient, numeric_gradient(loss, new), rtol=1e-6, atol=1e-8)
    # Where the clip holds the update back there is no gradient: A > 0 beyond 1.2, A < 0 below .8; and none on padding.
    assert gradient[0, 1] == 0
    assert gradient[1, 1] == 0
    assert gradient[1, 3] == 0
    assert gradient[0, 0] == pytest.approx(-math.exp(0.05), rel=1e-12)


def test_value_gradient_by_finite_differences() -> None:
    values = f64([[0.0, 0.0, 0.0, 0.0]])
    new, returns = f64([[0.5, 0.5, 0.1, -0.7]]), f64([[1.0, -1.0, 1.0, 2.0]])
    mask = torch.tensor([[True, True, True, True]])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return value_loss_sum(x, values, returns, mask, clip_range=0.2)[0]

    at = new.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(at), at)
    torch.testing.assert_close(gradient, numeric_gradient(loss, new), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("delta", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_log_ratios_stay_finite(delta: float, dtype: torch.dtype) -> None:
    old, mask = torch.tensor([[-1.0, -1.0]], dtype=dtype), torch.ones(1, 2).bool()
    new = (old + delta).requires_grad_(True)
    assert log_ratio(new, old).abs().max() == 20
    loss, _ = policy_loss_sum(new, old, torch.tensor([[1.0, -1.0]], dtype=dtype), mask, clip_range=0.2)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(new.grad).all())


@pytest.mark.parametrize("delta", [1e4, -1e4])
def test_extreme_values_stay_finite(delta: float) -> None:
    """V = 1e4, R = 0, clip .2: half the larger square is 5e7 and its gradient V itself."""
    new, old = torch.tensor([[delta]], requires_grad=True), torch.zeros(1, 1)
    loss, _ = value_loss_sum(new, old, old, torch.ones(1, 1).bool(), clip_range=0.2)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(5e7, rel=1e-6)
    assert float(new.grad) == pytest.approx(delta, rel=1e-6)


def test_ratio_one_gives_minus_the_advantages() -> None:
    old, advantages = f64([[-1.0, -3.0]]), f64([[0.7, -0.2]])
    loss, clipped = policy_loss_sum(old, old, advantages, torch.ones(1, 2).bool(), clip_range=0.2)
    assert float(loss) == pytest.approx(-0.5, rel=1e-12)
    assert int(clipped) == 0
