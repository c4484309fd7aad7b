"""The temperature against its closed form, and a simulation whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from humanward.reward.calibration import fit_temperature, probability


def test_by_hand() -> None:
    """Three of four pairs right, all by |d| = 2: sigmoid(2 / T) must be 3/4, so T = 2 / log 3."""
    found = fit_temperature([2.0, 2.0, 2.0, -2.0])
    assert found.value == pytest.approx(2 / math.log(3), rel=1e-4)
    assert found.nll_after == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-9)
    before = (3 * math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 4
    assert found.nll_before == pytest.approx(before, rel=1e-12)
    assert (found.n, found.bounded) == (4, False)


def test_weights_count_as_repetitions() -> None:
    assert fit_temperature([2.0, -2.0], [3.0, 1.0]).value == pytest.approx(2 / math.log(3), rel=1e-4)


def test_a_scale_of_all_differences_is_the_temperatures() -> None:
    d = np.array([0.3, 1.2, -0.4, 2.0, -0.1])
    assert fit_temperature(10 * d).value == pytest.approx(10 * fit_temperature(d).value, rel=1e-4)


def test_a_known_temperature_is_found() -> None:
    """20,000 pairs that people order with sigmoid(d / 2.5): the estimate's standard error is about 1.5 %, 8 % is more
    than five of them (false alarm below 1e-6 over seeds; the seed is fixed)."""
    random = np.random.default_rng(0)
    d = np.abs(random.normal(0, 3, 20_000))
    right = random.random(len(d)) < probability(d, 2.5)
    assert fit_temperature(np.where(right, d, -d)).value == pytest.approx(2.5, rel=0.08)


@pytest.mark.parametrize("differences", [[1.0, 2.0], [-1.0, -2.0]])
def test_perfect_and_hopeless_pairs_end_at_a_bound(differences: list[float]) -> None:
    assert fit_temperature(differences).bounded


@pytest.mark.parametrize("differences", [[], [1.0, float("nan")]])
def test_nothing_to_fit_on(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="finite differences"):
        fit_temperature(differences)


def test_probabilities() -> None:
    assert probability([0.0, math.log(3), -2 * math.log(3), 1e6], 1.0).tolist() == pytest.approx([0.5, 0.75, 0.1, 1.0])
    assert probability([2 * math.log(3)], 2.0).tolist() == pytest.approx([0.75])
