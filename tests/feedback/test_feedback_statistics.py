"""statistics: published and hand-worked values of alpha, W and agreement; position bias; what is undefined is None."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanward.feedback.statistics import (
    feedback_statistics,
    kendall_w,
    krippendorff_alpha,
    position_bias,
)
from humanward.records import Ranking

NO = np.nan
# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section D: four observers, twelve units.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NO, NO, NO],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NO, 3],
    [NO, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NO],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NO],
]


def ranking(prompt: str, annotator: str, *tiers: str, **rest) -> Ranking:  # type: ignore[no-untyped-def]
    return Ranking(f"{prompt}{annotator}{tiers}", prompt, tuple(map(tuple, tiers)), annotator, **rest)


@pytest.mark.parametrize(
    ("metric", "alpha", "published"),
    [
        # The published coincidences have the diagonal 7, 10, 8, 4, 3 and the sums 9, 13, 10, 5, 3 of n = 40.
        # Sum n_c (n_c - 1) = 72 + 156 + 90 + 20 + 6 = 344: (39 * 32 - 344) / (40 * 39 - 344) = 904 / 1216.
        ("nominal", 904 / 1216, 0.743),
        # The sums put the ranks at 4.5, 15.5, 27, 34.5, 38.5. Off the diagonal the coincidences are 4/3 (1-2),
        # 1/3 (1-3), 1/3 (1-4), 4/3 (2-3), 1/3 (2-4), 1/3 (3-4); times the squared distances 121, 506.25,
        # 900, 132.25, 361, 56.25 they sum to 945.5.
        # Expected: the sum of n_c n_k times squared distance is 199740. 1 - 39 * 945.5 / 199740.
        ("ordinal", 1 - 36874.5 / 199740, 0.815),
        # 4/3 * 1 + 1/3 * 4 + 1/3 * 9 + 4/3 * 1 + 1/3 * 4 + 1/3 * 1 = 26/3; expected 9*13*1 + 9*10*4 + 9*5*9 + 9*3*16
        # + 13*10*1 + 13*5*4 + 13*3*9 + 10*5*1 + 10*3*4 + 5*3*1 = 2240. 1 - 39 * (26/3) / 2240.
        ("interval", 1 - 338 / 2240, 0.849),
    ],
)
def test_alpha_of_the_published_example(metric, alpha: float, published: float) -> None:  # type: ignore[no-untyped-def]
    assert krippendorff_alpha(FOUR_OBSERVERS, metric) == pytest.approx(alpha, rel=1e-9)
    assert round(alpha, 3) == published


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]]) == 1.0
    # Two units, always opposite: o = 4 off the diagonal, all n_c n_k = 4 + 4; 1 - 3 * 4 / 8 = -1/2.
    assert krippendorff_alpha([[1, 2], [2, 1]]) == pytest.approx(-0.5)
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None
    assert krippendorff_alpha([[1, 2, NO], [NO, NO, 3]]) is None
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(annotators, units\)"):
        krippendorff_alpha([1, 2])


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=3, max_size=3), min_size=2, max_size=6), st.randoms())
def test_alpha_ignores_order_and_ordinal_alpha_ignores_the_scale(units: list[list[int]], random) -> None:  # type: ignore[no-untyped-def]
    table = np.array(units, dtype=float).T
    alpha = krippendorff_alpha(table)
    shuffled = [random.sample(unit, 3) for unit in random.sample(units, len(units))]
    stretched = np.exp(table)
    if alpha is None:
        assert krippendorff_alpha(stretched) is None
    else:
        assert krippendorff_alpha(np.array(shuffled, dtype=float).T) == pytest.approx(alpha)
        assert krippendorff_alpha(stretched) == pytest.approx(alpha)


def test_w_of_the_published_example_with_ties() -> None:
    # Zar, Biostatistical Analysis, 5th edition, example 20.5: wing, tail and bill length of twelve birds.
    # Rank sums 14.5 21 30.5 6 11 3.5 20 11.5 29 28.5 22.5 36: squares 5738.5 - 234^2 / 12 = 1175.5. Tied groups of
    # 2 and 2; 2, 3 and 2; 2 and 2: sum of t^3 - t = 60. W = 12 * 1175.5 / (9 * (1728 - 12) - 3 * 60) = 14106 / 15264.
    birds = [
        [10.4, 10.8, 11.1, 10.2, 10.3, 10.2, 10.7, 10.5, 10.8, 11.2, 10.6, 11.4],
        [7.4, 7.6, 7.9, 7.2, 7.4, 7.1, 7.4, 7.2, 7.8, 7.7, 7.8, 8.3],
        [17, 17, 20, 14.5, 15.5, 13, 19.5, 16, 21, 20, 18, 22],
    ]
    assert kendall_w(birds) == pytest.approx(14106 / 15264, rel=1e-12)


def test_w_by_hand_and_at_its_ends() -> None:
    # Ranks 1 2 3 and 1 3 2: sums 2, 5, 5, mean 4, S = 4 + 1 + 1 = 6; W = 12 * 6 / (4 * 24) = 3/4.
    assert kendall_w([[1, 2, 3], [1, 3, 2]]) == pytest.approx(0.75)
    assert kendall_w([[1, 2, 3], [1, 2, 3], [1, 2, 3]]) == pytest.approx(1.0)
    assert kendall_w([[1, 1, 2], [1, 1, 2]]) == pytest.approx(1.0)
    assert kendall_w([[1, 2], [2, 1]]) == 0.0
    assert kendall_w([[1, 1, 1], [1, 1, 1]]) is None
    assert kendall_w([[1, 2, 3]]) is None
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(annotators, answers\)"):
        kendall_w([1, 2])


def test_w_averages_the_rank_correlations() -> None:
    # Without ties, the mean Spearman correlation over pairs of m annotators is (m W - 1) / (m - 1) (Kendall, Gibbons).
    table = np.array([[1, 2, 3, 4], [2, 1, 3, 4], [4, 2, 1, 3]], dtype=float)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in itertools.combinations(table, 2)]
    w = kendall_w(table)
    assert w is not None
    assert (3 * w - 1) / 2 == pytest.approx(np.mean(correlations))


def test_agreement_by_hand() -> None:
    # Prompt p: ada a>b>c, bea a>c=b. Pairs ab, ac agree; bc is strict against tied: 2 of 3, among strict 2 of 2.
    # Prompt q: ada x>y, bea y>x: 0 of 1, strict 0 of 1. Prompt r: ada alone, no pair. In all 2/4 and 2/3.
    rankings = [
        ranking("p", "ada", "a", "b", "c"),
        ranking("p", "bea", "a", "cb"),
        ranking("q", "ada", "x", "y"),
        ranking("q", "bea", "y", "x"),
        ranking("r", "ada", "k", "l", seconds_spent=10.0),
    ]
    found = feedback_statistics(rankings)
    assert (found.rankings, found.prompts, found.prompts_with_overlap, found.pairs, found.ties) == (5, 3, 2, 8, 1)
    assert (found.agreement.value, found.agreement.n) == (0.5, 2)
    assert found.agreement_strict.value == pytest.approx(2 / 3)
    # Of two prompts a resample holds p alone, q alone or both: agreement 2/3, 0 or 1/2; W the same between its two.
    assert found.agreement.ci95 == (0.0, pytest.approx(2 / 3))
    # p: midranks 1 2 3 and 1 2.5 2.5: sums 2 4.5 5.5, S = 4 + .25 + 2.25 = 6.5; W = 78 / (96 - 2 * 6) = 13/14. q: 0.
    assert found.kendall_w.value == pytest.approx(13 / 28)
    ada, bea = found.annotators
    assert (ada.annotator, ada.rankings, ada.agreement, ada.tie_share, ada.median_seconds) == ("ada", 3, 0.5, 0.0, 10.0)
    assert (bea.agreement, bea.tie_share, bea.median_seconds) == (0.5, 1 / 4, None)
    assert found.seconds == {"n": 1.0, "p10": 10.0, "median": 10.0, "p90": 10.0}


def test_alpha_over_prompts_takes_an_answer_as_a_unit() -> None:
    # Both prompts agreed upon: 1. With q turned round the units are (1,1) (2,2) (1,2) (2,1): coincidences 2, 2 on the
    # diagonal and 2 twice off it, sums 4 and 4, n = 8: 1 - 7 * (2 + 2) * d / ((16 + 16) * d) = 1 - 28/32 = 1/8.
    agreed = [ranking(p, annotator, "a", "b") for p in "pq" for annotator in ("ada", "bea")]
    turned = [*agreed[:3], ranking("q", "bea", "b", "a")]
    assert feedback_statistics(agreed).alpha.value == 1.0
    assert feedback_statistics(turned).alpha.value == pytest.approx(0.125)


def test_nothing_to_compare_is_none_not_zero() -> None:
    found = feedback_statistics([ranking("p", "ada", "a", "b"), ranking("q", "ada", none_acceptable=True)])
    for estimate in (found.alpha, found.kendall_w, found.agreement, found.agreement_strict):
        assert (estimate.value, estimate.ci95, estimate.n) == (None, None, 0)
    assert found.seconds is None
    assert found.position.first_share is None
    assert found.none_acceptable == 1
    assert found.annotators[0].agreement is None


def test_only_the_last_of_an_annotators_rankings_counts() -> None:
    rankings = [ranking("p", "ada", "a", "b"), ranking("p", "bea", "a", "b"), ranking("p", "ada", "b", "a")]
    found = feedback_statistics(rankings)
    assert (found.rankings, found.superseded, found.agreement.value) == (2, 1, 0.0)


def test_simulated_annotators_are_counted_as_such() -> None:
    rankings = [ranking("p", f"simulated-{i}", "a", "b", simulated=True) for i in (10, 9)]
    found = feedback_statistics([*rankings, ranking("p", "ada", "a", "b")])
    assert found.simulated == 2
    assert [(a.annotator, a.simulated) for a in found.annotators] == [
        ("ada", False),
        ("simulated-9", True),
        ("simulated-10", True),
    ]


def test_position_bias_by_hand() -> None:
    # Sixteen rankings of two, the best first on the screen twelve times: z = (12 - 8) / sqrt(16 / 4) = 2.
    rankings = [ranking(f"p{i}", "ada", "a", "b", shown_order=("a", "b") if i < 12 else ("b", "a")) for i in range(16)]
    tied = ranking("t", "ada", "ab", shown_order=("a", "b"))
    unseen = ranking("u", "ada", "a", "b")
    found = position_bias([*rankings, tied, unseen])
    assert (found.n, found.first_share, found.expected, found.best_at) == (16, 0.75, 0.5, {1: 12, 2: 4})
    # Two-sided normal tail beyond 2: 0.0455 in any table.
    assert found.p_value == pytest.approx(0.0455, abs=5e-5)


def test_position_bias_expects_one_in_k() -> None:
    rankings = [
        ranking("p", "ada", "a", "b", shown_order=("a", "b")),
        ranking("q", "ada", "c", "abd", shown_order=("a", "b", "c", "d")),
    ]
    found = position_bias(rankings)
    assert (found.first_share, found.expected) == (0.5, (1 / 2 + 1 / 4) / 2)


def test_intervals_are_reproducible_and_hold_the_value() -> None:
    generator = np.random.default_rng(0)
    rankings = [
        ranking(str(p), annotator, *("ab" if generator.random() < 0.7 else "ba"))
        for p in range(60)
        for annotator in ("ada", "bea", "cid")
    ]
    found = feedback_statistics(rankings, seed=1)
    assert found == feedback_statistics(rankings, seed=1)
    for estimate in (found.alpha, found.kendall_w, found.agreement):
        assert estimate.value is not None
        assert estimate.ci95 is not None
        assert estimate.ci95[0] < estimate.value < estimate.ci95[1]
    # Two annotators agree with probability .7^2 + .3^2 = .58; sixty prompts, three correlated pairs: 4 sd <= .26.
    assert found.agreement.value == pytest.approx(0.58, abs=0.26)
