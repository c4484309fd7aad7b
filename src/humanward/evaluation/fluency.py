"""What a model must not lose while it becomes harmless: variety, length, and words the reference finds likely.

A word is a chunk between white space, case-folded, stripped of punctuation at both ends; chunks of punctuation alone
are no words. (A script without spaces makes one word of a sentence; its distinct-n says little.)
"""

from __future__ import annotations

import math
import string
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from humanward.evaluation.rows import Answer

PUNCTUATION = string.punctuation + "“”„‘’‚«»‹›…—–‒―·•¿¡。、，！？：；「」『』（）،؛؟"
ORDERS = (1, 2, 3)


@dataclass(frozen=True)
class Fluency:
    """One side's responses. ``length``: mean tokens; ``perplexity``: under the reference, None without tokens;
    ``empty``, ``duplicates``, ``ended``: shares of the responses; ``repetition``: mean share of repeated word 4-grams
    within a response, None when no response has four words."""

    responses: int
    words: int
    length: float
    perplexity: float | None
    empty: float
    duplicates: float
    ended: float
    repetition: float | None


def words(text: str) -> list[str]:
    """The words of a text, see the module."""
    stripped = (chunk.strip(PUNCTUATION) for chunk in unicodedata.normalize("NFKC", text).casefold().split())
    return [word for word in stripped if word]


def ngram_counts(texts: Iterable[str], order: int) -> Counter[tuple[str, ...]]:
    """How often each word n-gram of ``order`` occurs in all texts together; none spans two texts."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        tokens = words(text)
        counts.update(zip(*(tokens[start:] for start in range(order)), strict=False))
    return counts


def distinct(counts: Counter[tuple[str, ...]], sample: int | None = None) -> float | None:
    """Distinct n-grams over all n-grams, or its expectation over ``sample`` n-grams drawn without replacement.

    E[distinct in m of N] = sum over types of 1 - C(N - f, m) / C(N, m), f the type's count (rarefaction: Hurlbert
    1971); exact, and equal to the plain ratio at m = N. None when there are none to draw.
    Source of distinct-n: Li et al. 2016, arXiv 1510.03055 (they divide by words, we divide by n-grams).
    """
    total = counts.total()
    size = total if sample is None else sample
    if size > total:
        raise ValueError(f"sample={size} exceeds the {total} n-grams there are")
    if size == 0:
        return None
    if size == total:
        return len(counts) / total
    frequency = np.array(list(counts.values()), dtype=np.float64)
    log_missed = np.full(frequency.shape, -np.inf)
    can_miss = total - frequency >= size
    rest = total - frequency[can_miss]
    log_missed[can_miss] = (gammaln(rest + 1) - gammaln(rest - size + 1)) - (
        gammaln(total + 1) - gammaln(total - size + 1)
    )
    return float(-np.expm1(log_missed).sum() / size)


def distinct_both(before: Sequence[str], after: Sequence[str], order: int) -> tuple[float | None, float | None]:
    """Distinct-n of both sides at the same number of n-grams, the smaller total of the two.

    The plain ratio falls as a corpus grows, so a model that merely answers shorter would look more varied.
    """
    left, right = ngram_counts(before, order), ngram_counts(after, order)
    size = min(left.total(), right.total())
    return distinct(left, size), distinct(right, size)


def normalised(text: str) -> str:
    """The words of a text joined by one space: what counts as the same answer."""
    return " ".join(words(text))


def duplicate_share(texts: Sequence[str], prompt_ids: Sequence[Hashable]) -> float:
    """Share of responses whose normalised text also answers another prompt; empty responses count like any other."""
    prompts_of: dict[str, set[Hashable]] = {}
    keys = [normalised(text) for text in texts]
    for key, prompt in zip(keys, prompt_ids, strict=True):
        prompts_of.setdefault(key, set()).add(prompt)
    return sum(len(prompts_of[key]) > 1 for key in keys) / len(keys)


def repetition(texts: Iterable[str], order: int = 4) -> float | None:
    """Mean over responses of 1 - distinct/total of their own word n-grams (rep-n: Welleck et al. 2019, 1908.04319)."""
    shares = [1 - len(counts) / counts.total() for counts in (ngram_counts([text], order) for text in texts) if counts]
    return float(np.mean(shares)) if shares else None


def perplexity(nll: Iterable[float], tokens: Iterable[int]) -> float | None:
    """exp(sum of nll / sum of tokens), nats; None without tokens."""
    total = sum(tokens)
    return math.exp(sum(nll) / total) if total else None


def fluency(answers: Sequence[Answer], prompt_ids: Sequence[Hashable]) -> Fluency:
    """All of it for one side; ``prompt_ids`` say which responses answer the same prompt."""
    texts = [answer.text for answer in answers]
    return Fluency(
        responses=len(texts),
        words=sum(len(words(text)) for text in texts),
        length=float(np.mean([answer.tokens for answer in answers])),
        perplexity=perplexity((a.reference_nll for a in answers), (a.tokens for a in answers)),
        empty=sum(not text.strip() for text in texts) / len(texts),
        duplicates=duplicate_share(texts, prompt_ids),
        ended=sum(answer.ended for answer in answers) / len(answers),
        repetition=repetition(texts),
    )
