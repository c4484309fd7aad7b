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
