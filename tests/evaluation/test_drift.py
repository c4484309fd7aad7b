"""What a reward does to answers, by hand."""

from __future__ import annotations

import pytest

from humanward.evaluation.drift import (
    distinct_2,
    explained_by_length,
    gain_at_equal_length,
    longest_repeat,
    overlap,
    refusal_share,
    repeated_words,
)


def test_repetition_within_an_answer() -> None:
    """Six words, three of them distinct: one half."""
    assert repeated_words("You know you know. You see!") == pytest.approx(1 - 3 / 6)
    assert repeated_words("...") == 0.0
    # "you know you" stands at words 1-3 and 3-5, overlapping in one.
    assert longest_repeat("you know you know you see") == 3
    assert longest_repeat("you you you you") == 3
    assert longest_repeat("all words differ here") == 0
    assert longest_repeat("") == 0


def test_overlap_between_answers_to_different_prompts() -> None:
    """Answer 1 has pairs (i see), (see you); answer 2 (i see), (see it); answer 3 none. Half of each is shared."""
    assert overlap(["I see you", "i see it", "no"], ["a", "b", "c"]) == pytest.approx(0.5)
    # Two answers to one prompt may agree: that is not sameness across prompts.
    assert overlap(["I see you", "i see it"], ["a", "a"]) == 0.0
    assert overlap(["no", "yes"], ["a", "b"]) is None


def test_distinct_pairs_at_equal_numbers() -> None:
    """Pairs: (a b), (b a), (a b): 2 of 3 distinct; of one pair drawn, 1 of 1; more than there are is all."""
    assert distinct_2(["a b a b"]) == pytest.approx(2 / 3)
    assert distinct_2(["a b a b"], 1) == pytest.approx(1.0)
    assert distinct_2(["a b a b"], 99) == pytest.approx(2 / 3)
    assert distinct_2(["a"]) is None


def test_refusals_by_rules() -> None:
    assert refusal_share(["I can't help with that.", "Sure."]) == 0.5


def test_what_length_explains() -> None:
    """Scores 1, 2, 4 at lengths 1, 2, 3: covariance 1, variances 14/9 and 2/3: r^2 = 27/28."""
    assert explained_by_length([1, 2, 4], [1, 2, 3]) == pytest.approx(27 / 28)
    assert explained_by_length([1, 1, 1], [1, 2, 3]) == 0.0
    assert explained_by_length([1, 2], [3, 3]) == 0.0


def test_a_gain_that_is_all_length_is_none_at_equal_length() -> None:
    """Score = length: answers grew from 1..4 to all 4 and 3; in each quarter nothing was gained.

    Quartiles of 1, 2, 3, 4 are 1.75, 2.5, 3.25, so each length is a bucket.
    """
    assert gain_at_equal_length([1, 2, 3, 4], [1, 2, 3, 4], [4, 4, 3, 4], [4, 4, 3, 4]) == pytest.approx(0.0)
    # One better at length 4 and two better at length 1, weighed by three and one answers: (3 * 1 + 1 * 2) / 4.
    assert gain_at_equal_length([1, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 3], [4, 4, 4, 1]) == pytest.approx(1.25)
    # Longer than any before falls into the last, open bucket.
    assert gain_at_equal_length([1, 2, 3, 4], [1, 2, 3, 4], [9, 9], [40, 50]) == pytest.approx(5.0)
    assert gain_at_equal_length([1.0], [5], [], []) is None
