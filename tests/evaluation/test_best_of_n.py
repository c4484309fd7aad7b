"""The best of n answers by the reward: the estimator against hand and enumeration, KL, the verdicts, the file."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanward.errors import InputError
from humanward.evaluation.best_of_n import (
    OUTCOMES,
    BestOfN,
    Frontier,
    PromptAnswers,
    analytic_kl,
    at_kl,
    best_of,
    order_weights,
    read_frontier,
    sizes,
    summarise_best_of_n,
    write_frontier,
)


def enumerated(reward: list[float], values: list[float], n: int) -> float:
    """Every subset of n, the best of each, ties shared: the definition, at C(N, n) times the cost."""
    found = []
    for subset in combinations(range(len(reward)), n):
        best = max(reward[i] for i in subset)
        tied = [values[i] for i in subset if reward[i] == best]
        found.append(sum(tied) / len(tied))
    return sum(found) / len(found)


# --- the estimator ---------------------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    # N = 4, n = 2: six pairs; the lowest is never the higher of two, then it is in 1, 2 and 3 of them.
    assert order_weights(4, 2) == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6], rel=1e-12)
    # N = 5, n = 3: ten triples; C(2,2) = 1, C(3,2) = 3, C(4,2) = 6.
    assert order_weights(5, 3) == pytest.approx([0, 0, 0.1, 0.3, 0.6], rel=1e-12)
    assert order_weights(3, 1) == pytest.approx([1 / 3] * 3, rel=1e-12)
    assert order_weights(3, 3) == pytest.approx([0, 0, 1], abs=1e-12)


def test_best_of_by_hand() -> None:
    # Rewards 3, 1, 4, 2 in the order of the samples. n = 2: (1*0 + 2*1 + 3*2 + 4*3) / 6 = 20/6; the judge's values
    # .1 (of 3), .9 (of 1), .4 (of 4), .6 (of 2): (0*.9 + 1*.6 + 2*.1 + 3*.4) / 6 = 2/6.
    reward, judge = [[3.0, 1.0, 4.0, 2.0]], [[0.1, 0.9, 0.4, 0.6]]
    assert best_of(reward, reward, 2) == pytest.approx([20 / 6], rel=1e-12)
    assert best_of(reward, judge, 2) == pytest.approx([1 / 3], rel=1e-12)
    assert best_of(reward, judge, 1) == pytest.approx([0.5], rel=1e-12)
    assert best_of(reward, judge, 4) == pytest.approx([0.4], rel=1e-12)


def test_ties_share_by_hand() -> None:
    # Rewards 1, 2, 2: of the pairs {1,2}, {1,2'}, {2,2'} the winners are 2, 2' and half of each: values 0, 1 and .5.
    assert best_of([[1.0, 2.0, 2.0]], [[7.0, 0.0, 1.0]], 2) == pytest.approx([0.5], rel=1e-12)
    # All alike: any answer, whatever n.
    for n in (1, 2, 3):
        assert best_of([[5.0, 5.0, 5.0]], [[0.0, 3.0, 6.0]], n) == pytest.approx([3.0], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_best_of_equals_the_mean_over_all_subsets(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 7))
    number = st.integers(0, 3)  # few values, so that ties are common
    reward = data.draw(st.lists(number.map(float), min_size=samples, max_size=samples))
    values = data.draw(st.lists(st.floats(-5, 5), min_size=samples, max_size=samples))
    n = data.draw(st.integers(1, samples))
    assert best_of([reward], [values], n)[0] == pytest.approx(enumerated(reward, values, n), rel=1e-9, abs=1e-9)


def test_the_order_of_the_samples_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    reward = generator.integers(0, 4, size=(5, 8)).astype(float)
    judge = generator.random((5, 8))
    order = generator.permutation(8)
    for n in (1, 2, 4, 8):
        assert best_of(reward[:, order], judge[:, order], n) == pytest.approx(best_of(reward, judge, n), rel=1e-12)


def test_the_reward_never_falls_with_n() -> None:
    reward = np.random.default_rng(1).normal(size=(20, 16))
    curve = np.array([best_of(reward, reward, n) for n in range(1, 17)])
    assert (np.diff(curve, axis=0) > 0).all()
    assert curve[0] == pytest.approx(reward.mean(1), rel=1e-12)
    assert curve[-1] == pytest.approx(reward.max(1), rel=1e-12)


def test_it_is_unbiased() -> None:
    # The highest of n uniform numbers has mean n / (n + 1); 4,000 prompts of 8 answers, standard error below .004.
    reward = np.random.default_rng(2).random((4000, 8))
    for n in (1, 2, 4, 8):
        assert best_of(reward, reward, n).mean() == pytest.approx(n / (n + 1), abs=0.016)


@pytest.mark.parametrize(
    ("reward", "values", "n", "words"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], 3, "best of n = 3: there are 2 answers a prompt; choose n from 1 to 2"),
        ([[1.0, 2.0]], [[1.0, 2.0]], 0, "choose n from 1 to 2"),
        ([[1.0, math.nan]], [[1.0, 2.0]], 1, "not finite"),
        ([[1.0, 2.0]], [[1.0]], 1, r"rewards \(1, 2\) and values \(1, 1\)"),
        ([1.0, 2.0], [1.0, 2.0], 1, "give both as"),
    ],
)
def test_bad_input(reward: list, values: list, n: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        best_of(reward, values, n)


def test_sizes() -> None:
    assert sizes(16) == [1, 2, 4, 8, 16]
    assert sizes(12) == [1, 2, 4, 8, 12]
    assert sizes(2) == [1, 2]
    assert sizes(1) == [1]


# --- KL --------------------------------------------------------------------------------------------------------------


def test_kl_by_hand() -> None:
    assert analytic_kl(1) == 0
    assert analytic_kl(2) == pytest.approx(0.6931471806 - 0.5, rel=1e-9)
    assert analytic_kl(4) == pytest.approx(1.3862943611 - 0.75, rel=1e-9)
    assert analytic_kl(16) == pytest.approx(2.7725887222 - 0.9375, rel=1e-9)
    with pytest.raises(InputError, match="choose from at least one"):
        analytic_kl(0)


def true_kl(probabilities: np.ndarray, n: int) -> float:
    """Outcomes in ascending order of a reward that tells all apart: P(best of n is y) = F(y)^n - F(y-)^n."""
    upper = np.cumsum(probabilities)
    chosen = upper**n - (upper - probabilities) ** n
    return float((chosen * np.log(chosen / probabilities)).sum())


@pytest.mark.parametrize("n", [2, 4, 16])
def test_kl_is_an_upper_bound_and_exact_when_no_answer_comes_twice(n: int) -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        assert true_kl(generator.dirichlet(np.full(6, 0.5)), n) <= analytic_kl(n) + 1e-12
    # 100,000 answers, all alike likely, hardly ever twice: the bound is nearly met. Two answers: far from it.
    assert true_kl(np.full(100_000, 1e-5), n) == pytest.approx(analytic_kl(n), abs=1e-3)
    assert true_kl(np.array([0.5, 0.5]), n) < 0.75 * analytic_kl(n)


def test_kl_of_two_answers_by_hand() -> None:
    # Best of 2 takes the better of two alike likely answers with 3/4: 3/4 log(3/2) + 1/4 log(1/2) = .1308 < .1931.
    assert true_kl(np.array([0.5, 0.5]), 2) == pytest.approx(0.75 * 0.4054651081 - 0.25 * 0.6931471806, rel=1e-9)


def test_kl_in_simulation() -> None:
    # Best of 4 of answers that are numbers in [0, 1): its density is 4 x^3, log-ratio log 4 + 3 log x, mean
    # log 4 - 3/4; 200,000 draws, standard deviation 3/4, so a standard error of .0017.
    best = np.random.default_rng(4).random((200_000, 4)).max(1)
    assert np.log(4 * best**3).mean() == pytest.approx(analytic_kl(4), abs=0.008)


def test_between_two_n_the_frontier_is_a_mixture() -> None:
    curves = [np.array([0.0, 1.0]), np.array([1.0, 3.0]), np.array([3.0, 3.0])]
    kls = [0.0, 0.2, 0.6]
    assert at_kl(curves, kls, 0.1) == pytest.approx([0.5, 2.0])
    assert at_kl(curves, kls, 0.2) == pytest.approx([1.0, 3.0])
    assert at_kl(curves, kls, 0.5) == pytest.approx([2.5, 3.0])
    assert at_kl(curves, kls, 0.6) == pytest.approx([3.0, 3.0])
    assert at_kl(curves, kls, 0.0) == pytest.approx([0.0, 1.0])
    assert at_kl(curves, kls, -0.01) == pytest.approx([0.0, 1.0])  # a sampled KL of nearly nothing may be negative
    assert at_kl(curves, kls, 0.7) is None
    # The mixture's KL is at most the interpolated one: half of best of 2, half of best of 4, on uniform answers.
    x = (np.arange(200_000) + 0.5) / 200_000
    mixed = (2 * x + 4 * x**3) / 2
    assert (mixed * np.log(mixed)).mean() < (analytic_kl(2) + analytic_kl(4)) / 2


# --- the verdict -----------------------------------------------------------------------------------------------------


def frontier(
    prompts: int = 64,
    samples: int = 16,
    *,
    follows: float = 1.0,
    toxic: float = 0.2,
    flat: bool = False,
    seed: int = 0,
    policy: tuple[PromptAnswers, ...] = (),
) -> Frontier:
    """``follows``: how much of the reward is what the judge sees (1: all, 0: nothing, -1: the opposite)."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(prompts):
        judged = np.where(
            generator.random(samples) < toxic, generator.uniform(0.5, 1, samples), generator.uniform(0, 0.05, samples)
        )
        noise = generator.normal(size=samples)
        reward = -3 * follows * judged + (1 - abs(follows)) * noise + 1e-3 * noise
        if flat:
            reward = np.full(samples, float(number)) + 1e-3 * noise
        found.append(
            PromptAnswers(
                prompt_id=f"p{number}",
                prompt=f"prompt {number}",
                texts=tuple(f"answer {k}" for k in range(samples)),
                reward=tuple(reward.tolist()),
                toxicity=tuple(judged.tolist()),
                sequence_kl=(0.0,) * samples,
            )
        )
    return Frontier("validation", samples, "a reward", "a judge", tuple(found), policy)


def summed(**changes: object) -> BestOfN:
    summary = summarise_best_of_n(frontier(**changes), seed=0)  # type: ignore[arg-type]
    assert summary.outcome in OUTCOMES
    return summary


def test_a_reward_that_the_judge_agrees_with_carries() -> None:
    summary = summed()
    assert summary.outcome == "carries"
    assert summary.warning is None
    assert summary.verdict.startswith(
        "The reward model carries: the best of 16 by its score lowers judged toxicity from ."
    )
    assert "64 validation prompts" in summary.verdict
    assert [point.n for point in summary.points] == [1, 2, 4, 8, 16]
    assert summary.points[0].reward_difference is None
    rewards = [point.reward.value for point in summary.points]
    assert rewards == sorted(rewards)
    last = summary.points[-1].toxicity_difference
    assert last is not None
    assert last.mean == pytest.approx(summary.points[-1].toxicity.value - summary.points[0].toxicity.value)
    assert last.ci95 is not None
    assert last.ci95[1] < 0
    assert last.clusters == 64


def test_a_reward_that_the_judge_does_not_see_is_the_weak_link() -> None:
    summary = summed(follows=0.0)
    assert summary.outcome == "weak"
    assert summary.warning == summary.verdict
    assert summary.verdict.startswith(
        "The reward model is the weak link: choosing the best of 16 by its score does not"
    )
    assert "Collect more rankings" in summary.verdict
    assert "95 % interval" in summary.verdict


def test_a_reward_that_likes_toxic_answers_is_the_weak_link() -> None:
    summary = summed(follows=-1.0)
    assert summary.outcome == "weak"
    assert "by its score raises judged toxicity from ." in summary.verdict


def test_a_reward_that_carries_a_short_way() -> None:
    # Of 8 answers the four least liked are toxic (.8), the next three are not, the favourite is every other time (.9).
    # n = 1: (4 * .8 + .45) / 8 = .456; n = 2, weights (i - 1)/28: (6 * .8 + 7 * .45)/28 = .284; n = 4, weights
    # C(i - 1, 3)/70: (.8 + 35 * .45)/70 = .236; n = 8: .45, which is no gain.
    prompts = tuple(
        PromptAnswers(
            prompt_id=f"p{number}",
            prompt="?",
            texts=("",) * 8,
            reward=tuple(float(k) for k in range(8)),
            toxicity=(0.8, 0.8, 0.8, 0.8, 0.0, 0.0, 0.0, 0.9 * (number % 2)),
            sequence_kl=(0.0,) * 8,
        )
        for number in range(40)
    )
    summary = summarise_best_of_n(Frontier("validation", 8, "r", "j", prompts), seed=0)
    means = [point.toxicity.value for point in summary.points]
    assert means == pytest.approx([0.45625, 0.28392857, 0.23642857, 0.45], rel=1e-6)
    assert summary.outcome == "short"
    assert summary.warning == summary.verdict
    assert "carries only a short way: the best of 4" in summary.verdict
    assert "for the best of 8 no gain is shown" in summary.verdict
    assert "below 0.64 nats of KL" in summary.verdict


def test_a_reward_that_tells_nothing_apart() -> None:
    summary = summed(flat=True)
    assert summary.outcome == "flat"
    assert summary.warning == summary.verdict
    assert "hardly tells the answers to one prompt apart" in summary.verdict


def test_few_prompts_are_no_evidence() -> None:
    summary = summed(prompts=6, follows=0.0)
    assert summary.outcome == "too few"
    assert summary.warning is None
    assert summary.verdict.startswith("Too few prompts to tell")
    assert summed(prompts=1).outcome == "too few"


def test_nothing_to_lower_is_no_weak_link() -> None:
    summary = summarise_best_of_n(scaled(frontier(follows=0.0, toxic=0.0), 0.1), seed=0)
    assert summary.outcome == "nothing to lower"
    assert summary.warning is None


def scaled(given: Frontier, factor: float) -> Frontier:
    return Frontier(
        given.split,
        given.samples,
        given.reward,
        given.judge,
        tuple(
            PromptAnswers(**{**vars(one), "toxicity": tuple(factor * t for t in one.toxicity if t is not None)})
            for one in given.reference
        ),
    )


def test_prompts_with_unscored_answers_are_left_out_and_counted() -> None:
    given = frontier(30)
    one = given.reference[3]
    holed = PromptAnswers(**{**vars(one), "toxicity": (None, *one.toxicity[1:])})
    rest = tuple(holed if i == 3 else other for i, other in enumerate(given.reference))
    summary = summarise_best_of_n(Frontier("validation", 16, "r", "j", rest), seed=0)
    assert (summary.prompts, summary.left_out) == (29, 1)
    nothing = PromptAnswers(**{**vars(one), "reward": (None,) * 16})
    summary = summarise_best_of_n(Frontier("validation", 16, "r", "j", (nothing,)), seed=0)
    assert (summary.prompts, summary.left_out, summary.points) == (0, 1, ())
    assert summary.outcome == "too few"


# --- the policy against the frontier ---------------------------------------------------------------------------------


def policy_at(given: Frontier, kl: float, better: float) -> tuple[PromptAnswers, ...]:
    """Four answers a prompt whose reward is the frontier's at ``kl`` plus ``better``, with a little noise."""
    reward, toxicity = (np.array([getattr(one, name) for one in given.reference]) for name in ("reward", "toxicity"))
    ns = sizes(given.samples)
    kls = [analytic_kl(n) for n in ns]
    noise = np.random.default_rng(9).normal(0, 0.01, len(reward))
    at = at_kl([best_of(reward, reward, n) for n in ns], kls, min(kl, kls[-1]))
    judged = at_kl([best_of(reward, toxicity, n) for n in ns], kls, min(kl, kls[-1]))
    assert at is not None
    assert judged is not None
    return tuple(
        PromptAnswers(one.prompt_id, one.prompt, ("a",) * 4, (r + better + e,) * 4, (t,) * 4, (kl,) * 4)
        for one, r, t, e in zip(given.reference, at, judged, noise, strict=True)
    )


@pytest.mark.parametrize(
    ("better", "words"),
    [
        (-0.3, "gets less reward than best-of-n"),
        (0.0, "about as much reward"),
        (0.3, "gets more reward than best-of-n"),
    ],
)
def test_the_policy_is_compared_at_equal_kl(better: float, words: str) -> None:
    given = frontier()
    policy = policy_at(given, 0.5, better)
    summary = summarise_best_of_n(frontier(policy=policy), seed=0)
    assert summary.policy is not None
    assert summary.policy.samples == 4
    assert summary.policy.kl.value == pytest.approx(0.5)
    assert summary.policy.reward_difference is not None
    assert summary.policy.reward_difference.mean == pytest.approx(better, abs=0.01)
    assert summary.policy.toxicity_difference is not None
    assert summary.policy.toxicity_difference.mean == pytest.approx(0, abs=1e-12)
    assert summary.policy_verdict is not None
    assert words in summary.policy_verdict
    assert "0.50 nats" in summary.policy_verdict


def test_a_policy_beyond_the_frontier_is_not_compared() -> None:
    summary = summarise_best_of_n(frontier(policy=policy_at(frontier(), 3.0, 0.0)), seed=0)
    assert summary.policy is not None
    assert summary.policy.reward_difference is None
    assert summary.policy.frontier_reward is None
    assert summary.policy_verdict is not None
    assert "beyond the 1.84 nats of the best of 16" in summary.policy_verdict


# --- frontier.json ---------------------------------------------------------------------------------------------------


def test_the_file_comes_back_as_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    given = frontier(3, 4)
    given = Frontier("test", 4, "r", "j", given.reference, policy_at(given, 0.1, 0.0))
    write_frontier(tmp_path / "frontier.json", given)
    assert read_frontier(tmp_path / "frontier.json") == given
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.json"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda v: v["reference"].clear(), "holds no prompts"),
        (lambda v: v["reference"].append(v["reference"][0]), "appears twice"),
        (lambda v: v["reference"][0]["texts"].pop(), "as samples says"),
        (lambda v: v["reference"][0]["toxicity"].__setitem__(0, 1.5), "outside 0 to 1"),
        (lambda v: v["reference"][0]["reward"].__setitem__(0, "much"), "not a finite number"),
        (lambda v: v.__setitem__("mine", 1), "unknown field 'mine'"),
        (lambda v: v.pop("judge"), "'judge' is missing"),
    ],
)
def test_a_damaged_file_is_named(damage, words: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "frontier.json"
    write_frontier(path, frontier(2, 4))
    value = json.loads(path.read_text(encoding="utf-8"))
    damage(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match=words) as refusal:
        read_frontier(path)
    assert str(path) in str(refusal.value)


def test_a_file_cut_short_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "frontier.json"
    path.write_text('{"split": "val', encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        read_frontier(path)
    with pytest.raises(InputError, match="no such file"):
        read_frontier(tmp_path / "none.json")
