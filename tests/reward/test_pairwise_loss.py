"""The pairwise loss and the score head against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from humanward.models.heads import ScoreHead, ValueHead
from humanward.reward.loss import pairwise_loss


def loss(differences: list[float], ties: list[bool], weights: list[float], shift: float = 0.0, margin=None) -> float:
    chosen = torch.tensor(differences, dtype=torch.float64) + shift
    rejected = torch.full_like(chosen, shift)
    given = None if margin is None else torch.tensor(margin, dtype=torch.float64)
    return float(pairwise_loss(chosen, rejected, torch.tensor(ties), torch.tensor(weights, dtype=torch.float64), given))


def test_golden() -> None:
    """sigmoid(log 3) = 3/4, sigmoid(-log 3) = 1/4: losses -log 3/4 and -log 1/4; a tie takes their mean."""
    d = math.log(3)
    right, wrong = -math.log(0.75), -math.log(0.25)
    assert loss([d], [False], [1.0]) == pytest.approx(right, rel=1e-6)
    assert loss([-d], [False], [1.0]) == pytest.approx(wrong, rel=1e-6)
    assert loss([d], [True], [1.0]) == pytest.approx((right + wrong) / 2, rel=1e-6)
    assert loss([0.0], [False], [1.0]) == pytest.approx(math.log(2), rel=1e-6)
    # Weights 1 and 3: (1 * right + 3 * wrong) / 4
    assert loss([d, -d], [False, False], [1.0, 3.0]) == pytest.approx((right + 3 * wrong) / 4, rel=1e-6)


def test_a_margin_is_taken_off_the_difference() -> None:
    assert loss([math.log(3) + 2.0], [False], [1.0], margin=[2.0]) == pytest.approx(-math.log(0.75), rel=1e-6)


@pytest.mark.parametrize("shift", [-100.0, 0.5, 1000.0])
def test_a_shift_of_all_scores_changes_nothing(shift: float) -> None:
    plain = loss([0.3, -2.0, 1.0], [False, False, True], [1.0, 0.5, 2.0])
    assert loss([0.3, -2.0, 1.0], [False, False, True], [1.0, 0.5, 2.0], shift=shift) == pytest.approx(plain, rel=1e-9)


def test_gradient_by_finite_differences_and_by_hand() -> None:
    """d/dc of -log sigmoid(x), x = c - r - margin, is -sigmoid(-x); of a tie, sigmoid(x) - 1/2; both are weighted.

    c - r - m = log 3: -1/4. A tie at d = -log 3: 1/4 - 1/2 = -1/4. c - r = -log 3: -3/4. Weights 1, 2, 1: over 4.
    The rejected side has the opposite gradient, so a shift of all scores is never learnt.
    """
    d = math.log(3)
    chosen = torch.tensor([d + 0.5, -d, 1.0 - d], dtype=torch.float64)
    rejected = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    tie, weight = torch.tensor([False, True, False]), torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    margin = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)

    def at(c: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return pairwise_loss(c, r, tie, weight, margin)

    c, r = chosen.clone().requires_grad_(True), rejected.clone().requires_grad_(True)
    by_chosen, by_rejected = torch.autograd.grad(at(c, r), (c, r))
    expected = torch.tensor([-0.25 * 1, -0.25 * 2, -0.75 * 1], dtype=torch.float64) / 4
    torch.testing.assert_close(by_chosen, expected, rtol=1e-6, atol=0)
    assert torch.equal(by_rejected, -by_chosen)
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-6
        slope = (at(chosen + step, rejected) - at(chosen - step, rejected)) / 2e-6
        assert float(slope) == pytest.approx(float(expected[i]), rel=1e-6)


def test_a_tie_is_least_at_equal_scores() -> None:
    at_zero = loss([0.0], [True], [1.0])
    assert at_zero == pytest.approx(math.log(2), rel=1e-12)
    for d in (-3.0, -0.1, 0.1, 3.0):
        assert loss([d], [True], [1.0]) > at_zero
        assert loss([d], [True], [1.0]) == pytest.approx(loss([-d], [True], [1.0]), rel=1e-12)


def test_extreme_differences_stay_finite() -> None:
    assert loss([-1e4], [False], [1.0]) == pytest.approx(1e4, rel=1e-9)
    assert loss([1e4], [False], [1.0]) == 0


def test_the_score_head_starts_with_the_published_moments() -> None:
    """4,096 draws: the standard error of the deviation is 1.1 %, of the mean 1.6 % of it; 6 and 8 % are 5 of them
    (false alarm 1e-6 over seeds; the seed is fixed)."""
    head = ScoreHead(4096, torch.Generator().manual_seed(0))
    deviation = 1 / math.sqrt(4097)
    assert float(head.linear.weight.detach().std()) == pytest.approx(deviation, rel=0.06)
    assert abs(float(head.linear.weight.detach().mean())) < 0.08 * deviation
    assert not head.linear.bias.detach().any()
    assert float(head.shift) == 0
    assert float(head.scale) == 1


def test_the_score_head_counts_its_bias_in_the_deviation() -> None:
    """Width 3: 1 / sqrt 4 = .5, and not 1 / sqrt 3 = .577.

    2,000 heads are 6,000 draws: the standard error of the deviation is .9 %, so 5 % is 5.5 of them (false alarm 1e-7
    over seeds; the seed is fixed).
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([ScoreHead(3, generator).linear.weight.detach().flatten() for _ in range(2000)])
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.05)


def test_scores_of_a_frozen_sample_start_with_deviation_one() -> None:
    """A state with |h|^2 = D + 1 gives scores of variance |h|^2 / (D + 1) = 1 and mean 0 over heads.

    4,000 heads: 1.1 % and .016 are the standard errors, 6 % and .08 five of them (false alarm 1e-6 over seeds; the
    seed is fixed).
    """
    generator = torch.Generator().manual_seed(1)
    hidden = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, math.sqrt(2)]])  # D = 8, |h|^2 = 9
    scores = torch.cat([ScoreHead(8, generator)(hidden).detach() for _ in range(4000)])
    assert float(scores.std()) == pytest.approx(1.0, rel=0.06)
    assert abs(float(scores.mean())) < 0.08


def test_the_value_head_starts_at_zero() -> None:
    head = ValueHead(8)
    assert torch.equal(head(torch.randn(2, 3, 8)), torch.zeros(2, 3))


def test_anchoring_gives_mean_zero_and_deviation_one() -> None:
    """Raw 1, 2, 6 have mean 3 and population deviation sqrt(14/3); anchoring again changes nothing."""
    head = ScoreHead(1)
    with torch.no_grad():
        head.linear.weight.fill_(1.0)
    hidden = torch.tensor([[1.0], [2.0], [6.0]])
    wanted = torch.tensor([-2.0, -1.0, 3.0]) / math.sqrt(14 / 3)
    for _ in range(2):
        head.anchor(head(hidden).detach())
        torch.testing.assert_close(head(hidden).detach(), wanted)
    assert float(head.shift) == pytest.approx(3.0)
    assert float(head.scale) == pytest.approx(math.sqrt(14 / 3))


@pytest.mark.parametrize("scores", [[1.0], [2.0, 2.0]])
def test_anchoring_needs_two_different_scores(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two different scores"):
        ScoreHead(1).anchor(torch.tensor(scores))
