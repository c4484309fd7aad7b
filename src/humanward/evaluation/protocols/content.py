"""evaluate.json: every set, model, pair and measure, with interval, p-value, effect size and n. Never NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from humanward.evaluation.compare import plain_values
from humanward.evaluation.compare_statistics import holm
from humanward.evaluation.protocols.agreement import agreement
from humanward.evaluation.protocols.groups import gap_change, group_means, largest_gap
from humanward.evaluation.protocols.measures import Measure, SetAnswers, measures_of
from humanward.evaluation.protocols.sets import KINDS, EvaluationSet
from humanward.evaluation.protocols.wins import PositionBias, WinRate
from humanward.evaluation.protocols.words import findings, verdict, warnings
from humanward.evaluation.statistics import Difference, accuracy, mean_interval, paired_difference

EXAMPLES = 8
"""Answers shown of each set: those on which the models differ most."""


@dataclass(frozen=True)
class Duel:
    """Who wins between two models on one set. ``by`` is the reward, the judge model or people; ``bias`` a judge's."""

    by: str
    how: str
    first: str
    second: str
    result: WinRate | None
    bias: PositionBias | None = None
    unparsed: int = 0


@dataclass(frozen=True)
class SetResult:
    """One set with what was found. ``left_out``: items that a model was trained on, or that a limit left out, in words;
    ``trained_on``: how many items, by model."""

    set: EvaluationSet
    answers: SetAnswers
    samples: int
    sampling: Mapping[str, Any]
    duels: Sequence[Duel] = ()
    trained_on: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationInputs:
    """Everything an evaluation is made of. ``models`` by name, the first is what others are compared with first.

    ``independence``: warnings about judges that are a reward, found where the models come from.
    """

    models: Mapping[str, Mapping[str, Any]]
    sets: Sequence[SetResult]
    judges: Mapping[str, Mapping[str, Any]]
    rewards: Mapping[str, Mapping[str, Any]]
    judge_model: Mapping[str, Any] | None
    seed: int
    reproduce: str
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    independence: Sequence[str] = ()
    created_at: str = ""


def build_evaluation(inputs: EvaluationInputs, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """The content of evaluate.json; ``progress`` is told how many sets are summed up."""
    models = list(inputs.models)
    sets = []
    for done, one in enumerate(inputs.sets, 1):
        sets.append(_set(one, models, inputs.seed))
        progress(done)
    content: dict[str, Any] = {
        "title": f"{', '.join(models)} on {', '.join(one.set.name for one in inputs.sets)}",
        "created_at": inputs.created_at,
        "verdict": "",
        "findings": [],
        "models": {name: dict(facts) for name, facts in inputs.models.items()},
        "seed": inputs.seed,
        "judges": {name: dict(facts) for name, facts in inputs.judges.items()},
        "rewards": {name: dict(facts) for name, facts in inputs.rewards.items()},
        "judge_model": None if inputs.judge_model is None else dict(inputs.judge_model),
        "sets": sets,
        "warnings": [],
        "reproduce": inputs.reproduce,
        "versions": dict(inputs.versions),
        "machine": dict(inputs.machine),
    }
    _adjust(content["sets"])
    content["verdict"] = verdict(content)
    content["findings"] = findings(content)
    content["warnings"] = [*inputs.independence, *warnings(content)]
    return plain_values(content)


# --- one set ---------------------------------------------------------------------------------------------------------


def _set(one: SetResult, models: Sequence[str], seed: int) -> dict[str, Any]:
    measures = measures_of(one.set, one.answers, models, one.samples)
    rows = [_measure(measure, models, seed) for measure in measures]
    gaps = _gaps(one, measures, models, seed)
    duels = [_duel(duel) for duel in one.duels]
    return {
        "name": one.set.name,
        "kind": one.set.kind,
        "protocol": KINDS[one.set.kind].title,
        "path": one.set.path,
        "items": len(one.set.items),
        "clusters": len({item.cluster for item in one.set.items}),
        "total": one.set.total,
        "duplicates": one.set.duplicates,
        "samples": one.samples,
        "sampling": dict(one.sampling),
        "trained_on": dict(one.trained_on),
        "too_long": {model: sum(text is None for text in own.values()) for model, own in one.answers.texts.items()},
        "measures": rows,
        "groups": gaps,
        "refusals_by_type": _by_type(one, measures, models),
        "wins": duels,
        "agreement": _agreement(one, models),
        "examples": _examples(one, measures, models),
    }


def _measure(measure: Measure, models: Sequence[str], seed: int) -> dict[str, Any]:
    """A measure with estimates of every model on the units that all have, and differences of every pair."""
    known = measure.known()
    places = np.flatnonzero(known)
    clusters = [measure.clusters[place] for place in places]
    columns = {model: measure.columns[model][places] for model in models}
    row: dict[str, Any] = {
        "name": measure.name,
        "label": measure.label,
        "kind": measure.kind,
        "better": measure.better,
        "primary": measure.primary,
        "subset": measure.subset,
        "source": measure.source,
        "chance": measure.chance,
        "n": len(places),
        "prompts": len(set(clusters)),
        "unscored": {model: int((~np.isfinite(column)).sum()) for model, column in measure.columns.items()},
        "models": dict.fromkeys(models),
        "pairs": [],
    }
    if not len(places):
        return row
    row["models"] = {model: _estimate(column, clusters, seed, measure.kind) for model, column in columns.items()}
    for first, second in combinations(models, 2):
        found = paired_difference(columns[first], columns[second], clusters, seed=seed)
        row["pairs"].append(
            {
                "first": first,
                "second": second,
                "value": found.mean,
                "ci95": _never_apart(found) if measure.kind == "share" and found.effect_size is None else found.ci95,
                "p_value": found.p_value,
                "p_holm": None,
                "effect_size": found.effect_size,
                "n": found.n,
                "prompts": found.clusters,
            }
        )
    return row


def _never_apart(found: Difference) -> tuple[float, float] | None:
    """The interval where no cluster's difference varies: resampling cannot show that the models ever differ, so the
    exact binomial bound of a share of which nothing was seen (Clopper-Pearson) stands on either side."""
    if found.mean != 0 or found.clusters < 2:
        return found.ci95
    bound = 1 - 0.025 ** (1 / found.clusters)
    return -bound, bound


def _estimate(column: np.ndarray, clusters: Sequence[str], seed: int, kind: str) -> dict[str, Any]:
    of = accuracy if kind == "share" else mean_interval
    found = of(column, clusters, seed=seed)
    return {"value": found.value, "ci95": found.ci95, "std": float(column.std()), "max": float(column.max())}


def _duel(duel: Duel) -> dict[str, Any]:
    return {
        "by": duel.by,
        "how": duel.how,
        "first": duel.first,
        "second": duel.second,
        "unparsed": duel.unparsed,
        "bias": None if duel.bias is None else asdict(duel.bias),
        "result": None if duel.result is None else {**asdict(duel.result), "p_holm": None},
    }


def _adjust(sets: Sequence[dict[str, Any]]) -> None:
    """Holm's adjusted p-values over two families: what the verdict speaks of, over all sets (primary measures, win
    rates, changes of the largest gap), and everything else, each set by itself."""
    primary: list[dict[str, Any]] = []
    for one in sets:
        rest = [pair for row in one["measures"] if not row["primary"] for pair in row["pairs"]]
        _holm(rest)
        primary += [pair for row in one["measures"] if row["primary"] for pair in row["pairs"]]
        primary += (one["groups"] or {}).get("changes", [])
        primary += [duel["result"] for duel in one["wins"] if duel["result"] is not None]
    _holm(primary)


def _holm(family: Sequence[dict[str, Any]]) -> None:
    for one, adjusted in zip(family, holm([one["p_value"] for one in family]), strict=True):
        one["p_holm"] = adjusted


# --- groups, judges, examples ----------------------------------------------------------------------------------------


def _gaps(one: SetResult, measures: Sequence[Measure], models: Sequence[str], seed: int) -> dict[str, Any] | None:
    """Judged toxicity by group with the largest gap, by the first judge; None for a set without groups of people."""
    measure = next((m for m in measures if m.name.startswith("toxicity:")), None)
    if one.set.kind != "bold" or measure is None or len(one.set.groups) < 2:
        return None
    places = np.flatnonzero(measure.known())
    if not len(places):
        return None
    group_of = {item.id: item.group for item in one.set.items}
    groups = [group_of[measure.items[place]] for place in places]
    clusters = [measure.clusters[place] for place in places]
    columns = {model: measure.columns[model][places] for model in models}
    changes = []
    for first, second in combinations(models, 2):
        change = gap_change(columns[first], columns[second], groups, clusters, seed=seed)
        if change is not None:
            changes.append({"first": first, "second": second, **asdict(change), "p_holm": None})
    return {
        "judge": measure.source,
        "by_group": {
            model: {name: asdict(found) for name, found in group_means(column, groups, clusters, seed=seed).items()}
            for model, column in columns.items()
        },
        "largest": {
            model: None if (gap := largest_gap(column, groups, clusters, seed=seed)) is None else asdict(gap)
            for model, column in columns.items()
        },
        "changes": changes,
    }


def _by_type(one: SetResult, measures: Sequence[Measure], models: Sequence[str]) -> list[dict[str, Any]]:
    """XSTest: share refused by type of prompt, by rules."""
    if one.set.kind != "xstest":
        return []
    rows = []
    type_of = {item.id: item.group for item in one.set.items}
    for measure in measures:
        if not measure.name.endswith(":rules"):
            continue
        known = measure.known()
        for group in one.set.groups:
            own = known & np.array([type_of[item] == group for item in measure.items])
            if own.any():
                shares = {model: float(measure.columns[model][own].mean()) for model in models}
                label = measure.name.removeprefix("refuses_").removesuffix(":rules")
                rows.append({"type": group, "label": label, "n": int(own.sum()), "shares": shares})
    return rows


def _agreement(one: SetResult, models: Sequence[str]) -> list[dict[str, Any]]:
    """Every pair of judges on all answers of all models; of XSTest also the rules with the judge model."""
    rows = []
    for left, right in combinations(one.answers.toxicity, 2):
        sides = [[], []]  # type: list[list[float]]
        for model in models:
            for key, score in one.answers.toxicity[left][model].items():
                sides[0].append(np.nan if score is None else score)
                other = one.answers.toxicity[right][model].get(key)
                sides[1].append(np.nan if other is None else other)
        if (found := agreement(*sides)) is not None:
            rows.append({"first": left, "second": right, **asdict(found)})
    if one.answers.refusals:
        by_name = {m.name: m for m in measures_of(one.set, one.answers, models, one.samples)}
        pairs = [
            (by_name[f"refuses_{label}:rules"].columns[model], by_name[f"refuses_{label}:judge model"].columns[model])
            for label in ("safe", "unsafe")
            if f"refuses_{label}:rules" in by_name
            for model in models
        ]
        found = agreement(np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]))
        if found is not None:
            rows.append({"first": "rules", "second": "judge model", **asdict(found)})
    return rows


def _examples(one: SetResult, measures: Sequence[Measure], models: Sequence[str]) -> list[dict[str, Any]]:
    """The answers on which the models differ most, one a prompt: in refusing (XSTest), else in judged toxicity, else in
    the primary measure."""
    if not one.answers.texts:
        return []
    judge = next(iter(one.answers.toxicity), None)
    measured = [m for m in measures if m.name.endswith(":rules")] or [m for m in measures if m.primary]
    of_item = {m: dict(zip(own.items, own.columns[m], strict=True)) for own in measured[:1] for m in models}
    for own in measured[1:]:
        for model in models:
            of_item[model] |= dict(zip(own.items, own.columns[model], strict=True))
    shown = []
    for key in one.answers.texts[models[0]]:
        texts = {model: one.answers.texts[model].get(key) for model in models}
        if any(text is None for text in texts.values()):
            continue
        scores = {m: None if judge is None else one.answers.toxicity[judge][m].get(key) for m in models}
        by_item = one.set.kind == "xstest" or judge is None
        values = [of_item.get(m, {}).get(key[0], np.nan) if by_item else scores[m] for m in models]
        known = [float(value) for value in values if value is not None and np.isfinite(value)]
        shown.append((max(known) - min(known) if known else 0.0, key, texts, scores))
    shown.sort(key=lambda one: (-one[0], one[1]))
    item_of = {item.id: item for item in one.set.items}
    taken: dict[str, dict[str, Any]] = {}
    for apart, key, texts, scores in shown:
        item = item_of.get(key[0])
        if item is None or len(taken) == EXAMPLES:
            continue
        answers = {m: {"text": texts[m], "toxicity": scores[m]} for m in models}
        facts = {"prompt": item.prompt.text, "group": item.group, "label": item.label}
        taken.setdefault(item.id, {**facts, "sample": key[1], "apart": apart, "answers": answers})
    return list(taken.values())
