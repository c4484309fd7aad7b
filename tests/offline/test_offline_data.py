"""What is learnt from: demonstrations, pairs and labels, on rankings small enough to check by eye."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanward.errors import InputError
from humanward.labels import derive_labels
from humanward.offline import data
from humanward.offline.data import LabelledTexts
from humanward.preferences import derive_preferences
from humanward.records import Completion, Label, Preference, Prompt, Ranking, Rating

P, Q = Prompt("p", "Why?"), Prompt("q", "How?")


def ranked(*rankings: tuple[str, ...], prompt: Prompt = P, refused: bool = False) -> list[Preference]:
    """Preferences of rankings written as tiers of letters, best first: ``("ab", "c")`` ties a and b above c."""
    letters = sorted({letter for tiers in rankings for tier in tiers for letter in tier})
    completions = [Completion(f"{prompt.id}-{letter}", prompt.id, letter, "") for letter in letters]
    made = [
        Ranking(f"{prompt.id}{i}", prompt.id, tuple(tuple(f"{prompt.id}-{x}" for x in t) for t in tiers), f"ada{i}")
        for i, tiers in enumerate(rankings)
    ]
    return list(derive_preferences([prompt], completions, made, count_ties=True).preferences)


def shares(preferences: list[Preference], **options) -> dict[str, float]:
    (group,) = data.demonstrations(preferences, **options)
    return dict(zip(group.texts, group.weights, strict=True))


def test_the_undominated_are_imitated() -> None:
    """Of a > b > c only a; of a = b > c both, half each; c is below others everywhere."""
    assert shares(ranked(("a", "b", "c"))) == {"a": 1.0}
    assert shares(ranked(("ab", "c"))) == {"a": 0.5, "b": 0.5}


def test_rankings_share_a_prompt() -> None:
    """Ada prefers a, Bo prefers b: half each. A third who ties a and b above c halves his third."""
    assert shares(ranked(("a", "b"), ("b", "a"))) == {"a": 0.5, "b": 0.5}
    given = shares(ranked(("a", "b"), ("b", "a"), ("ab", "c")))
    assert given == pytest.approx({"a": 1 / 3 + 1 / 6, "b": 1 / 3 + 1 / 6})


def test_ties_alone_demonstrate_nothing() -> None:
    assert data.demonstrations(ranked(("ab",))) == []


def test_the_best_of_unacceptable_answers_is_not_imitated() -> None:
    preferences = ranked(("a", "b"), ("b", "a"))
    assert shares(preferences, refused={"p1"}) == {"a": 1.0}
    assert data.demonstrations(preferences, refused={"p0", "p1"}) == []


def test_pairs_keep_their_weights_and_ties_are_left_out() -> None:
    """a > b = c: two strict pairs and a tie, a third each; the tie takes its third along."""
    (group,) = data.pairs(ranked(("a", "bc")))
    assert [(group.texts[i], group.texts[j]) for i, j in zip(group.chosen, group.rejected, strict=True)] == [
        ("a", "b"),
        ("a", "c"),
    ]
    assert group.weights == pytest.approx((1 / 3, 1 / 3))
    assert group.texts == ("a", "b", "c"), "each text once"


def test_labels_go_by_the_balance_of_pairs() -> None:
    """a > b > c: a won two, c lost two, b is even and left out."""
    (group,) = data.labels_of_pairs(ranked(("a", "b", "c")))
    assert dict(zip(group.texts, group.desirable, strict=True)) == {"a": True, "c": False}
    assert data.labels_of_pairs(ranked(("a", "b"), ("b", "a"))) == []
    (group,) = data.labels_of_pairs(ranked(("ab", "c")))
    assert dict(zip(group.texts, group.desirable, strict=True)) == {"a": True, "b": True, "c": False}


def test_responses_that_were_cut_off_have_no_end() -> None:
    preferences = ranked(("a", "b"))
    for made in (data.pairs, data.demonstrations, data.labels_of_pairs):
        (group,) = made(preferences, {("p", "a"), ("q", "b")})
        assert dict(zip(group.texts, group.ended, strict=True))["a"] is False
        assert all(ended for text, ended in zip(group.texts, group.ended, strict=True) if text != "a")


# --- partners ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), st.integers(0, 5))
def test_every_partner_answers_another_prompt(sizes: list[int], seed: int) -> None:
    groups = [
        LabelledTexts(Prompt(f"p{i}", f"w{i}"), tuple(f"{i} {k}" for k in range(size)), (True,) * size, (True,) * size)
        for i, size in enumerate(sizes)
    ]
    made = data.with_others(groups, seed)
    assert [group.prompt for group in made] == [group.prompt for group in groups]
    for number, group in enumerate(made):
        assert group.others.prompt == group.prompt
        assert len(group.others.texts) == len(group.texts)
        assert not any(text.startswith(f"{number} ") for text in group.others.texts)


def test_partners_are_drawn_by_the_seed() -> None:
    groups = [LabelledTexts(Prompt(f"p{i}", "w"), (str(i),), (True,), (True,)) for i in range(20)]
    drawn = [[group.others.texts for group in data.with_others(groups, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_one_prompt_has_no_partners() -> None:
    one = LabelledTexts(P, ("a", "b"), (True, True), (True, False))
    with pytest.raises(InputError, match="all labelled responses answer one prompt"):
        data.with_others([one, dataclasses.replace(one, texts=("c", "d"))], 0)


@pytest.mark.parametrize(("kind", "word"), [(True, "desirable"), (False, "undesirable")])
def test_both_kinds_are_needed(kind: bool, word: str) -> None:
    with pytest.raises(InputError, match=rf"all 2 labelled responses to train on are {word}; add some that are not"):
        data.count_kinds([LabelledTexts(P, ("a", "b"), (True, True), (kind, kind))])
    assert data.count_kinds([LabelledTexts(P, ("a", "b", "c"), (True,) * 3, (True, False, True))]) == (2, 1)


# --- ratings -----------------------------------------------------------------------------------------------------

ANSWERS = [Completion("a", "p", "kind", ""), Completion("b", "p", "rude", ""), Completion("c", "q", "so so", "")]


def rating(completion: str, value: float, annotator: str = "ada", name: str = "") -> Rating:
    return Rating(name or f"{completion}{value}{annotator}", completion, "overall", value, annotator)


def test_most_ratings_decide() -> None:
    derived = derive_labels(
        [P, Q],
        ANSWERS,
        [
            rating("a", 1.0),
            rating("a", 0.75, "bo"),
            rating("a", 0.0, "cy"),
            rating("b", 0.0),
            rating("c", 1.0),
            rating("c", 0.0, "bo"),
        ],
    )
    assert [(label.completion, label.desirable, label.ratings) for label in derived.labels] == [
        ("kind", True, 3),
        ("rude", False, 1),
    ]
    assert (derived.desirable, derived.undecided, derived.superseded) == (1, 1, 0)
    assert derived.labels[0].prompt == P


def test_a_change_of_mind_replaces_and_nameless_people_do_not() -> None:
    derived = derive_labels([P, Q], ANSWERS, [rating("a", 1.0), rating("a", 0.0)])
    assert [label.desirable for label in derived.labels] == [False]
    assert derived.superseded == 1
    both = derive_labels([P, Q], ANSWERS, [rating("a", 1.0, "", "r1"), rating("a", 0.0, "", "r2")])
    assert (both.labels, both.undecided, both.superseded) == ((), 1, 0)


@pytest.mark.parametrize(
    ("given_rating", "words"),
    [
        (rating("z", 1.0), r"rating z1\.0ada: unknown completion 'z'"),
        (rating("a", 4.0), r"value 4 is outside 0 \(undesirable\) to 1 \(desirable\); rescale it"),
    ],
)
def test_bad_ratings(given_rating: Rating, words: str) -> None:
    with pytest.raises(InputError, match=words):
        derive_labels([P, Q], ANSWERS, [given_rating])


def test_labels_of_ratings_by_prompt() -> None:
    labels = [
        Label("p", "a", P, "kind", True),
        Label("p", "b", P, "rude", False),
        Label("q", "c", Q, "same words", True),
        Label("q", "d", Q, "same words", False),
    ]
    (group,) = data.labels_of_ratings(labels)
    assert (group.texts, group.desirable) == (("kind", "rude"), (True, False))
    first, second = data.labelled_demonstrations(labels)
    assert (first.texts, first.weights, second.texts) == (("kind",), (1.0,), ("same words",))
