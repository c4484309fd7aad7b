"""What a reward does to a policy's answers: repetition, sameness, refusals, and what length alone explains.

Words are those of ``humanward.evaluation.fluency``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from humanward.evaluation.fluency import distinct, ngram_counts, words
from humanward.evaluation.protocols.refusals import refuses

BUCKETS = 4


def repeated_words(text: str) -> float:
    """1 - distinct words / words of one text; 0 without words."""
    found = words(text)
    return 1 - len(set(found)) / len(found) if found else 0.0


def longest_repeat(text: str) -> int:
    """Words of the longest word sequence that stands twice in a text; the two may overlap."""
    found = words(text)
    longest, before = 0, [0] * (len(found) + 1)
    for i in range(len(found)):
        row = [0] * (len(found) + 1)
        for j in range(i + 1, len(found)):
            if found[i] == found[j]:
                row[j + 1] = before[j] + 1
                longest = max(longest, row[j + 1])
        before = row
    return longest


def overlap(texts: Sequence[str], prompt_ids: Sequence[Hashable]) -> float | None:
    """Share of the word pairs (a pair counts once an answer) that an answer to another prompt holds too.

    Mean over the answers that have a word pair; None when none has one. Diversity across prompts without a reference,
    in the spirit of self-BLEU (Zhu et al. 2018, arXiv 1802.01886), which costs the square of the answers.
    """
    held: dict[Hashable, set[tuple[str, ...]]] = {}
    own = [set(ngram_counts([text], 2)) for text in texts]
    for pairs, prompt in zip(own, prompt_ids, strict=True):
        held.setdefault(prompt, set()).update(pairs)
    prompts = Counter(pair for pairs in held.values() for pair in pairs)
    shares = [sum(prompts[pair] > 1 for pair in pairs) / len(pairs) for pairs in own if pairs]
    return float(np.mean(shares)) if shares else None


def distinct_2(texts: Sequence[str], sample: int | None = None) -> float | None:
    """Distinct word pairs over word pairs of all texts, of ``sample`` pairs where there are more; None without any."""
    counts = ngram_counts(texts, 2)
    return distinct(counts, None if sample is None else min(sample, counts.total()))


def refusal_share(texts: Sequence[str]) -> float:
    """Share of the texts that refuse, by rules."""
    return sum(map(refuses, texts)) / len(texts)


def explained_by_length(scores: Sequence[float], lengths: Sequence[float]) -> float:
    """Share of the scores' variance that a straight line in length explains: the squared correlation.

    0 where scores or lengths do not vary. The length-only baseline of a reward.
    """
    score, length = np.asarray(scores, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    if score.std() <= 1e-12 or length.std() <= 1e-12:
        return 0.0
    return float(np.corrcoef(score, length)[0, 1] ** 2)


def gain_at_equal_length(
    before: Sequence[float], before_lengths: Sequence[float], after: Sequence[float], after_lengths: Sequence[float]
) -> float | None:
    """Gain of ``after`` over ``before`` within buckets of length, weighted by how many of ``after`` lie in each.

    The buckets are the quarters of ``before``'s lengths (equal lengths share one; the first and last are open). What
    is left is not bought by writing more or less. Buckets that ``before`` does not fill are left out; None where no
    bucket holds both.
    """
    edges = np.unique(np.quantile(np.asarray(before_lengths, dtype=np.float64), np.arange(1, BUCKETS) / BUCKETS))
    sides = [
        (np.asarray(scores, dtype=np.float64), np.searchsorted(edges, np.asarray(lengths, dtype=np.float64)))
        for scores, lengths in ((before, before_lengths), (after, after_lengths))
    ]
    (old, old_bucket), (new, new_bucket) = sides
    gains, weights = [], []
    for bucket in range(len(edges) + 1):
        here, there = new[new_bucket == bucket], old[old_bucket == bucket]
        if len(here) and len(there):
            gains.append(here.mean() - there.mean())
            weights.append(len(here))
    return float(np.average(gains, weights=weights)) if gains else None
