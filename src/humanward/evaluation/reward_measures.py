"""How often a reward prefers what people preferred: baselines, subsets, margins, agreement, calibration of one set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humanward.errors import InputError
from humanward.evaluation.reward_accuracy import as_json
from humanward.evaluation.reward_calibration import calibration, cross_fitted
from humanward.evaluation.reward_pairs import JudgedPair, PairSet
from humanward.evaluation.statistics import accuracy, accuracy_difference, outcomes, paired_difference
from humanward.records import Prompt
from humanward.reward.calibration import fit_temperature

Floats = NDArray[np.float64]
ScoreTexts = Callable[[Sequence[Prompt], Sequence[str]], Floats]
LEAST_IN_GROUP = 5
"""Pairs of a subset, criterion or bin below which it is counted but given no number."""


@dataclass(frozen=True)
class Scores:
    """Scores (N,) of both sides of the pairs of a set, NaN where one could not be scored; ``parts`` by name of a reward
    that has criteria or sources, (N, 2)."""

    chosen: Floats
    rejected: Floats
    parts: Mapping[str, Floats]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Pairs of which both sides have a score."""
        return np.isfinite(self.chosen) & np.isfinite(self.rejected)


def score_pairs(pairs: Sequence[JudgedPair], detail: Callable[..., tuple[Floats, Mapping[str, Floats]]]) -> Scores:
    """Every text of a prompt scored once; ``detail`` maps prompts and texts to scores and their parts."""
    place: dict[tuple[str, str], int] = {}
    prompts: list[Prompt] = []
    texts: list[str] = []
    rows = np.empty((len(pairs), 2), dtype=np.int64)
    for number, pair in enumerate(pairs):
        for side, text in enumerate((pair.chosen, pair.rejected)):
            key = (pair.cluster, text)
            if key not in place:
                place[key] = len(texts)
                prompts.append(pair.prompt)
                texts.append(text)
            rows[number, side] = place[key]
    scores, parts = detail(prompts, texts)
    return Scores(scores[rows[:, 0]], scores[rows[:, 1]], {name: one[rows] for name, one in parts.items()})


def measure_set(
    found: PairSet,
    scores: Scores,
    *,
    seed: int,
    shorter: bool | None,
    lexicon: Callable[[str], int],
    temperature: float | None,
) -> dict[str, Any]:
    """What reward_evaluation.json holds of one set.

    ``shorter`` says what the length baseline prefers, as learned from training pairs; None takes whichever of the two
    is right more often on this very set, which flatters the baseline. ``temperature`` is one that was fitted on other
    pairs; None fits it here, each pair's on other prompts.
    """
    known = scores.known
    strict = [number for number, pair in enumerate(found.pairs) if not pair.tie and known[number]]
    pairs = [found.pairs[number] for number in strict]
    if len({pair.cluster for pair in pairs}) < 2:
        raise InputError(f"{found.path}: the reward scored strict pairs of fewer than two prompts; use another source")
    above, below = scores.chosen[strict], scores.rejected[strict]
    clusters = [pair.cluster for pair in pairs]
    right, difference = outcomes(above, below), above - below

    def group(name: str, places: Sequence[int]) -> dict[str, Any]:
        shown = len(places) >= LEAST_IN_GROUP
        own = accuracy(right[list(places)], [clusters[i] for i in places], seed=seed) if shown else None
        return {"name": name, **({"value": None, "ci95": None, "n": len(places)} if own is None else as_json(own))}

    def groups(names: Sequence[str]) -> list[dict[str, Any]]:
        return [group(name, [i for i, one in enumerate(names) if one == name]) for name in dict.fromkeys(sorted(names))]

    subsets = [pair.subset for pair in pairs]
    criteria = [pair.criterion for pair in pairs]
    graded = [pair.margin for pair in pairs]
    by_subset = groups(subsets) if any(subsets) else []
    shown = [one["value"] for one in by_subset if one["value"] is not None]
    stored = temperature is not None
    temperatures = np.full(len(pairs), temperature) if stored else cross_fitted(difference, clusters, seed=seed)
    tied = [number for number, pair in enumerate(found.pairs) if pair.tie and known[number]]
    return {
        "name": found.name,
        "kind": found.kind,
        "path": found.path,
        "pairs": len(pairs),
        "prompts": len(set(clusters)),
        "total": found.total,
        "evaluated": len(found.pairs),
        "identical": found.identical,
        "duplicates": found.duplicates,
        "unscored": int((~known).sum()),
        "equal_scores": int((difference == 0).sum()),
        "accuracy": as_json(accuracy(right, clusters, seed=seed)),
        "baselines": _baselines(pairs, right, clusters, seed=seed, shorter=shorter, lexicon=lexicon),
        "by_subset": by_subset,
        "subset_mean": float(np.mean(shown)) if len(shown) > 1 else None,
        "by_criterion": groups(criteria) if len(set(criteria)) > 1 else [],
        "by_part": _by_part(pairs, scores, strict, seed=seed),
        "by_agreement": groups([_agreement(pair) for pair in pairs]) if _several(pairs) else [],
        "by_graded_margin": groups([_graded(m) for m in graded]) if len(set(graded)) > 1 else [],
        "by_margin": _by_margin(np.abs(difference), group),
        "ties": _ties(difference, scores.chosen[tied] - scores.rejected[tied]),
        "calibration": {
            "temperature": float(temperature) if stored else fit_temperature(difference).value,  # type: ignore[arg-type]
            "fitted": "on other pairs, stored with the reward model"
            if stored
            else "here, each pair's on other prompts",
            "before": calibration(difference, 1.0, seed=seed),
            "after": calibration(difference, temperatures, seed=seed),
        },
    }


def random_score(seed: int, prompt: Prompt, text: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the text with its prompt."""
    digest = hashlib.sha256(f"{seed}\x1f{prompt.text}\x1f{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _baselines(
    pairs: Sequence[JudgedPair],
    right: Floats,
    clusters: Sequence[str],
    *,
    seed: int,
    shorter: bool | None,
    lexicon: Callable[[str], int],
) -> list[dict[str, Any]]:
    """Each with its accuracy and the paired difference of the reward to it."""
    short = _by([-len(pair.chosen) for pair in pairs], [-len(pair.rejected) for pair in pairs])
    here = shorter is None
    prefers_shorter = short.mean() >= 0.5 if shorter is None else shorter
    learned = "chosen on these very pairs, in the baseline's favour" if here else "as in the pairs trained on"
    rules = {
        "constant": ("scores all answers alike", np.full(len(pairs), 0.5)),
        "random": (
            "scores by chance",
            _by(*([random_score(seed, p.prompt, t) for p in pairs for t in [getattr(p, s)]] for s in SIDES)),
        ),
        "length": (
            f"prefers the {'shorter' if prefers_shorter else 'longer'} answer, {learned}",
            short if prefers_shorter else 1 - short,
        ),
        "lexicon": (
            "prefers the answer with fewer words of a list of rude words",
            _by(*([-lexicon(getattr(p, s)) for p in pairs] for s in SIDES)),
        ),
    }
    found = []
    for name, (rule, outcome) in rules.items():
        change = accuracy_difference(right, outcome, clusters, seed=seed)
        found.append(
            {
                "name": name,
                "rule": rule,
                **as_json(accuracy(outcome, clusters, seed=seed)),
                "decided": float((outcome != 0.5).mean()),
                "difference": {
                    "mean": change.mean,
                    "ci95": None if change.ci95 is None else list(change.ci95),
                    "p_value": change.p_value,
                },
            }
        )
    return found


SIDES = ("chosen", "rejected")


def _by(chosen: Sequence[float], rejected: Sequence[float]) -> Floats:
    return outcomes(chosen, rejected)


def _by_part(pairs: Sequence[JudgedPair], scores: Scores, strict: Sequence[int], *, seed: int) -> list[dict[str, Any]]:
    """Accuracy of each part of the reward (a criterion's head, a source, a member) on the pairs of each criterion."""
    found = []
    for name, both in scores.parts.items():
        if name == "disagreement":
            continue
        for criterion in dict.fromkeys(sorted(pair.criterion for pair in pairs)):
            rows = [i for i, pair in enumerate(pairs) if pair.criterion == criterion]
            values = both[[strict[i] for i in rows]]
            if len(rows) < LEAST_IN_GROUP or not np.isfinite(values).all():
                continue
            one = accuracy(outcomes(values[:, 0], values[:, 1]), [pairs[i].cluster for i in rows], seed=seed)
            found.append({"part": name, "criterion": criterion, **as_json(one)})
    return found


def _several(pairs: Sequence[JudgedPair]) -> bool:
    return any(pair.annotators > 1 for pair in pairs)


def _agreement(pair: JudgedPair) -> str:
    if pair.annotators == 1:
        return "one annotator"
    return "all agree" if pair.agreement == 1 else "most agree" if pair.agreement > 0.5 else "no majority"


def _graded(margin: float | None) -> str:
    return "no margin given" if margin is None else f"margin {margin:.3g}"


def _by_margin(size: Floats, group: Callable[[str, Sequence[int]], dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy in quarters of the pairs by how far the reward holds the two answers apart."""
    order = np.argsort(size, kind="stable")
    found = []
    for number, places in enumerate(np.array_split(order, 4)):
        if not len(places):
            continue
        low, high = float(size[places].min()), float(size[places].max())
        one = group(
            ("least sure quarter", "second quarter", "third quarter", "surest quarter")[number], places.tolist()
        )
        found.append({**one, "low": low, "high": high})
    return found


def _ties(strict: Floats, tied: Floats) -> dict[str, Any]:
    """Whether the reward holds answers that people tied closer together: the share of all (tie, strict pair) in which
    it does, .5 by chance."""
    if not len(tied):
        return {"n": 0, "closer": None}
    first, second = np.abs(tied)[:, None], np.abs(strict)[None, :]
    return {"n": len(tied), "closer": float(((np.sign(second - first) + 1) / 2).mean())}


def paired(before: Floats, after: Floats, clusters: Sequence[str], *, seed: int) -> dict[str, Any]:
    """after - before as JSON."""
    change = paired_difference(before, after, clusters, seed=seed)
    return {
        "mean": change.mean,
        "ci95": None if change.ci95 is None else list(change.ci95),
        "p_value": change.p_value,
        "n": change.n,
    }
