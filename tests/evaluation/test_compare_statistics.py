"""Statistics over seeds and prompts: goldens worked by hand, limits that are known, and coverage in simulation.

Simulations use fixed seeds, so they cannot flake; the false-alarm probability stated is that of a fresh seed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from humanward.errors import InputError
from humanward.evaluation import compare_statistics as s

# Seed means 2 and 4, prompt means 1.5 and 4.5, mean 3. Mean squares: seeds 2 * 2 = 4, prompts 2 * 4.5 = 9; the rest is
# +-.5 in every cell, 4 * .25 / 1 = 1. Of seeds: 4 / 4 = 1; of prompts: (9 - 1) / 4 = 2.
TABLE = [[1, 3], [2, 6]]
T1 = 12.706204736  # Student's t at .975 with one degree of freedom: tan(.475 pi)


def test_errors_golden() -> None:
    assert s.errors(TABLE) == s.Errors(of_seeds=1.0, of_prompts=2.0, seeds=2, prompts=2)


def test_interval_golden() -> None:
    found = s.crossed(TABLE)
    half = T1 * math.sqrt(1 + 2)
    assert found.ci95 == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert (found.value, found.seeds, found.prompts) == (3.0, 2, 2)
    assert found.spread == pytest.approx(math.sqrt(2), rel=1e-12)  # of 2 and 4


def test_each_part_has_its_own_degrees_of_freedom() -> None:
    # t at .975: 2.776445 with 4, 1.984217 with 99 degrees of freedom
    half = s.Errors(of_seeds=4.0, of_prompts=9.0, seeds=5, prompts=100).half_width(0.05)
    assert half == pytest.approx(math.sqrt(2.776445**2 * 4 + 1.984217**2 * 9), rel=1e-6)


def test_p_value_golden() -> None:
    # With one degree of freedom p = 1 - 2 atan(t) / pi; the interval reaches 0 at t = 3 / sqrt(3), so p = 1 - 2/3.
    assert s.crossed_difference(TABLE, np.zeros((2, 2))).p_value == pytest.approx(1 / 3, rel=1e-9)


def test_p_value_belongs_to_the_interval() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        error = s.Errors(*rng.exponential(size=2), seeds=int(rng.integers(2, 9)), prompts=int(rng.integers(2, 300)))
        mean = float(rng.normal() * 3)
        assert (error.p_value(mean) < 0.05) == (abs(mean) > error.half_width(0.05))


def test_p_value_ends() -> None:
    error = s.Errors(1.0, 1.0, seeds=5, prompts=50)
    assert error.p_value(0.0) == 1.0
    assert error.p_value(1e9) == pytest.approx(s.SMALLEST_P, rel=1e-6)
    assert s.Errors(0.0, 0.0, seeds=5, prompts=50).p_value(0.0) == 1.0
    assert s.Errors(0.0, 0.0, seeds=5, prompts=50).p_value(1.0) == pytest.approx(s.SMALLEST_P, rel=1e-6)


def test_without_prompts_it_is_student_s_interval() -> None:
    values = np.random.default_rng(1).normal(size=6)
    theirs = stats.ttest_1samp(values, 0.0)
    ours = s.over_seeds(values)
    assert ours.ci95 == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-9)
    assert ours.prompts is None
    assert s.difference_over_seeds(values, np.zeros(6)).p_value == pytest.approx(theirs.pvalue, rel=1e-9)


def test_prompts_that_do_not_differ_add_nothing() -> None:
    values = np.array([1.0, 2.0, 6.0])
    assert s.crossed(np.repeat(values[:, None], 40, axis=1)).ci95 == pytest.approx(s.over_seeds(values).ci95, rel=1e-9)


def test_seeds_that_do_not_differ_leave_the_prompts_error() -> None:
    prompts = np.random.default_rng(2).normal(size=80)
    interval = s.crossed(np.tile(prompts, (4, 1))).ci95
    assert interval == pytest.approx(tuple(stats.ttest_1samp(prompts, 0.0).confidence_interval()), rel=1e-9)


def test_one_seed_has_no_interval() -> None:
    found = s.crossed([[1.0, 2.0, 6.0]])
    assert (found.value, found.ci95, found.spread, found.seeds, found.prompts) == (3.0, None, None, 1, 3)
    difference = s.crossed_difference([[1.0, 2.0]], [[0.0, 0.0]])
    assert (difference.value, difference.ci95, difference.p_value) == (1.5, None, None)
    assert not difference.excludes_zero


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=(4, 50)) * 10
    found = s.crossed_difference(theirs + 1, theirs)
    assert found.value == pytest.approx(1.0)
    assert found.ci95 == pytest.approx((1.0, 1.0))
    assert s.crossed_difference(theirs, theirs + 1).value == pytest.approx(-1.0)


def test_relative_golden() -> None:
    # Halved in every cell: no error at all.
    before = np.array([[2.0, 4.0], [6.0, 8.0]])
    halved = s.relative(before / 2, before)
    assert halved is not None
    assert halved.value == pytest.approx(-0.5)
    assert halved.ci95 == pytest.approx((-0.5, -0.5), abs=1e-9)
    # Means 3 and 6: R = .5; cells (a - .5 b) / 6 of a = [[1, 3], [2, 6]], b = 6 are (a - 3) / 6: TABLE's error / 6.
    found = s.relative(TABLE, np.full((2, 2), 6.0))
    assert found is not None
    assert found.value == -0.5
    assert found.ci95 == pytest.approx((-0.5 - T1 * math.sqrt(3) / 6, -0.5 + T1 * math.sqrt(3) / 6), rel=1e-6)
    assert found.spread == pytest.approx(math.sqrt(2) / 6)  # 2/6 - 1 and 4/6 - 1
    assert s.relative(TABLE, np.zeros((2, 2))) is None


def test_wins_golden() -> None:
    assert s.wins([0.30, 0.30, 0.30, 0.30], [0.31, 0.29, 0.20, 0.40]).tolist() == [0.5, 0.5, 1.0, 0.0]
    assert s.wins([0.5], [0.5], tie=0.0).tolist() == [0.5]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_win_rates_are_complementary(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = np.array(pairs).T
    assert s.wins(ours, theirs).mean() == pytest.approx(1 - s.wins(theirs, ours).mean())
    assert s.wins(ours, ours).mean() == 0.5


def test_holm_golden() -> None:
    # Sorted .01, .03, .04: times 3, 2, 1 = .03, .06, .04, and none below an earlier one.
    assert s.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert s.holm([0.6, 0.7]) == [1.0, 1.0]
    assert s.holm([]) == []


@pytest.mark.parametrize("bad", [[], [1.0, 2.0], [[]], [[1.0, float("nan")]]])
def test_bad_tables_are_refused(bad: list[float]) -> None:
    with pytest.raises(InputError):
        s.crossed(bad)


def test_tables_must_agree() -> None:
    with pytest.raises(InputError, match=r"tables of \(2, 2\) and \(1, 2\)"):
        s.crossed_difference(TABLE, [[1, 2]])


# --- simulation --------------------------------------------------------------------------------------------------

RUNS = 2_000


def draw(
    rng: np.random.Generator, seeds: int, prompts: int, sizes: tuple[float, float, float], *, skewed: bool = False
) -> np.ndarray:
    """(RUNS, S, P) tables of mean 0: seed, prompt and rest with these standard deviations; exponential if skewed."""
    shapes = (RUNS, seeds, 1), (RUNS, 1, prompts), (RUNS, seeds, prompts)
    parts = (
        rng.exponential(size=shape) - 1 if skewed and i else rng.normal(size=shape) for i, shape in enumerate(shapes)
    )
    return sum(size * part for size, part in zip(sizes, parts, strict=True))


# Binomial(2000, .95): standard deviation .0049. Runs that differ by no more than their noise, prompts that differ
# little or much, seeds that dominate; what a comparison of five seeds on 300 prompts meets.
SCENES = {
    "rest alone": (5, 300, (0.0, 0.0, 1.0)),
    "prompts": (5, 300, (0.0, 1.0, 1.0)),
    "some of each": (5, 300, (0.05, 0.5, 1.0)),
    "seeds": (5, 300, (0.3, 0.5, 1.0)),
    "few prompts": (5, 40, (0.1, 0.5, 1.0)),
    "three seeds": (3, 300, (0.05, 0.5, 1.0)),
    "two seeds": (2, 100, (0.3, 0.5, 1.0)),
}


def covered(tables: np.ndarray) -> float:
    return float(np.mean([low <= 0 <= high for low, high in (s.crossed(table).ci95 for table in tables)]))


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("skewed", [False, True])
def test_interval_covers(scene: str, skewed: bool) -> None:
    """Never far below 95 %, and with five seeds never far above either; 4 standard errors below 93 or above 97.5 %:
    a coverage of .95 leaves these bounds with probability 1e-4."""
    seeds, prompts, sizes = SCENES[scene]
    rate = covered(draw(np.random.default_rng(7), seeds, prompts, sizes, skewed=skewed))
    assert 0.93 <= rate <= (0.975 if seeds == 5 else 0.985), rate


def test_student_over_seed_means_would_be_caught() -> None:
    """Taking the prompts for the only ones there are: 95 % become 68."""
    tables = draw(np.random.default_rng(7), 5, 300, SCENES["prompts"][2])
    assert covered(tables.mean(axis=2, keepdims=True)) < 0.75


def test_a_bootstrap_of_five_seeds_would_be_caught() -> None:
    """Percentile bootstrap of seeds and prompts where seeds dominate: five seeds are too few to resample."""
    rng = np.random.default_rng(7)
    tables = draw(rng, 5, 300, SCENES["seeds"][2])[:200]
    hits = 0
    for table in tables:
        seeds, prompts = rng.multinomial(5, [0.2] * 5, 300) / 5, rng.multinomial(300, [1 / 300] * 300, 300) / 300
        low, high = np.quantile(((seeds @ table) * prompts).sum(axis=1), [0.025, 0.975])
        hits += low <= 0 <= high
    assert hits / len(tables) < 0.93


def test_p_is_not_below_its_level_under_the_null() -> None:
    """P(p <= a) is at most about a, over differences of tables with one law. 4 standard errors: 1e-4."""
    rng = np.random.default_rng(11)
    ours, theirs = (draw(rng, 5, 100, (0.1, 0.3, 1.0)) for _ in range(2))
    found = np.array([s.crossed_difference(a, b).p_value for a, b in zip(ours, theirs, strict=True)])
    for level in (0.01, 0.05, 0.2):
        assert (found <= level).mean() <= level + 4 * math.sqrt(level * (1 - level) / RUNS)
    assert (found <= 0.5).mean() > 0.4


def test_p_finds_a_difference() -> None:
    rng = np.random.default_rng(12)
    found = [s.crossed_difference(t + 0.5, np.zeros(t.shape)).p_value for t in draw(rng, 5, 100, (0.1, 0.3, 1.0))[:200]]
    assert np.mean([p < 0.05 for p in found if p is not None]) > 0.95


def test_the_relative_change_covers() -> None:
    """Toxicity-like: mostly about 0, one in eight high; after alignment half as often. True ratio .5."""
    rng = np.random.default_rng(13)
    hits = 0
    for _ in range(1000):
        risk = rng.beta(0.5, 3.5, size=300)
        before = (rng.random((5, 300)) < risk) * rng.uniform(0.6, 1.0, (5, 300))
        after = (rng.random((5, 300)) < risk / 2) * rng.uniform(0.6, 1.0, (5, 300))
        found = s.relative(after, before)
        assert found is not None
        assert found.ci95 is not None
        hits += found.ci95[0] <= -0.5 <= found.ci95[1]
    assert 0.93 <= hits / 1000 <= 0.985
