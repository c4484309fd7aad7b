"""Dawid and Skene's model on comparisons: what each pair's true outcome is, and how each annotator confuses outcomes.

Dawid and Skene (1979, Applied Statistics 28, 20-28), by EM. The outcomes are first better, tie, second better; which
answer comes first has no meaning, so every confusion matrix is symmetric under exchanging the two. Counts are smoothed
by a prior of ``smoothing`` observations a row, more of them right than wrong, so that one judgement says little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from humanward.feedback.quality.outcomes import Outcomes

Array = NDArray[np.float64]
_PRIOR = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]])


@dataclass(frozen=True)
class DawidSkeneFit:
    """``posterior`` (pairs, 3): of first better, tie, second better; ``pairs`` their answers' numbers; ``confusion``
    (annotators, 3, 3): rows are the truth; ``accuracy`` (annotators): the probability of judging a pair as it is.
    """

    pairs: tuple[tuple[int, int], ...]
    posterior: Array
    confusion: Array
    accuracy: Array
    rounds: int


def fit_dawid_skene(
    data: Outcomes, *, smoothing: float = 2.0, tolerance: float = 1e-6, limit: int = 500
) -> DawidSkeneFit:
    """EM from the vote shares, until no posterior changes by more than ``tolerance``."""
    numbered: dict[tuple[int, int], int] = {}
    pair = np.empty(len(data), dtype=np.int64)
    given = np.empty(len(data), dtype=np.int64)
    for row, (a, b, outcome) in enumerate(
        zip(data.first.tolist(), data.second.tolist(), data.outcome.tolist(), strict=True)
    ):
        swapped = a > b
        pair[row] = numbered.setdefault((b, a) if swapped else (a, b), len(numbered))
        given[row] = 1 - (-outcome if swapped else outcome)
    people = len(data.annotators)
    posterior = np.zeros((len(numbered), 3))
    np.add.at(posterior, (pair, given), 1.0)
    posterior /= posterior.sum(axis=1, keepdims=True)
    rounds = 0
    for rounds in range(1, limit + 1):  # noqa: B007
        share, confusion = _maximise(posterior, data.annotator, pair, given, people, smoothing)
        logs = np.tile(np.log(share), (len(numbered), 1))
        np.add.at(logs, pair, np.log(confusion[data.annotator, :, given]))
        logs -= logs.max(axis=1, keepdims=True)
        updated = np.exp(logs)
        updated /= updated.sum(axis=1, keepdims=True)
        change = float(np.abs(updated - posterior).max(initial=0.0))
        posterior = updated
        if change < tolerance:
            break
    share, confusion = _maximise(posterior, data.annotator, pair, given, people, smoothing)
    accuracy = np.einsum("k,akk->a", share, confusion)
    return DawidSkeneFit(tuple(numbered), posterior, confusion, accuracy, rounds)


def _maximise(
    posterior: Array,
    annotator: NDArray[np.int64],
    pair: NDArray[np.int64],
    given: NDArray[np.int64],
    people: int,
    smoothing: float,
) -> tuple[Array, Array]:
    counts = np.tile(smoothing * _PRIOR, (people, 1, 1))
    for truth in range(3):
        np.add.at(counts[:, truth], (annotator, given), posterior[pair, truth])
    # Symmetric under exchanging first and second.
    counts = (counts + counts[:, ::-1, ::-1]) / 2
    confusion = counts / counts.sum(axis=2, keepdims=True)
    share = posterior.mean(axis=0) + 1e-9
    share = (share + share[::-1]) / 2
    return share / share.sum(), confusion
