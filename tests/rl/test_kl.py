"""KL estimators and controllers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from humanward.rl.kl import AdaptiveKL, FixedKL, k1, k3


def f64(row) -> torch.Tensor:
    return torch.tensor(row, dtype=torch.float64)


def test_both_estimators_are_unbiased() -> None:
    """p = 1/2 1/4 1/4, q = 1/4 1/4 1/2: KL(p, q) = 1/2 log 2 + 1/4 * 0 - 1/4 log 2 = 1/4 log 2."""
    p, q = f64([0.5, 0.25, 0.25]), f64([0.25, 0.25, 0.5])
    expected = 0.25 * math.log(2)
    assert float((p * k1(p.log(), q.log())).sum()) == pytest.approx(expected, rel=1e-12)
    assert float((p * k3(p.log(), q.log())).sum()) == pytest.approx(expected, rel=1e-12)


def test_k3_values() -> None:
    """d = log 2: 1/2 - 1 + log 2; d = -log 2: 2 - 1 - log 2; d = 0: 0."""
    d = f64([math.log(2), -math.log(2), 0.0])
    expected = f64([math.log(2) - 0.5, 1 - math.log(2), 0.0])
    torch.testing.assert_close(k3(d, torch.zeros_like(d)), expected, rtol=1e-12, atol=0)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_k3_is_never_negative_and_always_finite(left: float, right: float) -> None:
    value = float(k3(f64([left]), f64([right])))
    assert value >= 0
    assert math.isfinite(value)
    assert float(k1(f64([left]), f64([right]))) == left - right


def reward_gradient(p: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Gradient over logits of E_p[penalty], the penalty a reward, held constant: p_i (penalty_i - E[penalty])."""
    return p * (penalty - (p * penalty).sum())


def test_k3_in_the_reward_is_biased_and_k1_is_not() -> None:
    """Every outcome enumerated: p = 1/2 1/4 1/4 by its logits, q = 1/4 1/4 1/2, L = log 2.

    k1 = L, 0, -L, mean L/4: gradient 1/2 * 3L/4, 1/4 * -L/4, 1/4 * -5L/4 = L (6, -1, -5) / 16, that of KL(p, q).
    k3 = L - 1/2, 0, 1 - L, mean L/4: gradient 1/2 (3L/4 - 1/2), 1/4 * -L/4, 1/4 (1 - 5L/4)
       = L (6, -1, -5) / 16 - (1/4, 0, -1/4): off by -(p - q), the gradient of KL(q, p) taken away.
    k3 as a loss, differentiated itself: sum of p (1 - q / p) grad log p = p - q = 1/4, 0, -1/4, that of KL(q, p).
    """
    log2 = math.log(2)
    p, q = f64([0.5, 0.25, 0.25]), f64([0.25, 0.25, 0.5])
    true = f64([6, -1, -5]) * log2 / 16
    logits = p.log().requires_grad_(True)
    new = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad((new.exp() * (new - q.log())).sum(), logits, retain_graph=True)
    torch.testing.assert_close(exact, true, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(reward_gradient(p, k1(p.log(), q.log())), true, rtol=1e-6, atol=0)
    biased = reward_gradient(p, k3(p.log(), q.log()))
    torch.testing.assert_close(biased, true - f64([0.25, 0, -0.25]), rtol=1e-6, atol=0)
    (as_loss,) = torch.autograd.grad((p * k3(new, q.log())).sum(), logits)
    torch.testing.assert_close(as_loss, f64([0.25, 0, -0.25]), rtol=1e-6, atol=1e-12)


def test_k3_in_the_reward_hardly_pulls_near_the_reference() -> None:
    """p off q by e: k1's pull is of the order e, k3's (one divergence less the other) of the order e^2: it cancels."""
    q = f64([0.25, 0.25, 0.5])
    pulls = []
    for e in (1e-3, 1e-4):
        p = (q.log() + f64([e, 0, 0])).softmax(-1)
        pulls.append([float(reward_gradient(p, k(p.log(), q.log())).norm()) for k in (k1, k3)])
    (k1_far, k3_far), (k1_near, k3_near) = pulls
    assert k1_far / k1_near == pytest.approx(10, rel=0.01)
    assert k3_far / k3_near == pytest.approx(100, rel=0.01)
    assert k3_near < 1e-4 * k1_near


def test_small_differences_do_not_cancel() -> None:
    """k3 = d^2 / 2 - d^3 / 6 + ...: at d = 1e-6, 5e-13; exp(-d) - 1 without expm1 would keep no digit of it."""
    assert float(k3(f64([1e-6]), f64([0.0]))) == pytest.approx(5e-13, rel=1e-3)


def check_adaptive_closed_form(controller=AdaptiveKL) -> None:
    """Target 6 nats, horizon 10,000, 64 episodes.

    KL 12: error clip(1) = .2, factor 1 + .2 * 64 / 10000 = 1.00128.   KL 6.6: error .1, factor 1.00064.
    KL 6: unchanged.   KL 0: error clip(-1) = -.2, factor .99872.
    """
    for kl, factor in ((12.0, 1.00128), (6.6, 1.00064), (6.0, 1.0), (0.0, 0.99872)):
        kept = controller(0.05, target=6.0, horizon=10_000)
        kept.update(kl, 64)
        assert kept.coef == pytest.approx(0.05 * factor, rel=1e-12)


def test_adaptive_closed_form() -> None:
    check_adaptive_closed_form()


def test_adaptive_updates_multiply() -> None:
    controller = AdaptiveKL(0.1, target=2.0, horizon=100)
    controller.update(2.2, 10)  # error .1: 1 + .1 * .1 = 1.01
    controller.update(1.0, 50)  # error -.2: 1 - .2 * .5 = .9
    assert controller.coef == pytest.approx(0.1 * 1.01 * 0.9, rel=1e-12)


def test_fixed_stays() -> None:
    controller = FixedKL(0.05)
    controller.update(1e9, 64)
    assert controller.coef == 0.05
