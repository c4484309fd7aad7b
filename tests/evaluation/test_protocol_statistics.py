"""Protocols' statistics: goldens worked by hand, identities, and simulations with fixed seeds.

Simulations cannot flake; the false-alarm probability stated is that of a fresh seed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from humanward.evaluation.protocols import groups, likelihood, wins
from humanward.evaluation.protocols.agreement import agreement
from humanward.evaluation.protocols.references import rouge
from humanward.evaluation.protocols.refusals import refuses
from humanward.evaluation.protocols.wins import FIRST, SECOND, TIE
from humanward.evaluation.statistics import bca_interval, cluster_sums, sign_flip_p_value

VERDICTS = st.sampled_from([FIRST, SECOND, TIE, None])

# --- win rates -------------------------------------------------------------------------------------------------------


def test_a_judge_that_contradicts_itself_has_not_decided():
    assert wins.combine_orders(FIRST, SECOND) == 1.0  # ours first: ours; ours second: ours again
    assert wins.combine_orders(SECOND, FIRST) == 0.0
    assert wins.combine_orders(TIE, TIE) == 0.5
    assert wins.combine_orders(FIRST, FIRST) == 0.5  # the place decided
    assert wins.combine_orders(FIRST, TIE) == 0.5
    assert math.isnan(wins.combine_orders(FIRST, None))  # unparsable: neither a tie nor a loss
    assert math.isnan(wins.combine_orders(None, None))


def test_win_rate_golden():
    # 2 wins, 1 tie, 1 loss of 4 known: 2.5 / 4; the longer answer wins 2 of the 3 that were decided
    found = wins.win_rate_of(
        [1, 1, 0.5, 0, math.nan], list("abcde"), seed=0, lengths=([9, 2, 1, 1, 1], [1, 3, 1, 2, 7])
    )
    assert (found.value, found.wins, found.ties, found.losses, found.unscored) == (0.625, 2, 1, 1, 1)
    assert (found.n, found.clusters) == (4, 4)
    assert found.longer_wins == pytest.approx(2 / 3)  # 9 > 1 won; 2 < 3 won, so the shorter; 1 < 2 lost, so the longer
    # distances from .5: .5, .5, 0, -.5; |+-.5 +-.5 +-.5| reaches .5 always
    assert found.p_value == 1.0


def test_no_known_outcome_is_no_win_rate():
    assert wins.win_rate_of([math.nan, math.nan], ["a", "b"], seed=0) is None


@settings(deadline=None)
@given(st.lists(st.tuples(VERDICTS, VERDICTS), min_size=1, max_size=30))
def test_verdicts_seen_from_the_other_model_are_the_complement(pairs):
    ours = np.array([wins.combine_orders(first, second) for first, second in pairs])
    theirs = np.array([wins.combine_orders(second, first) for first, second in pairs])
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    known = np.isfinite(ours)
    assert np.array_equal(ours[known], 1 - theirs[known])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.integers(0, 3))
def test_win_rate_identities(scores, seed):
    other = list(np.random.default_rng(seed).permutation(scores))
    items = list(range(len(scores)))
    itself = wins.win_rate_of(wins.score_outcomes(scores, scores), items, seed=0)
    assert (itself.value, itself.ties, itself.p_value) == (0.5, len(scores), 1.0)
    ours = wins.win_rate_of(wins.score_outcomes(scores, other), items, seed=0)
    theirs = wins.win_rate_of(wins.score_outcomes(other, scores), items, seed=0)
    assert ours.value == pytest.approx(1 - theirs.value)
    assert (ours.wins, ours.losses) == (theirs.losses, theirs.wins)
    assert ours.p_value == theirs.p_value


def test_position_bias_golden():
    verdicts = [(FIRST, FIRST)] * 9 + [(SECOND, SECOND)] + [(FIRST, SECOND)] * 10 + [(TIE, TIE), (FIRST, None)]
    found = wins.position_bias(verdicts)
    assert (found.n, found.first_both, found.second_both) == (21, 9, 1)
    assert found.consistent == pytest.approx(11 / 21)
    assert found.p_value == pytest.approx(2 * (1 + 10) / 2**10)  # 0 or 1 of 10 coins, two-sided
    assert found.prefers == FIRST


def test_a_judge_without_a_favourite_place_is_not_accused():
    generator = np.random.default_rng(4)
    accused = 0
    for _ in range(400):
        # Noise alone: each verdict is a coin, whatever stands where.
        coins = generator.integers(0, 2, size=(60, 2))
        accused += wins.position_bias([((FIRST, SECOND)[a], (FIRST, SECOND)[b]) for a, b in coins]).prefers is not None
    assert accused <= 34  # expected at most 5 % of 400 (the test is discrete): a fresh seed exceeds 34 with p < .002


# --- intervals and p-values of what the protocols report -------------------------------------------------------------


def _columns(values: np.ndarray) -> np.ndarray:
    return cluster_sums(np.arange(len(values)), values, np.ones(len(values)))


def test_interval_of_a_win_rate_covers():
    # 150 prompts: 45 % wins, 20 % ties, 35 % losses: true win rate .55. Standard error of the coverage .008.
    hits = 0
    for number in range(800):
        generator = np.random.default_rng([21, number])
        outcomes = generator.choice([1.0, 0.5, 0.0], p=[0.45, 0.2, 0.35], size=150)
        low, high = bca_interval(_columns(outcomes), seed=number, resamples=499)
        hits += low <= 0.55 <= high
    assert 0.93 <= hits / 800 <= 0.97


def test_interval_of_expected_maximum_toxicity_covers():
    # Maxima of 25 uniform scores: mean 25 / 26, skewed to the left. Over 2,000 other seeds .946 with 1,999 resamples.
    hits = 0
    for number in range(1200):
        maxima = np.random.default_rng([122, number]).random((120, 25)).max(axis=1)
        low, high = bca_interval(_columns(maxima), seed=number, resamples=999)
        hits += low <= 25 / 26 <= high
    assert 0.93 <= hits / 1200 <= 0.97


def test_interval_of_a_paired_difference_of_shares_covers():
    # Both models refuse the same 20 % of prompts; the second 10 % more of the rest: true difference .08.
    hits = 0
    for number in range(800):
        generator = np.random.default_rng([23, number])
        before = generator.random(200) < 0.2
        after = before | (generator.random(200) < 0.1)
        low, high = bca_interval(_columns(after.astype(float) - before), seed=number, resamples=499)
        hits += low <= 0.08 <= high
    assert 0.93 <= hits / 800 <= 0.97


def test_p_of_a_win_rate_is_uniform_without_a_preference():
    p_values = []
    for number in range(400):
        generator = np.random.default_rng([24, number])
        # Clusters of three answers with a common leaning, so that sums are fine-grained.
        sums = (generator.choice([-0.5, 0.0, 0.5], size=(120, 3)) + 0.05 * generator.normal(size=(120, 1))).sum(axis=1)
        p_values.append(sign_flip_p_value(sums, seed=number, permutations=499))
    assert stats.kstest(p_values, "uniform").pvalue > 0.001  # a fresh seed fails with probability .001


def test_p_of_the_largest_gap_is_uniform_without_groups():
    p_values = []
    names = [f"group {number % 5}" for number in range(100)]
    pages = [str(number) for number in range(100)]
    for number in range(600):  # of 2,400 seeds: Kolmogorov-Smirnov p = .42, mean p .503
        values = np.random.default_rng([125, number]).beta(0.5, 3, size=100)
        p_values.append(groups.largest_gap(values, names, pages, seed=number, replicates=199).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_p_of_a_change_of_the_gap_is_uniform_where_models_are_alike():
    p_values = []
    names = [f"group {number % 3}" for number in range(90)]
    pages = [str(number) for number in range(90)]
    for number in range(300):
        before, after = np.random.default_rng([26, number]).beta(0.5, 3, size=(2, 90))
        p_values.append(groups.gap_change(before, after, names, pages, seed=number, replicates=199).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_interval_of_a_gap_of_two_groups_covers():
    # With two groups that lie apart there is no choice of the largest: means .5 and .2, gap .3.
    hits = 0
    names, pages = ["a"] * 80 + ["b"] * 80, [str(number) for number in range(160)]
    for number in range(600):
        generator = np.random.default_rng([27, number])
        values = np.concatenate([generator.beta(2, 2, 80), generator.beta(1, 4, 80)])
        low, high = groups.largest_gap(values, names, pages, seed=number, replicates=299).ci95
        hits += low <= 0.3 <= high
    assert 0.93 <= hits / 600 <= 0.97


def test_interval_of_a_change_of_the_gap_covers():
    # Gaps .3 before and .1 after, both models on the same pages: true change -.2.
    hits = 0
    names, pages = ["a"] * 80 + ["b"] * 80, [str(number) for number in range(160)]
    shift = np.repeat([0.3, 0.0], 80)
    for number in range(600):
        generator = np.random.default_rng([28, number])
        page = generator.normal(0.3, 0.1, size=160)
        before = page + shift + generator.normal(0, 0.05, size=160)
        after = page + shift / 3 + generator.normal(0, 0.05, size=160)
        low, high = groups.gap_change(before, after, names, pages, seed=number, replicates=299).ci95
        hits += low <= -0.2 <= high
    assert 0.93 <= hits / 600 <= 0.97


# --- gaps ------------------------------------------------------------------------------------------------------------


def test_gap_golden():
    # a: (.1 + .3 + .2) / 3 = .2; b: .5; c: (.2 + .4) / 2 = .3. Every item weighs the same, whatever its page.
    values = [0.1, 0.3, 0.2, 0.5, 0.2, 0.4]
    found = groups.largest_gap(values, list("aaabcc"), ["1", "1", "2", "3", "4", "5"], seed=0)
    assert found.value == pytest.approx(0.3)
    assert (found.highest, found.lowest, found.groups, found.n, found.clusters) == ("b", "a", 3, 6, 5)
    assert found.ci95 is None  # one page cannot be resampled


def test_gap_change_golden():
    # before: a .2, b .4: gap .2; after: a .3, b .3: gap 0
    found = groups.gap_change([0.2, 0.2, 0.4, 0.4], [0.3, 0.3, 0.3, 0.3], list("aabb"), list("1234"), seed=0)
    assert found.value == pytest.approx(-0.2)
    assert groups.gap_change([0.2], [0.3], ["a"], ["1"], seed=0) is None


def test_a_real_gap_is_found():
    generator = np.random.default_rng(5)
    values = np.concatenate([generator.beta(2, 8, 200), generator.beta(4, 6, 200)])
    names, pages = ["a"] * 200 + ["b"] * 200, [str(number) for number in range(400)]
    assert groups.largest_gap(values, names, pages, seed=0).p_value == 1 / 2000


# --- likelihood ------------------------------------------------------------------------------------------------------


def test_truthfulqa_golden():
    # right: best log .1, another log .3; wrong: log .2, log .4
    logs = [math.log(p) for p in (0.1, 0.3, 0.2, 0.4)]
    assert likelihood.mc1(logs, 2) == 0.0  # .1 < .4; that .3 > .2 does not matter
    assert likelihood.mc2(logs, 2) == pytest.approx(0.4)  # (.1 + .3) / 1
    assert likelihood.binary(logs, 2) == 0.0  # .1 < .2
    assert likelihood.mc1([math.log(p) for p in (0.5, 0.1, 0.2, 0.2)], 2) == 1.0
    assert likelihood.mc1([-3.0, -3.0], 1) == 0.5


def test_mc2_of_long_answers_is_not_lost_to_underflow():
    # exp(-1000) is 0 in float64; shifted by 1: e^0 / (e^0 + e^-1)
    assert likelihood.mc2([-1000.0, -1001.0], 1) == pytest.approx(1 / (1 + math.exp(-1)))


def test_mean_over_tokens_golden():
    # -6 over 3 tokens beats -5 over 1, though its sum is lower
    assert likelihood.per_token([-6.0, -5.0], [3, 1], 1) == 1.0
    assert likelihood.binary([-6.0, -5.0], 1) == 0.0


# --- judges, references, refusals ------------------------------------------------------------------------------------


def test_agreement_golden():
    # yes/no: (1,1) (1,0) (0,0) (0,0): same 3/4; chance .5*.25 + .5*.75 = .5; kappa (.75 - .5) / .5
    found = agreement([0.9, 0.6, 0.1, 0.2, math.nan], [0.8, 0.4, 0.1, 0.3, 0.9])
    assert (found.n, found.same, found.kappa) == (4, 0.75, 0.5)
    assert found.spearman == pytest.approx(1.0)
    assert agreement([math.nan], [0.5]) is None
    assert agreement([0.1, 0.2], [0.3, 0.1]).kappa is None  # both never say yes


def test_rouge_golden():
    # "the cat sat" against "the cat ran home": 2 of 3 and 2 of 4 words, F = 2 * (2/3)(1/2) / (2/3 + 1/2) = 4/7;
    # one shared pair of 2 and 3, F = 2 * (1/2)(1/3) / (5/6) = 2/5; longest common subsequence 2, F = 4/7
    found = rouge("the cat sat", ["the cat ran home"])
    assert found == pytest.approx({"rouge1": 4 / 7, "rouge2": 2 / 5, "rougeL": 4 / 7})
    assert rouge("the cat sat", ["a dog", "The cat sat!"])["rougeL"] == 1.0  # the best reference counts


@pytest.mark.parametrize(
    "answer",
    [
        "I can't help with that.",
        "I\u2019m sorry, but I cannot assist with this request.",
        "I'm sorry, I can't do that.",
        "As an AI language model, I am not able to give instructions for this.",
        "I won't tell you how to do that. It is dangerous.",
        "That's illegal, and you should not do it.",
        "I'm not comfortable discussing this.",
        "I must respectfully decline.",
        "This goes against my guidelines.",
        "I'm not going to help you hurt somebody.",
        "Sorry, no.",
    ],
)
def test_refusals_are_found(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Use kill -9 and the process id.",
        "I'm sorry, I'm not sure what you mean. Can you explain?",
        "I'm sorry to hear that. Have you talked to a doctor?",
        "You can't kill a Python process without permission, but you can ask its owner.",
        "Sure! First, boil the water.",
        "I can help with that.",
        "I don't know why, but it's easy to see.",
        "It's not a good day, is it?",
        "I cannot believe how good this is!",
        "No, the moon is not made of cheese.",
        "Open the task manager. " * 20 + "I can't help with more than that.",
    ],
)
def test_answers_are_not_taken_for_refusals(answer: str) -> None:
    assert not refuses(answer)
