"""How often a reward model agrees with held-out preferences, next to constant and length baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from humanward.errors import InputError
from humanward.evaluation.statistics import Difference, Estimate, accuracy, accuracy_difference, outcomes
from humanward.records import Preference, Prompt

Score = Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]


def evaluate_reward(
    score: Score, train: Sequence[Preference], held_out: Sequence[Preference], *, seed: int
) -> dict[str, Any]:
    """Accuracy on the strict held-out pairs with its 95 % interval, baselines, and the paired difference to length.

    The length baseline prefers the shorter or the longer answer, whichever was right more often on ``train``; the
    constant one gives every answer the same score, so that every pair is a tie and counts one half. Intervals are
    clustered by prompt. Raises InputError when nothing is held out.
    """
    check_held_out(held_out)
    strict = [p for p in held_out if not p.tie]
    clusters = [p.prompt_id for p in strict]
    texts = list(dict.fromkeys((p.prompt_id, text) for p in strict for text in (p.chosen, p.rejected)))
    prompts = {p.prompt_id: p.prompt for p in strict}
    values = score([prompts[prompt_id] for prompt_id, _ in texts], [text for _, text in texts])
    of = dict(zip(texts, np.asarray(values, dtype=np.float64).tolist(), strict=True))
    right = outcomes([of[p.prompt_id, p.chosen] for p in strict], [of[p.prompt_id, p.rejected] for p in strict])
    shorter = length_outcomes([p for p in train if not p.tie]).mean() >= 0.5 if any(not p.tie for p in train) else True
    by_length = length_outcomes(strict) if shorter else 1 - length_outcomes(strict)
    constant = np.full(len(strict), 0.5)
    return {
        "accuracy": as_json(accuracy(right, clusters, seed=seed)),
        "baselines": {
            "constant": {"value": 0.5, "ci95": [0.5, 0.5], "n": len(constant)},
            "length": {
                **as_json(accuracy(by_length, clusters, seed=seed)),
                "rule": "prefers the shorter answer" if shorter else "prefers the longer answer",
            },
        },
        "difference_to_length": difference_as_json(accuracy_difference(right, by_length, clusters, seed=seed)),
        "prompts": len(set(clusters)),
    }


def check_held_out(held_out: Sequence[Preference]) -> None:
    """Raise InputError where there are strict pairs of fewer than two prompts to measure a reward on."""
    strict = [p for p in held_out if not p.tie]
    if len({p.prompt_id for p in strict}) < 2:
        raise InputError(
            f"{len(strict)} strict pairs are held out, of fewer than two prompts; rank more prompts, or raise "
            "reward.validation_fraction"
        )


def length_outcomes(pairs: Sequence[Preference]) -> np.ndarray:
    """(N,) 1 where the chosen answer is shorter in characters, 0 where it is longer, .5 where equal."""
    return outcomes([-len(p.chosen) for p in pairs], [-len(p.rejected) for p in pairs])


def as_json(estimate: Estimate) -> dict[str, Any]:
    """An estimate as ``value``, ``ci95`` and ``n``."""
    return {"value": estimate.value, "ci95": list(estimate.ci95) if estimate.ci95 else None, "n": estimate.n}


def difference_as_json(difference: Difference) -> dict[str, Any]:
    """A paired difference as ``mean``, ``ci95`` and ``p_value``."""
    return {
        "mean": difference.mean,
        "ci95": list(difference.ci95) if difference.ci95 else None,
        "p_value": difference.p_value,
    }
