"""Ties, margins, label smoothing and the ties' parameter, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from humanward.reward.loss import MODELLED, Ties, log_probabilities, pairwise_loss, parameter_of_share

LOG4 = math.log(4)


def outcome(difference: float, ties: Ties, parameter: float | None = None) -> list[float]:
    """[P(win), P(lose), P(tie)]."""
    given_ = None if parameter is None else torch.tensor(parameter, dtype=torch.float64)
    found = log_probabilities(torch.tensor([difference], dtype=torch.float64), ties, given_)
    return [float(one.exp()) for one in found]


def loss(difference: float, *, tie: bool = False, margin: float | None = None, parameter=None, **options) -> float:
    chosen = torch.tensor([difference], dtype=torch.float64)
    return float(
        pairwise_loss(
            chosen,
            torch.zeros_like(chosen),
            torch.tensor([tie]),
            torch.ones_like(chosen),
            None if margin is None else torch.tensor([margin], dtype=torch.float64),
            parameter=None if parameter is None else torch.tensor(parameter, dtype=torch.float64),
            **options,
        )
    )


def test_davidson_by_hand() -> None:
    """d = log 4: e^(d/2) = 2, e^(-d/2) = 1/2. With nu = 1.5 the sum is 4: 1/2, 1/8, 3/8."""
    assert outcome(LOG4, "davidson", 1.5) == pytest.approx([0.5, 0.125, 0.375], rel=1e-9)
    assert loss(LOG4, ties="davidson", parameter=1.5) == pytest.approx(math.log(2), rel=1e-9)
    assert loss(LOG4, tie=True, ties="davidson", parameter=1.5) == pytest.approx(math.log(8 / 3), rel=1e-9)


def test_rao_and_kupper_by_hand() -> None:
    """d = log 4, eta = log 2: win sigma(log 2) = 2/3, lose sigma(-log 8) = 1/9, tie 2/9 = 3 * (2/3) * (1/9)."""
    assert outcome(LOG4, "rao-kupper", math.log(2)) == pytest.approx([2 / 3, 1 / 9, 2 / 9], rel=1e-9)
    assert loss(LOG4, ties="rao-kupper", parameter=math.log(2)) == pytest.approx(math.log(1.5), rel=1e-9)
    assert loss(LOG4, tie=True, ties="rao-kupper", parameter=math.log(2)) == pytest.approx(math.log(4.5), rel=1e-9)


@given(st.floats(-8, 8), st.floats(0.05, 4), st.sampled_from(MODELLED))
def test_outcomes_sum_to_one_and_swap(difference: float, parameter: float, ties: Ties) -> None:
    win, lose, tie = outcome(difference, ties, parameter)
    assert win + lose + tie == pytest.approx(1, rel=1e-9)
    assert outcome(-difference, ties, parameter) == pytest.approx([lose, win, tie], rel=1e-9)


@given(st.floats(-8, 8), st.sampled_from(MODELLED))
def test_without_room_for_ties_strict_pairs_are_bradley_terrys(difference: float, ties: Ties) -> None:
    win, lose, _ = outcome(difference, ties, 1e-9)
    assert [win, lose] == pytest.approx(outcome(difference, "half")[:2], rel=1e-6)


@pytest.mark.parametrize("ties", ["half", *MODELLED])
def test_a_tie_is_least_at_equal_scores(ties: Ties) -> None:
    parameter = None if ties == "half" else 0.8
    at = [loss(d, tie=True, ties=ties, parameter=parameter) for d in (-2.0, -0.01, 0.0, 0.01, 2.0)]
    assert min(at) == at[2]
    assert at[0] == pytest.approx(at[4], rel=1e-12)


def test_label_smoothing_by_hand() -> None:
    """sigma(log 4) = .8: -(.9 log .8 + .1 log .2). A tie has nothing to smooth."""
    wanted = -(0.9 * math.log(0.8) + 0.1 * math.log(0.2))
    assert loss(LOG4, label_smoothing=0.1) == pytest.approx(wanted, rel=1e-9)
    assert loss(LOG4, tie=True, label_smoothing=0.1) == loss(LOG4, tie=True)


def test_smoothing_and_margin_together() -> None:
    """d - m = log 4 with d = log 4 + 1, m = 1: as without a margin at log 4."""
    assert loss(LOG4 + 1, margin=1.0, label_smoothing=0.1) == pytest.approx(loss(LOG4, label_smoothing=0.1), rel=1e-9)
    assert loss(LOG4 + 1, margin=1.0, ties="davidson", parameter=1.5) == pytest.approx(math.log(2), rel=1e-9)


def test_smoothing_has_its_least_at_a_finite_difference() -> None:
    """The best d of (1 - e) log sigma(d) + e log sigma(-d) has sigma(d) = 1 - e: at e = .2 it is log 4, gradient 0."""
    d = torch.tensor([LOG4], dtype=torch.float64, requires_grad=True)
    one = pairwise_loss(d, torch.zeros_like(d), torch.tensor([False]), torch.ones_like(d), label_smoothing=0.2)
    (gradient,) = torch.autograd.grad(one, d)
    assert float(gradient) == pytest.approx(0, abs=1e-12)


def test_gradients_by_hand() -> None:
    """Davidson: d/dd of -log P(win) is -1/2 + (e^(d/2) - e^(-d/2)) / (2 Z) = -1/2 + (2 - 1/2) / 8 = -5/16 at nu = 1.5,
    and of -log P(tie) 3/16; d/dnu of -log P(tie) is -1/nu + 1/Z = -2/3 + 1/4 = -5/12.
    Rao and Kupper at d = log 4, eta = log 2: d/dd of -log P(win) is -(1 - 2/3) = -1/3."""
    for tie, by_d in ((False, -5 / 16), (True, 3 / 16)):
        d = torch.tensor([LOG4], dtype=torch.float64, requires_grad=True)
        nu = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        one = pairwise_loss(
            d, torch.zeros_like(d), torch.tensor([tie]), torch.ones_like(d), ties="davidson", parameter=nu
        )
        by = torch.autograd.grad(one, (d, nu))
        assert float(by[0]) == pytest.approx(by_d, rel=1e-9)
        assert float(by[1]) == pytest.approx(-5 / 12 if tie else 1 / 4, rel=1e-9)
    d = torch.tensor([LOG4], dtype=torch.float64, requires_grad=True)
    eta = torch.tensor(math.log(2), dtype=torch.float64)
    one = pairwise_loss(
        d, torch.zeros_like(d), torch.tensor([False]), torch.ones_like(d), ties="rao-kupper", parameter=eta
    )
    assert float(torch.autograd.grad(one, d)[0]) == pytest.approx(-1 / 3, rel=1e-9)


def test_the_parameter_begins_where_equal_scores_tie_as_often_as_people_did() -> None:
    """Davidson: nu / (2 + nu) = 1/3 at nu = 1. Rao and Kupper: tanh(eta / 2) = 1/3 at eta = log 2."""
    assert parameter_of_share(1 / 3, "davidson") == pytest.approx(1.0)
    assert parameter_of_share(1 / 3, "rao-kupper") == pytest.approx(math.log(2))
    for ties in MODELLED:
        for share in (0.05, 0.3, 0.7):
            assert outcome(0.0, ties, parameter_of_share(share, ties))[2] == pytest.approx(share)
        assert math.isfinite(parameter_of_share(1.0, ties))
        assert parameter_of_share(0.0, ties) > 0


def test_a_modelled_tie_without_a_parameter_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs its parameter"):
        loss(0.0, ties="davidson")
