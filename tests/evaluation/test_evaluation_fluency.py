from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanward.evaluation import fluency as f
from humanward.evaluation.rows import Answer


def answer(text, tokens=4, nll=4.0, ended=True):
    return Answer(text, tokens, ended, 0.1, nll, 0.0, None, None)


def test_words():
    assert f.words('  "Don\'t," he said — twice!!  ... ') == ["don't", "he", "said", "twice"]
    assert f.words("STRASSE Straße") == ["strasse", "strasse"]
    assert f.words(" \n\t") == []


def test_distinct_golden():
    # a b a b: bigrams ab, ba, ab
    assert f.distinct(f.ngram_counts(["a b a b"], 2)) == pytest.approx(2 / 3)
    assert f.distinct(f.ngram_counts(["a b a b"], 1)) == 0.5
    assert f.distinct(f.ngram_counts(["", "..."], 1)) is None


def test_no_ngram_spans_two_responses():
    assert f.ngram_counts(["a b", "c"], 2) == Counter({("a", "b"): 1})


def test_rarefaction_golden():
    # two of {x, x, y}: xx has 1 distinct, xy and xy have 2; mean 5/3 of 2
    assert f.distinct(f.ngram_counts(["x x y"], 1), 2) == pytest.approx(5 / 6)
    assert f.distinct(f.ngram_counts(["x x y"], 1), 1) == pytest.approx(1.0)
    assert f.distinct(f.ngram_counts(["x x y"], 1), 3) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="exceeds"):
        f.distinct(f.ngram_counts(["x"], 1), 2)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), st.data())
def test_rarefaction_equals_the_mean_over_all_subsets(letters, data):
    size = data.draw(st.integers(1, len(letters)))
    subsets = list(itertools.combinations(letters, size))
    expected = sum(len(set(subset)) for subset in subsets) / len(subsets) / size
    assert f.distinct(f.ngram_counts([" ".join(letters)], 1), size) == pytest.approx(expected, rel=1e-9)


def test_a_shorter_corpus_is_not_more_varied():
    drawn = np.random.default_rng(0).integers(0, 50, size=1000)
    long, short = ([" ".join(f"w{i}" for i in side)] for side in (drawn[:800], drawn[800:]))
    plain_long, plain_short = (f.distinct(f.ngram_counts(side, 1)) for side in (long, short))
    assert plain_short > 3 * plain_long  # what the plain ratio would report as a gain
    matched_long, matched_short = f.distinct_both(long, short, 1)
    assert matched_short == plain_short
    assert matched_long == pytest.approx(matched_short, rel=0.05)  # 49 of 50 words are expected in 200 draws


def test_distinct_of_an_empty_side_is_none():
    assert f.distinct_both(["a b c"], [""], 2) == (None, None)


def test_duplicates_golden():
    texts = ["I see.", "i SEE", "No", "Maybe", "maybe"]
    # "i see" answers p and q; "maybe" answers r twice, which is one prompt
    assert f.duplicate_share(texts, ["p", "q", "p", "r", "r"]) == pytest.approx(2 / 5)
    assert f.duplicate_share(["", " . "], ["p", "q"]) == 1.0


def test_repetition_golden():
    # a b c d a b c d: 5 four-grams, abcd twice: 1 - 4/5; the second text has one, unrepeated; the third has none
    assert f.repetition(["a b c d a b c d", "a b c d", "a"]) == pytest.approx(0.1)
    assert f.repetition(["a b c"]) is None


def test_perplexity_golden():
    # 6 ln 2 nats over 3 tokens: 2 squared; tokens weigh the same, not responses
    assert f.perplexity([2 * math.log(2), 4 * math.log(2)], [1, 2]) == pytest.approx(4.0)
    assert f.perplexity([0.0], [0]) is None


def test_fluency_of_one_side():
    answers = [
        answer("", 1, 2.0),
        answer(" \n", 1, 2.0, ended=False),
        answer("so be it", 4, 8.0),
        answer("So be it!", 2, 4),
    ]
    result = f.fluency(answers, list("abcd"))
    assert result.responses == 4
    assert result.words == 6
    assert result.length == 2.0
    assert result.perplexity == pytest.approx(math.exp(2))
    assert result.empty == 0.5
    assert result.duplicates == 1.0  # the two empty ones and the two alike
    assert result.ended == 0.75
