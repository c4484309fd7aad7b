"""preferences: counts, weights, ties, margins, what is refused, and pairs grouped by prompt."""

# ruff: noqa: E501  (whole messages stand beside their causes)

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humanward.errors import InputError
from humanward.preferences import (
    Pair,
    check_straddling,
    current_rankings,
    derive_preferences,
    group_by_prompt,
)
from humanward.records import Completion, Prompt, Ranking

PROMPT = Prompt("p", "Why?", split="train")
ANSWERS = [Completion(name, "p", f"text of {name}", "m") for name in "abcdefgh"]


def ranking(*tiers: str, annotator: str = "ada", **rest) -> Ranking:  # type: ignore[no-untyped-def]
    """``ranking("b", "ac")``: b is best, a and c are equal."""
    name = f"{annotator}:{'>'.join(tiers)}"
    return Ranking(rest.pop("id", name), rest.pop("prompt_id", "p"), tuple(map(tuple, tiers)), annotator, **rest)


def derive(*rankings: Ranking, **rest):  # type: ignore[no-untyped-def]
    return derive_preferences([PROMPT], ANSWERS, rankings, **rest)


def test_four_answers_give_six_pairs() -> None:
    # b > a > d > c: margins are distances in tiers; each of the six pairs weighs 1/6.
    pairs = derive(ranking("b", "a", "d", "c", criterion="helpful", simulated=True)).preferences
    assert [(p.chosen_id, p.rejected_id, p.margin) for p in pairs] == [
        ("b", "a", 1.0),
        ("b", "d", 2.0),
        ("b", "c", 3.0),
        ("a", "d", 1.0),
        ("a", "c", 2.0),
        ("d", "c", 1.0),
    ]
    assert all(p.weight == pytest.approx(1 / 6, rel=1e-12) and not p.tie for p in pairs)
    first = pairs[0]
    assert (first.chosen, first.rejected, first.prompt, first.split) == ("text of b", "text of a", PROMPT, "train")
    assert (first.annotator, first.criterion, first.simulated) == ("ada", "helpful", True)
    assert first.ranking_id == "ada:b>a>d>c"


def test_equal_ranks_are_tie_records() -> None:
    # b > a = c > d: five strict pairs at 1/5, one tie that weighs nothing.
    found = derive(ranking("b", "ac", "d"))
    assert (found.pairs, found.ties) == (5, 1)
    (tie,) = [p for p in found.preferences if p.tie]
    assert (tie.chosen_id, tie.rejected_id, tie.margin, tie.weight) == ("a", "c", 0.0, 0.0)
    assert {p.weight for p in found.preferences if not p.tie} == {0.2}


def test_ties_weigh_as_much_when_counted() -> None:
    assert {p.weight for p in derive(ranking("b", "ac", "d"), count_ties=True).preferences} == {1 / 6}
    assert [p.weight for p in derive(ranking("ab"), count_ties=True).preferences] == [1.0]
    assert [p.weight for p in derive(ranking("ab")).preferences] == [0.0]


def test_several_annotators_share_the_weight_of_a_prompt() -> None:
    # Ada gives one strict pair, Bea three: four in all, a quarter each.
    other = Prompt("q", "How?")
    answers = [*ANSWERS, Completion("x", "q", "x", "m"), Completion("y", "q", "y", "m")]
    rankings = [
        ranking("a", "b"),
        Ranking("other", "q", (("x",), ("y",)), "ada"),
        ranking("a", "b", "c", annotator="bea"),
    ]
    found = derive_preferences([PROMPT, other], answers, rankings).preferences
    assert [(p.prompt_id, p.annotator) for p in found] == [("p", "ada"), *[("p", "bea")] * 3, ("q", "ada")]
    assert [p.weight for p in found] == [0.25] * 4 + [1.0]


def test_criteria_are_weighed_apart() -> None:
    rankings = [ranking("a", "b", criterion="helpful"), ranking("b", "a", criterion="harmless", id="2")]
    assert [p.weight for p in derive(*rankings).preferences] == [1.0, 1.0]
    assert [p.criterion for p in derive(*rankings, criterion="harmless").preferences] == ["harmless"]


def test_identical_answers_give_no_pair() -> None:
    answers = [replace(ANSWERS[0]), replace(ANSWERS[1], text="text of a"), ANSWERS[2]]
    found = derive_preferences([PROMPT], answers, [ranking("a", "b", "c")])
    assert (found.pairs, found.identical, found.without_pairs) == (2, 1, 0)
    assert [p.weight for p in found.preferences] == [0.5, 0.5]
    none = derive_preferences([PROMPT], answers, [ranking("a", "b")])
    assert (none.preferences, none.identical, none.without_pairs) == ((), 1, 1)


def test_none_acceptable() -> None:
    ordered, bare = ranking("a", "b", none_acceptable=True), ranking(none_acceptable=True, annotator="bea")
    kept = derive(ordered, bare)
    assert (kept.pairs, kept.none_acceptable, kept.without_pairs) == (1, 2, 1)
    dropped = derive(ordered, bare, none_acceptable="drop")
    assert (dropped.pairs, dropped.none_acceptable, dropped.without_pairs) == (0, 2, 2)


def test_graded_margins() -> None:
    found = derive(ranking("a", "b", "c"), grades={"a": 2.5, "b": 1.0}).preferences
    assert [p.margin for p in found] == [1.5, None, None]


def test_the_last_ranking_of_an_annotator_counts() -> None:
    first, second, other = ranking("a", "b"), ranking("b", "a"), ranking("a", "c")
    assert current_rankings([first, other, second]) == (second, other)
    found = derive(first, other, second)
    assert (found.superseded, found.pairs) == (1, 2)
    withdrawn = Ranking("w", "p", (), "ada", shown_order=("b", "a"))
    assert current_rankings([first, withdrawn]) == ()
    assert derive(first, withdrawn).superseded == 2
    # Without a name two equal rankings may be two people's.
    assert len(current_rankings([ranking("a", "b", annotator="", id=str(i)) for i in range(2)])) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (ranking("a", "b", prompt_id="x"), "unknown prompt 'x'; add it or drop the ranking"),
        (ranking("a", "z"), "unknown completion 'z'; add it or drop the ranking"),
        (ranking("a", "b", shown_order=("a", "z")), "unknown completion 'z'; add it or drop the ranking"),
        (ranking("a", "o"), "completion 'o' answers prompt 'other', not 'p'; rank answers of one prompt"),
        (ranking("a", "ba"), "completion 'a' is ranked 2 times; rank it once"),
        (ranking("a", ""), "holds an empty tier; every tier names at least one completion"),
        (ranking("a"), "ranks 1 completion; rank at least two"),
        (ranking("a", "b", shown_order=("a", "b", "c")), "completion 'c' is only one of shown and ranked; rank exactly what was shown"),
    ],
)  # fmt: skip
def test_a_bad_ranking_is_named(bad: Ranking, message: str) -> None:
    answers = [*ANSWERS, Completion("o", "other", "text", "m")]
    with pytest.raises(InputError) as caught:
        derive_preferences([PROMPT], answers, [ranking("a", "b"), bad], locations=["r.jsonl line 1", "r.jsonl line 2"])
    assert str(caught.value) == f"r.jsonl line 2: {message}"
    with pytest.raises(InputError, match=f"^ranking {bad.id}: "):
        derive_preferences([PROMPT], answers, [bad])


def test_no_prompt_straddles_splits() -> None:
    twin = Prompt("twin", " Why? ", split="test")
    with pytest.raises(InputError, match=r"^prompt twin: is in split 'train' and in 'test'; keep it in one of them$"):
        derive_preferences([PROMPT, twin], ANSWERS, [ranking("a", "b")])
    pairs = derive(ranking("a", "b", "c")).preferences
    check_straddling(pairs)
    with pytest.raises(InputError, match="is in split 'train' and in 'test'"):
        check_straddling([*pairs, replace(pairs[0], split="test")])


def test_pairs_by_prompt_hold_each_text_once() -> None:
    other = Prompt("q", "How?")
    answers = [*ANSWERS, Completion("x", "q", "x", "m"), Completion("y", "q", "y", "m")]
    rankings = [
        ranking("b", "ac"),
        Ranking("other", "q", (("x",), ("y",)), "ada"),
        ranking("a", "b", annotator="bea"),
    ]
    first, second = group_by_prompt(derive_preferences([PROMPT, other], answers, rankings).preferences)
    assert first.prompt == PROMPT
    assert first.texts == ("text of b", "text of a", "text of c")
    third = pytest.approx(1 / 3)
    assert first.pairs == (
        Pair(0, 1, third, 1.0, False),
        Pair(0, 2, third, 1.0, False),
        Pair(1, 2, 0.0, 0.0, True),
        Pair(1, 0, third, 1.0, False),
    )
    assert (second.prompt, second.texts, second.pairs) == (other, ("x", "y"), (Pair(0, 1, 1.0, 1.0, False),))


def test_one_id_for_two_prompts_is_refused() -> None:
    (pair,) = derive(ranking("a", "b")).preferences
    with pytest.raises(
        InputError, match=r"^preferences: prompt id 'p' names two different prompts; give each its own id$"
    ):
        group_by_prompt([pair, replace(pair, prompt=replace(PROMPT, text="Who?"))])


@st.composite
def weak_orders(draw: st.DrawFn) -> tuple[tuple[str, ...], ...]:
    """Tiers over two to eight answers."""
    count = draw(st.integers(2, 8))
    ranks = draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count))
    return tuple(tuple("abcdefgh"[i] for i in range(count) if ranks[i] == rank) for rank in sorted(set(ranks)))


@settings(deadline=None)
@given(weak_orders())
def test_counts_and_weights_of_any_weak_order(tiers: tuple[tuple[str, ...], ...]) -> None:
    found = derive(Ranking("r", "p", tiers, "ada"))
    count = sum(map(len, tiers))
    tied = sum(len(tier) * (len(tier) - 1) // 2 for tier in tiers)
    assert (found.pairs, found.ties) == (count * (count - 1) // 2 - tied, tied)
    assert sum(p.weight for p in found.preferences) == pytest.approx(1.0 if found.pairs else 0.0)
    place = {name: index for index, tier in enumerate(tiers) for name in tier}
    for p in found.preferences:
        assert place[p.rejected_id] - place[p.chosen_id] == p.margin
        assert p.tie == (p.margin == 0)
    everything = Counter(frozenset((p.chosen_id, p.rejected_id)) for p in found.preferences)
    assert everything == Counter(map(frozenset, combinations(place, 2)))


@settings(deadline=None)
@given(weak_orders(), st.randoms())
def test_the_order_of_files_and_of_ties_changes_nothing(tiers: tuple[tuple[str, ...], ...], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = [random.sample(tier, len(tier)) for tier in tiers]
    placed = [name for tier in shuffled for name in tier]
    answers = random.sample(ANSWERS, len(ANSWERS))
    again = Ranking(
        "r",
        "p",
        tuple(map(tuple, shuffled)),
        "ada",
        shown_order=tuple(random.sample(placed, len(placed))),
    )
    first = derive_preferences([PROMPT], ANSWERS, [Ranking("r", "p", tiers, "ada")])
    assert derive_preferences([PROMPT], answers, [again]) == first


@settings(deadline=None)
@given(st.lists(weak_orders(), min_size=1, max_size=5))
def test_every_prompt_weighs_one(orders: list[tuple[tuple[str, ...], ...]]) -> None:
    rankings = [Ranking(str(i), "p", tiers, f"annotator {i}") for i, tiers in enumerate(orders)]
    found = derive(*rankings)
    assert sum(p.weight for p in found.preferences) == pytest.approx(1.0 if found.pairs else 0.0)
    in_order = [p.ranking_id for p in found.preferences]
    assert in_order == sorted(in_order)
    groups = group_by_prompt(found.preferences)
    assert sum(len(group.pairs) for group in groups) == len(found.preferences)
    for group in groups:
        assert len(set(group.texts)) == len(group.texts)
        for pair, preference in zip(group.pairs, found.preferences, strict=True):
            assert group.texts[pair.chosen] == preference.chosen
            assert group.texts[pair.rejected] == preference.rejected
