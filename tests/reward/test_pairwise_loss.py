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
