"""simulated: noise-free order, ties, determinism in any order or batch, and the effect of each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.feedback.formats import export_file, import_files
from humanward.feedback.simulated import ReadingTime, SimulatedAnnotator, simulate, tiers_by_score
from humanward.feedback.statistics import position_bias
from humanward.records import Completion, Prompt, Ranking

PROMPTS = [Prompt(f"p{i}", f"question {i}") for i in range(40)]
ANSWERS = {p.id: [Completion(f"{p.id}-{k}", p.id, str(k), "m") for k in range(4)] for p in PROMPTS}
FLAT = [answer for answers in ANSWERS.values() for answer in answers]
LISTS = [ANSWERS[p.id] for p in PROMPTS]


def length_of_text(_prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
    """The answers "0" to "3" score what they say."""
    return np.array([float(response) for response in responses])


def annotator(**rest) -> SimulatedAnnotator:  # type: ignore[no-untyped-def]
    return SimulatedAnnotator("simulated-1", length_of_text, **rest)


def test_without_noise_the_gold_order_comes_out() -> None:
    for prompt, ranking in zip(PROMPTS, annotator().rank(PROMPTS, LISTS), strict=True):
        assert ranking.prompt_id == prompt.id
        assert ranking.tiers == tuple((f"{prompt.id}-{k}",) for k in (3, 2, 1, 0))
        assert (ranking.simulated, ranking.annotator, ranking.none_acceptable) == (True, "simulated-1", False)
        assert set(ranking.shown_order) == {answer.id for answer in ANSWERS[prompt.id]}
        assert ranking.seconds_spent is not None
        assert ranking.seconds_spent > 0


@pytest.mark.parametrize(
    ("scores", "width", "tiers"),
    [
        ([1.0, 3.0, 2.0], 0.0, ((1,), (2,), (0,))),
        ([1.0, 1.0, 2.0], 0.0, ((2,), (0, 1))),
        # 2.4 is 0.6 below 3.0 and opens a tier; 1.9 is 0.5 below 2.4: not less than the width, so another.
        ([3.0, 2.6, 2.4, 1.9], 0.5, ((0, 1), (2,), (3,))),
        # A chain of near neighbours is not one tier.
        ([0.0, -0.4, -0.8, -1.2], 0.5, ((0, 1), (2, 3))),
    ],
)
def test_tiers_by_score(scores: list[float], width: float, tiers: tuple) -> None:
    assert tiers_by_score(np.array(scores), width) == tiers


@settings(deadline=None)
@given(st.randoms(), st.integers(0, 3))
def test_a_ranking_is_the_same_in_any_order_and_batch(random, seed: int) -> None:  # type: ignore[no-untyped-def]
    person = annotator(noise=1.5, tie_width=0.3, position_bias=0.5, seed=seed)
    whole = {ranking.prompt_id: ranking for ranking in person.rank(PROMPTS, LISTS)}
    some = random.sample(PROMPTS, 5)
    shuffled = [random.sample(ANSWERS[p.id], 4) for p in some]
    assert all(whole[ranking.prompt_id] == ranking for ranking in person.rank(some, shuffled))


def test_seeds_and_names_draw_different_noise() -> None:
    person = annotator(noise=1.5)
    rankings = [p.rank(PROMPTS, LISTS) for p in (person, replace(person, seed=1), replace(person, name="simulated-2"))]
    orders = [[ranking.tiers for ranking in some] for some in rankings]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("kind", ["gaussian", "gumbel"])
def test_noise_has_the_stated_size(kind) -> None:  # type: ignore[no-untyped-def]
    """Two answers one apart, noise sd 1 each: P(the better wins) is known in closed form.

    Gaussian: Phi(1 / sqrt 2) = .7602. Gumbel of sd 1 has scale sqrt(6) / pi = .7797: 1 / (1 + exp(-1 / .7797)) = .7829.
    4000 draws: four standard deviations are .027; false alarms 6e-5.
    """
    prompts = [Prompt(f"p{i}", "x") for i in range(4000)]
    answers = [[Completion(f"{p.id}-{k}", p.id, str(k), "m") for k in (0, 1)] for p in prompts]
    rankings = annotator(noise=1.0, noise_kind=kind).rank(prompts, answers)
    wins = sum(r.tiers[0][0].endswith("-1") for r in rankings) / len(rankings)
    assert wins == pytest.approx({"gaussian": 0.7602, "gumbel": 0.7829}[kind], abs=0.027)


def test_position_bias_shows_and_no_bias_does_not() -> None:
    prompts = [Prompt(f"p{i}", "x") for i in range(2000)]
    answers = [[Completion(f"{p.id}-{k}", p.id, "0", "m") for k in range(4)] for p in prompts]
    fair = position_bias(annotator(noise=1.0).rank(prompts, answers))
    biased = position_bias(annotator(noise=1.0, position_bias=1.0).rank(prompts, answers))
    assert fair.p_value is not None
    assert fair.p_value > 6e-5
    assert biased.p_value is not None
    assert biased.p_value < 1e-9
    assert biased.best_at[1] > biased.best_at[2] > biased.best_at[4]


def test_none_acceptable_below_the_line() -> None:
    rankings = annotator(acceptable=3.5).rank(PROMPTS[:1], LISTS[:1])
    assert rankings[0].none_acceptable
    assert len(rankings[0].tiers) == 4
    assert not annotator(acceptable=3.0).rank(PROMPTS[:1], LISTS[:1])[0].none_acceptable


def test_reading_time_grows_with_the_text() -> None:
    # Without spread: 5 + 100 / 25 = 9 seconds.
    assert ReadingTime(spread=0.0).draw(100, np.random.default_rng(0)) == 9.0


def test_simulate_scores_each_completion_once_and_shares_the_work() -> None:
    calls: list[int] = []

    def gold(prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        calls.append(len(responses))
        return length_of_text(prompts, responses)

    rankings = simulate(PROMPTS, FLAT, gold, annotators=3, overlap=2, noise=1.0)
    assert calls == [160]
    assert [r.prompt_id for r in rankings] == [p.id for p in PROMPTS for _ in range(2)]
    assert {r.annotator for r in rankings} == {"simulated-1", "simulated-2", "simulated-3"}
    assert all(rankings[2 * i].annotator < rankings[2 * i + 1].annotator for i in range(40))
    alone = SimulatedAnnotator(rankings[0].annotator, length_of_text, noise=1.0)
    assert alone.rank(PROMPTS[:1], LISTS[:1])[0] == rankings[0]
    assert len({r.id for r in rankings}) == 80


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ({"overlap": 4}, r"^overlap=4: is not between 1 and annotators=3; change one of them$"),
        ({"noise": -1.0}, r"^simulated-1: noise=-1\.0 is negative or infinite; choose 0 or more$"),
        ({"noise_kind": "cauchy"}, r"^simulated-1: noise_kind='cauchy' is unknown; use gaussian or gumbel$"),
    ],
)
def test_bad_parameters(rest: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(PROMPTS, FLAT, length_of_text, **rest)


def test_bad_gold_scores_and_too_few_answers() -> None:
    with pytest.raises(
        InputError, match=r"^completion p0-1: its gold score is nan, not finite; check the gold scorer$"
    ):
        simulate(PROMPTS, FLAT, lambda p, r: [float("nan") if i == 1 else 0.0 for i in range(len(r))])
    with pytest.raises(ValueError, match=r"shape \(1,\) for 160 responses; expected \(160,\)"):
        simulate(PROMPTS, FLAT, lambda p, r: [0.0])
    with pytest.raises(InputError, match=r"^completions: no prompt has two or more; sample at least two"):
        simulate(PROMPTS, FLAT[:1], length_of_text)


@pytest.mark.parametrize("name", ["humanward", "trl", "trl-plain", "hh-rlhf", "csv", "label-studio", "argilla"])
def test_every_export_says_what_was_simulated_and_it_is_read_back(tmp_path: Path, name: str) -> None:
    prompts = (Prompt("p", "Why?"),)
    completions = (Completion("a", "p", "because", "m"), Completion("b", "p", "no", "m"))
    rankings = (
        Ranking("r1", "p", (("a",), ("b",)), "simulated-1", simulated=True),
        Ranking("r2", "p", (("b",), ("a",)), "ada"),
    )
    path = tmp_path / f"x{ {'csv': '.csv', 'label-studio': '.json', 'argilla': '.json'}.get(name, '.jsonl') }"
    export_file(path, name, Feedback(prompts, completions, rankings))
    back = import_files([path], name).feedback
    texts = {completion.id: completion.text for completion in back.completions}
    assert {(texts[r.tiers[0][0]], r.simulated) for r in back.rankings} == {("because", True), ("no", False)}
