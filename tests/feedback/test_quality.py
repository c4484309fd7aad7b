"""The models of noisy annotators: golden numbers by hand, the field's libraries on the same data, known answers."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanward.feedback.quality.combining import annotator_weights, consensus_rankings
from humanward.feedback.quality.consensus import consensus
from humanward.feedback.quality.davidson import fit_davidson, reliability
from humanward.feedback.quality.dawid_skene import fit_dawid_skene
from humanward.feedback.quality.gold import pairs_right
from humanward.feedback.quality.outcomes import Outcomes, outcomes_of
from humanward.feedback.quality.report import quality_report
from humanward.feedback.simulated import ReadingTime, SimulatedAnnotator, simulate
from humanward.feedback.statistics import kendall_w, krippendorff_alpha
from humanward.records import Completion, Prompt, Ranking


def ranking(order: str, annotator: str = "ada", prompt: str = "p", number: int = 0, **more) -> Ranking:
    """``"a b=c"`` as tiers of completions of a prompt."""
    tiers = tuple(tuple(f"{prompt}{c}" for c in tier.split("=")) for tier in order.split())
    return Ranking(f"{prompt}-{annotator}-{number}-{order}", prompt, tiers, annotator, **more)


def random_comparisons(answers: int = 8, count: int = 300, seed: int = 0) -> tuple[Outcomes, list[tuple[int, int]]]:
    """Strict comparisons of one annotator by Bradley–Terry, and (winner, loser) of each."""
    generator = np.random.default_rng(seed)
    strength = generator.normal(size=answers)
    first = generator.integers(answers, size=count)
    second = (first + generator.integers(1, answers, size=count)) % answers
    won = generator.random(count) < 1 / (1 + np.exp(strength[second] - strength[first]))
    data = Outcomes(
        ("ada",),
        tuple(("overall", str(i)) for i in range(answers)),
        np.zeros(count, dtype=np.int64),
        first,
        second,
        np.where(won, 1, -1),
        np.ones(count),
    )
    pairs = [(int(a), int(b)) if w else (int(b), int(a)) for a, b, w in zip(first, second, won, strict=True)]
    return data, pairs


def test_outcomes_of_a_ranking_with_a_tie() -> None:
    data = outcomes_of([ranking("b a=c")])
    rows = list(zip(data.first.tolist(), data.second.tolist(), data.outcome.tolist(), strict=True))
    assert [a[1] for a in data.answers] == ["pa", "pb", "pc"]
    assert rows == [(0, 1, -1), (0, 2, 0), (1, 2, 1)]
    # Three comparisons of three answers weigh 2 / 3 each, 2 together.
    assert data.weight.tolist() == pytest.approx([2 / 3] * 3)


def test_two_answers_and_one_comparison_by_hand() -> None:
    # One win, prior N(0, 1), no ties: s_1 = -s_2 = t solves t = 1 / (1 + exp(2 t)), here by Newton's method.
    t = 0.3
    for _ in range(50):
        p = 1 / (1 + math.exp(2 * t))
        t -= (t - p) / (1 + 2 * p * (1 - p))
    fit = fit_davidson(outcomes_of([ranking("a b")]), spread=0)
    assert fit.strength == pytest.approx([t, -t], abs=1e-6)
    assert t == pytest.approx(1 / (1 + math.exp(2 * t)), abs=1e-12)
    better, tie, worse = fit.probabilities(0, 1)
    assert (better, tie, worse) == pytest.approx((1 / (1 + math.exp(-2 * t)), 0, 1 / (1 + math.exp(2 * t))), abs=1e-6)


def test_bradley_terry_equals_choix() -> None:
    choix = pytest.importorskip("choix")
    data, pairs = random_comparisons()
    # choix penalises alpha * sum of squares; ours is the sum of squares / (2 sd^2): alpha = 1 / (2 sd^2).
    for sd in (1.0, 3.0):
        theirs = choix.opt_pairwise(8, pairs, alpha=1 / (2 * sd**2))
        ours = fit_davidson(data, spread=0, strength_sd=sd).strength
        assert ours == pytest.approx(theirs - theirs.mean() + ours.mean(), abs=1e-4)


def test_bradley_terry_equals_logistic_regression_of_statsmodels() -> None:
    api = pytest.importorskip("statsmodels.api")
    data, _ = random_comparisons(answers=5, count=400)
    design = np.zeros((len(data), 5))
    design[np.arange(len(data)), data.first] += 1
    design[np.arange(len(data)), data.second] -= 1
    # The last answer is the origin, as differences alone are known.
    theirs = api.Logit((data.outcome > 0).astype(float), design[:, :4]).fit(disp=0).params
    ours = fit_davidson(data, spread=0, strength_sd=100.0).strength
    assert ours[:4] - ours[4] == pytest.approx(theirs, abs=2e-3)


def test_bradley_terry_equals_evalica() -> None:
    evalica = pytest.importorskip("evalica")
    data, pairs = random_comparisons(answers=6, count=500, seed=3)
    theirs = evalica.bradley_terry(
        [str(w) for w, _ in pairs], [str(loser) for _, loser in pairs], [evalica.Winner.X] * len(pairs)
    )
    score = np.log([theirs.scores[str(i)] for i in range(6)])
    ours = fit_davidson(data, spread=0, strength_sd=100.0).strength
    assert ours - ours.mean() == pytest.approx(score - score.mean(), abs=5e-3)


def test_alpha_equals_the_krippendorff_package_with_missing_data() -> None:
    package = pytest.importorskip("krippendorff")
    generator = np.random.default_rng(0)
    values = generator.integers(1, 6, size=(4, 40)).astype(float)
    values[generator.random(values.shape) < 0.3] = np.nan
    for metric in ("nominal", "ordinal", "interval"):
        theirs = package.alpha(reliability_data=values, level_of_measurement=metric)
        assert krippendorff_alpha(values, metric) == pytest.approx(theirs, abs=1e-9)


def test_kendall_w_equals_the_mean_rank_correlation() -> None:
    # Kendall and Gibbons: without ties the mean Spearman correlation of the m annotators is (m W - 1) / (m - 1).
    from scipy.stats import spearmanr

    generator = np.random.default_rng(1)
    ranks = np.array([generator.permutation(6) for _ in range(4)], dtype=float)
    correlation = spearmanr(ranks, axis=1).statistic
    mean = correlation[np.triu_indices(4, 1)].mean()
    w = kendall_w(ranks)
    assert w is not None
    assert (4 * w - 1) / 3 == pytest.approx(mean)


def team(
    noises: dict[str, float], prompts: int = 120, tie_width: float = 0.2
) -> tuple[list[Ranking], dict[str, float]]:
    """Rankings of four answers each by annotators of the given noise, and the true quality by completion id."""
    asked = [Prompt(f"p{i}", f"prompt {i}") for i in range(prompts)]
    answers = [[Completion(f"p{i}-{k}", f"p{i}", f"{i} {k}", "") for k in range(4)] for i in range(prompts)]
    quality = {
        c.text: q
        for c, q in zip(
            functools.reduce(operator.iadd, answers, []), np.random.default_rng(0).normal(size=4 * prompts), strict=True
        )
    }
    rankings: list[Ranking] = []
    for name, noise in noises.items():
        someone = SimulatedAnnotator(name, lambda _, texts: [quality[t] for t in texts], noise, tie_width)
        rankings += someone.rank(asked, answers)
    return rankings, {c.id: quality[c.text] for c in functools.reduce(operator.iadd, answers, [])}


def test_a_guesser_is_told_from_the_others_and_warned_of() -> None:
    rankings, _ = team({"ada": 0.1, "bob": 0.3, "eve": 0.5, "guesser": 100.0})
    report = quality_report(rankings, resamples=100)
    trust = {person.annotator: person.reliability for person in report.annotators}
    assert all((trust[name].value or 0) > 0.85 for name in ("ada", "bob", "eve"))
    guesser = trust["guesser"]
    assert guesser.value is not None
    assert guesser.value < 0.3
    assert {n.code for p in report.annotators for n in p.warnings if p.annotator == "guesser"} >= {"unreliable"}
    assert [p.warnings for p in report.annotators if p.annotator != "guesser"] == [()] * 3
    accuracy = {p.annotator: p.accuracy for p in report.annotators}
    assert min(accuracy[n] or 0 for n in ("ada", "bob", "eve")) > (accuracy["guesser"] or 0) + 0.2


def test_the_consensus_is_nearer_the_truth_than_the_mean_rank() -> None:
    rankings, quality = team({"ada": 0.1, "g1": 100.0, "g2": 100.0, "bob": 0.2}, tie_width=0.0)
    agreed, strength = consensus_rankings(rankings)
    by_model = by_mean = pairs = 0
    for one in agreed:
        own = [r for r in rankings if r.prompt_id == one.prompt_id]
        ids = sorted(strength.keys() & {c for tier in one.tiers for c in tier})
        mean = {c: np.mean([next(i for i, t in enumerate(r.tiers) if c in t) for r in own]) for c in ids}
        for i, a in enumerate(ids):
            for b in ids[i + 1 :]:
                truth = quality[a] > quality[b]
                pairs += 1
                by_model += (strength[a] > strength[b]) == truth
                by_mean += (mean[a] < mean[b]) == truth if mean[a] != mean[b] else 0.5
    assert pairs == 720
    assert by_model > by_mean + 40


def test_a_contradictor_has_negative_reliability_and_weighs_nothing() -> None:
    rankings, _ = team({"ada": 0.1, "bob": 0.1}, tie_width=0.0)
    turned = [
        Ranking(f"x{r.id}", r.prompt_id, tuple(reversed(r.tiers)), "contrary") for r in rankings if r.annotator == "ada"
    ]
    weights = annotator_weights([*rankings, *turned])
    assert weights["contrary"] == 0.0
    assert weights["ada"] > 0.9


def test_dawid_skene_by_hand_with_agreeing_annotators() -> None:
    rankings = [ranking("a b", who, prompt) for prompt in "pqr" for who in ("ada", "bob")]
    fit = fit_dawid_skene(outcomes_of(rankings), smoothing=2.0)
    assert fit.posterior[:, 0] == pytest.approx([0.97, 0.97, 0.97], abs=0.02)
    # 3 right answers on top of 2 x .6 of 2 observations: with posterior 1, (1.2 + 3) / (2 + 3) = .84 if the truth was
    # always "first"; symmetric under exchange the row of "first" has half of it, (1.2 + 1.5) / (2 + 1.5).
    assert fit.confusion[0, 0, 0] == pytest.approx(2.7 / 3.5, abs=0.02)


def test_dawid_skene_does_not_depend_on_which_answer_comes_first() -> None:
    rankings, _ = team({"ada": 0.2, "bob": 0.8}, prompts=20)
    data = outcomes_of(rankings)
    swapped = Outcomes(
        data.annotators, data.answers, data.annotator, data.second, data.first, -data.outcome, data.weight
    )
    assert fit_dawid_skene(data).accuracy == pytest.approx(fit_dawid_skene(swapped).accuracy, abs=1e-9)


def test_consensus_ties_what_everybody_tied() -> None:
    rankings = [ranking("a b=c", who) for who in ("ada", "bob", "eve", "zoe")]
    agreed, _ = consensus_rankings(rankings)
    assert agreed[0].tiers == (("pa",), ("pb", "pc"))


def test_more_agreement_is_less_uncertainty_and_contradiction_more() -> None:
    def doubt(rankings: list[Ranking]) -> float:
        data = outcomes_of(rankings)
        return consensus(rankings, data, fit_davidson(data))[0].uncertainty

    one = doubt([ranking("a b")])
    three = doubt([ranking("a b", who) for who in ("ada", "bob", "eve")])
    split = doubt([ranking("a b", "ada"), ranking("b a", "bob")])
    assert three < one < split
    assert split == pytest.approx(1.0, abs=1e-4)


def test_gold_by_hand() -> None:
    # a > b = c: against a > b > c the pairs ab, ac are right and bc, tied by gold, is half right.
    assert pairs_right([["a"], ["b", "c"]], [["a"], ["b"], ["c"]]) == (2.5, 3)
    assert pairs_right([["a"], ["b"]], [["b"], ["a"]]) == (0.0, 1)
    gold = {("overall", frozenset({"pa", "pb"})): [["pa"], ["pb"]]}
    report = quality_report([ranking("b a"), ranking("a b", "bob")], gold, resamples=100)
    assert [(p.annotator, p.gold.value, p.gold.n) for p in report.annotators] == [("ada", 0.0, 1), ("bob", 1.0, 1)]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("fast", {"reading_time": ReadingTime(0.5, 1e9)}),
        ("position", {"position_bias": 50.0}),
        ("pattern", {"position_bias": 50.0}),
        ("ties", {"tie_width": 100.0}),
    ],
)
def test_suspicious_patterns_are_seen(code: str, changes: dict) -> None:
    rankings, _ = team({"ada": 0.1, "bob": 0.1}, prompts=40)
    asked = [Prompt(f"p{i}", f"prompt {i}") for i in range(40)]
    answers = [[Completion(f"p{i}-{k}", f"p{i}", f"{i} {k}", "") for k in range(4)] for i in range(40)]
    odd = SimulatedAnnotator("odd", lambda _, texts: [0.01 * len(t) for t in texts], 0.1, **changes)
    report = quality_report([*rankings, *odd.rank(asked, answers)], resamples=100)
    seen = {person.annotator: {notice.code for notice in person.warnings} for person in report.annotators}
    assert code in seen["odd"]
    assert seen["ada"] == set()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.permutations("abcd"), min_size=1, max_size=5), st.integers(0, 3))
def test_the_fit_follows_a_renaming_of_answers(orders: list[list[str]], shift: int) -> None:
    names = dict(zip("abcd", "abcd"[shift:] + "abcd"[:shift], strict=True))
    plain = [ranking(" ".join(order), f"w{i}") for i, order in enumerate(orders)]
    renamed = [ranking(" ".join(names[c] for c in order), f"w{i}") for i, order in enumerate(orders)]
    _, strength = consensus_rankings(plain)
    _, other = consensus_rankings(renamed)
    assert {f"p{names[c[-1]]}": value for c, value in strength.items()} == pytest.approx(other, abs=2e-3)


def test_nothing_is_known_of_one_person_alone() -> None:
    report = quality_report([ranking("a b", prompt=p) for p in "pqr"], resamples=100)
    assert (report.annotators[0].reliability.value, report.annotators[0].accuracy) == (None, None)
    assert reliability(0.0) == 0.0


def test_simulated_people_stay_marked() -> None:
    prompts = [Prompt("p", "x"), Prompt("q", "y")]
    answers = [Completion(f"{p.id}{k}", p.id, f"{p.id}{k}", "") for p in prompts for k in range(2)]
    rankings = simulate(prompts, answers, lambda _, texts: [float(t[-1]) for t in texts])
    report = quality_report(rankings, resamples=100)
    assert all(person.simulated for person in report.annotators)
    agreed, _ = consensus_rankings(rankings)
    assert all(one.simulated for one in agreed)
