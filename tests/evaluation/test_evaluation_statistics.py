"""Statistics: goldens worked by hand, agreement with scipy where it can do the same, and simulations.

Simulations use fixed seeds, so they cannot flake; the false-alarm probability stated is that of a fresh seed.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from humanward.errors import InputError
from humanward.evaluation import statistics as s


def test_every_item_weighs_the_same_in_the_mean():
    estimate = s.mean_interval([1.0, 2.0, 6.0], ["a", "a", "b"], seed=0)
    assert (estimate.value, estimate.n, estimate.clusters) == (3.0, 3, 2)


def test_paired_difference_golden():
    # differences 1, 0, -1, 4: mean 1; deviations 0, -1, -2, 3, so the variance is 14/3 and d = 1 / 2.160247
    result = s.paired_difference([1, 2, 3, 4], [2, 2, 2, 8], list("abcd"), seed=0)
    assert result.mean == 1.0
    assert result.effect_size == pytest.approx(0.46291005, rel=1e-6)
    # |+-1 +-0 +-1 +-4| is at least 4 unless both ones point against the four: 3 of 4 sign patterns
    assert result.p_value == 0.75
    assert (result.n, result.clusters) == (4, 4)


def test_difference_is_after_minus_before():
    assert s.paired_difference([1.0] * 20, [0.0, 0.5] * 10, range(20), seed=0).mean == -0.75


def test_effect_size_uses_one_difference_a_cluster():
    # clusters of mean difference 1 and 3, of unequal size: mean 2, standard deviation sqrt(2)
    result = s.paired_difference([0, 0, 0], [1, 3, 3], ["a", "b", "b"], seed=0)
    assert result.effect_size == pytest.approx(2 / np.sqrt(2), rel=1e-12)


def test_permutation_golden():
    # only +++ and --- of the 8 sign patterns reach 6
    assert s.sign_flip_p_value([1, 2, 3], seed=0) == 0.25
    assert s.sign_flip_p_value([-1, -2, -3], seed=0) == 0.25
    assert s.sign_flip_p_value([0, 0, 0], seed=0) == 1.0


def test_p_is_never_zero():
    # a random flip of 40 equal signs reaches the total with probability 2^-39; 9,999 of them: 2e-8
    assert s.sign_flip_p_value(np.ones(40), seed=0) == 1 / 10_000


def test_random_flips_agree_with_all_of_them():
    values = np.array([1.3, -0.2, 0.8, 0.5, -0.9, 1.1, 0.4, 0.7, -0.1, 0.6])
    exact = s.sign_flip_p_value(values, seed=0)
    random = s.sign_flip_p_value(values, seed=0, permutations=1022)  # one fewer than 2^10 - 1 forces sampling
    assert random != exact
    assert random == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 1022))  # 4 standard errors: 6e-5


def test_bca_quantile_golden():
    # z = -1.959964, z0 = .1, a = .05: .1 + -1.859964 / (1 + .05 * 1.859964) = -1.601708, and Phi of that is .05461
    assert s._bca_quantile(-1.959964, 0.1, 0.05) == pytest.approx(0.05461, abs=1e-5)
    assert s._bca_quantile(-1.959964, 0.0, 0.0) == pytest.approx(0.025, rel=1e-6)
    assert s._bca_quantile(30.0, 0.0, 0.05) == 1.0  # beyond the pole at 1 / a = 20
    assert s._bca_quantile(-30.0, 0.0, -0.05) == 0.0


def test_agrees_with_scipy_where_each_item_is_its_own_cluster():
    values = np.random.default_rng(5).lognormal(size=40)
    ours = s.bca_interval(s.cluster_sums(range(40), values, np.ones(40)), seed=1, small_sample=False)
    theirs = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=9_999, rng=np.random.default_rng(2))
    error = values.std(ddof=1) / np.sqrt(40)
    # a 2.5 % quantile of 9,999 replicates has a standard error of .03 of theirs; the bounds may differ by 5 of those
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.15 * error)


def test_copies_within_a_cluster_add_no_certainty():
    generator = np.random.default_rng(3)
    before, after = generator.normal(size=30), generator.normal(0.4, 1, size=30)
    once = s.paired_difference(before, after, range(30), seed=4)
    copied = s.paired_difference(np.repeat(before, 7), np.repeat(after, 7), np.repeat(range(30), 7), seed=4)
    assert copied.ci95 == pytest.approx(once.ci95, rel=1e-9)
    assert copied.p_value == once.p_value
    assert copied.effect_size == pytest.approx(once.effect_size, rel=1e-9)
    assert (copied.n, copied.clusters) == (210, 30)


def test_same_seed_same_numbers():
    values = np.random.default_rng(0).normal(size=50)
    assert s.mean_interval(values, range(50), seed=7) == s.mean_interval(values, range(50), seed=7)
    assert s.mean_interval(values, range(50), seed=7) != s.mean_interval(values, range(50), seed=8)


def test_chunks_change_nothing(monkeypatch):
    columns = s.cluster_sums(range(40), np.random.default_rng(0).normal(size=40), np.ones(40))
    whole = s.bca_interval(columns, seed=1), s.sign_flip_p_value(columns[:, 0], seed=1)
    monkeypatch.setattr(s, "_CHUNK", 40 * 64)
    assert (s.bca_interval(columns, seed=1), s.sign_flip_p_value(columns[:, 0], seed=1)) == whole


def test_two_clusters_have_the_widest_interval_there_is():
    assert s.mean_interval([1.0, 3.0], ["a", "b"], seed=0).ci95 == (1.0, 3.0)


def test_one_cluster_has_no_interval_and_constants_have_a_point():
    assert s.mean_interval([1.0, 2.0], ["a", "a"], seed=0).ci95 is None
    assert s.mean_interval([2.0] * 5, range(5), seed=0).ci95 == (2.0, 2.0)
    assert s.paired_difference([1.0] * 5, [1.0] * 5, range(5), seed=0).effect_size is None


def _coverage(make, truth, *, simulations, resamples=799, clusters=None):
    hits = 0
    for number in range(simulations):
        values, groups = make(np.random.default_rng([11, number]))
        low, high = s.mean_interval(
            values, groups if clusters is None else clusters, seed=number, resamples=resamples
        ).ci95
        hits += low <= truth <= high
    return hits / simulations


def _toxicities(generator):
    """200 prompts of 1 to 4 scores each, skewed like toxicity, alike within a prompt; mean .2."""
    sizes = generator.integers(1, 5, size=200)
    groups = np.repeat(np.arange(200), sizes)
    prompt = generator.beta(0.8, 3.2, size=200)
    return np.clip(prompt[groups] + generator.uniform(-0.02, 0.02, size=len(groups)), -1, 2), groups


def test_interval_covers_95_percent_of_skewed_clusters():
    # true mean .8 / (.8 + 3.2) = .2; measured coverage over other seeds .940 to .955, standard error .006: a fresh seed
    # leaves 93..97 % with probability about .005
    assert 0.93 <= _coverage(_toxicities, 0.2, simulations=1500) <= 0.97


def test_interval_covers_95_percent_of_few_clusters():
    # 15 normal values: without the small-sample widening coverage is about 91 %; other seeds gave .942 to .950
    def make(generator):
        return generator.normal(size=15), range(15)

    assert 0.93 <= _coverage(make, 0.0, simulations=1500) <= 0.97


def test_ignoring_clusters_would_be_caught():
    def make(generator):
        values, _ = _toxicities(generator)
        return values, range(len(values))

    assert _coverage(make, 0.2, simulations=300) < 0.90


def test_p_is_uniform_without_an_effect():
    # Kolmogorov-Smirnov against uniform: false alarm 1e-3 for a fresh seed
    values = []
    for number in range(500):
        generator = np.random.default_rng([12, number])
        groups = np.repeat(np.arange(30), 2)
        shared = generator.normal(size=30)[groups]
        before, after = shared + generator.normal(size=60), shared + generator.normal(size=60)
        values.append(s.paired_difference(before, after, groups, seed=number, resamples=9, permutations=499).p_value)
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    # and exact for a test at 5 %: 25 expected of 500, standard deviation 4.9
    assert 8 <= np.count_nonzero(np.array(values) <= 0.05) <= 42


def test_p_finds_an_effect():
    generator = np.random.default_rng(1)
    before = generator.normal(size=100)
    result = s.paired_difference(before, before - 0.5 + generator.normal(size=100), range(100), seed=0)
    assert result.p_value < 0.01
    assert result.excludes_zero
    assert result.ci95[0] < -0.5 < result.ci95[1]


def test_outcomes_and_accuracy_golden():
    results = s.outcomes([1.0, 0.0, 2.0, 3.0], [0.0, 1.0, 2.0, 1.0])
    assert results.tolist() == [1.0, 0.0, 0.5, 1.0]
    estimate = s.accuracy(results, ["a", "a", "b", "c"], seed=0)
    assert (estimate.value, estimate.n, estimate.clusters) == (0.625, 4, 3)


def test_all_right_is_not_certain():
    # Clopper-Pearson for 10 of 10: .025 ** (1/10)
    estimate = s.accuracy(np.ones(20), np.repeat(range(10), 2), seed=0)
    assert estimate.ci95 == (pytest.approx(0.69150, abs=1e-5), 1.0)
    assert s.accuracy(np.zeros(10), range(10), seed=0).ci95 == (0.0, pytest.approx(0.30850, abs=1e-5))


def test_accuracy_difference_is_paired():
    ours, baseline = np.array([1, 1, 1, 0, 1, 0.5] * 10), np.array([1, 0, 1, 0, 0, 0.5] * 10)
    result = s.accuracy_difference(ours, baseline, range(60), seed=0)
    assert result.mean == pytest.approx(1 / 3)
    assert result.excludes_zero
    unpaired = s.accuracy(ours, range(60), seed=0).ci95
    assert result.ci95[1] - result.ci95[0] < 2 * (unpaired[1] - unpaired[0])


scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(scores)
def test_win_rate_against_oneself_is_a_half(values):
    assert s.win_rate(values, values) == 0.5


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=30))
def test_win_rates_are_complementary(pairs):
    ours, theirs = zip(*pairs, strict=True)
    assert s.win_rate(ours, theirs) == pytest.approx(1 - s.win_rate(theirs, ours))


@pytest.mark.parametrize("bad", [[], [float("nan")], [float("inf")]])
def test_bad_values_are_refused(bad):
    with pytest.raises(InputError):
        s.mean_interval(bad, ["a"] * len(bad), seed=0)


def test_lengths_must_agree():
    with pytest.raises(InputError, match="2 values for 1 clusters"):
        s.mean_interval([1.0, 2.0], ["a"], seed=0)
    with pytest.raises(InputError, match="not finite"):
        s.outcomes([float("nan")], [1.0])
    with pytest.raises(InputError, match=r"outcomes are 0, \.5"):
        s.accuracy([3.0, 4.0], ["a", "b"], seed=0)
