"""compare.json of a comparison: every algorithm, every pair of them and every run, from the runs' rows and reports.

Field by field: docs/files.md. How sure: docs/compare.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from humanward.evaluation.best_of_n import Frontier, analytic_kl, at_kl, best_of, sizes, summarise_best_of_n
from humanward.evaluation.compare_statistics import (
    TIE,
    OverSeeds,
    SeedDifference,
    crossed,
    crossed_difference,
    difference_over_seeds,
    holm,
    over_seeds,
    relative,
    wins,
)
from humanward.evaluation.compare_tables import METRICS, Metric, RunResult, Tables, measured, tables
from humanward.evaluation.compare_words import verdict, warnings
from humanward.evaluation.statistics import Floats
from humanward.evaluation.visible import visible


@dataclass(frozen=True)
class ComparisonInputs:
    """Everything a comparison is made of. ``runs`` in the order of their algorithms as they shall appear.

    ``shared``: facts of the shared stages, as they shall be printed. ``settings``: by algorithm, the options that it
    uses as ``section.option``. ``frontier``: the best of n of the reference on the test prompts, or None with
    ``frontier_error`` where drawing it failed.
    """

    title: str
    runs: Sequence[RunResult]
    frontier: Frontier | None
    shared: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    judge: str
    reward_source: str
    gold_source: str | None
    simulated_annotators: bool
    reproduce: str
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    config_toml: str
    seed: int
    created_at: str = ""
    frontier_error: str | None = None


def build_comparison(inputs: ComparisonInputs) -> dict[str, Any]:
    """The content of compare.json: plain values, None for what was not measured, never NaN.

    Raises InputError for runs that were evaluated on different prompts.
    """
    names = list(dict.fromkeys(run.algorithm for run in inputs.runs))
    finished = [run for run in inputs.runs if run.state == "finished"]
    prompts = list(dict.fromkeys(row.prompt_id for row in finished[0].rows)) if finished else []
    by_name = {name: tables([run for run in inputs.runs if run.algorithm == name], prompts) for name in names}
    frontier = None if inputs.frontier is None else summarise_best_of_n(inputs.frontier, seed=inputs.seed)
    content: dict[str, Any] = {
        "title": inputs.title,
        "created_at": inputs.created_at,
        "verdict": "",
        "judge": inputs.judge,
        "reward": inputs.reward_source,
        "gold": {"source": inputs.gold_source, "simulated_annotators": inputs.simulated_annotators},
        "prompts": len(prompts),
        "samples": len(finished[0].rows) // len(prompts) if finished else 0,
        "seeds": sorted({run.seed for run in inputs.runs}),
        "tie": TIE,
        "metrics": {metric.name: {k: v for k, v in asdict(metric).items() if k != "name"} for metric in METRICS},
        "reference": _reference(inputs.runs, prompts),
        "algorithms": {name: _algorithm(name, inputs.runs, by_name[name], inputs.frontier) for name in names},
        "pairs": _pairs(by_name),
        "runs": [_run(run, by_name[run.algorithm]) for run in inputs.runs],
        "frontier": None if frontier is None else asdict(replace(frontier, policy=None, policy_verdict=None)),
        "frontier_error": inputs.frontier_error,
        "shared": dict(inputs.shared),
        "settings": {name: dict(values) for name, values in inputs.settings.items()},
        "differing": _differing(inputs.settings),
        "warnings": [],
        "reproduce": inputs.reproduce,
        "versions": dict(inputs.versions),
        "machine": dict(inputs.machine),
        "config": inputs.config_toml,
    }
    content["verdict"] = verdict(content)
    content["warnings"] = [*warnings(content), *_unpaired(finished)]
    return plain_values(content)


def _estimate(metric: Metric, table: Tables) -> OverSeeds | None:
    known = measured(table.at(metric.name))
    return None if known is None else (crossed if metric.over_prompts else over_seeds)(known[0])


def _algorithm(name: str, runs: Sequence[RunResult], table: Tables, frontier: Frontier | None) -> dict[str, Any]:
    """One algorithm: counts of its runs, estimates of every metric, its change of toxicity, its best and worst seed."""
    own = [run for run in runs if run.algorithm == name]
    sides = measured(table.at("toxicity"), table.at("before_toxicity"))
    change = None if sides is None else crossed_difference(*sides)
    by_seed = {} if sides is None else dict(zip(table.seeds, sides[0].mean(axis=1).tolist(), strict=True))
    ordered = sorted(by_seed, key=lambda seed: (by_seed[seed], seed))
    finished = [run for run in own if run.state == "finished"]
    return {
        "seeds": [run.seed for run in own],
        "finished": len(finished),
        "failed": [run.seed for run in own if run.state == "failed"],
        "unfinished": [run.seed for run in own if run.state == "unfinished"],
        "improved": sum(run.report is not None and run.report["outcome"] == "improved" for run in finished),
        "metrics": {metric.name: _maybe(_estimate(metric, table)) for metric in METRICS},
        "toxicity_change": _maybe(change),
        "toxicity_relative": _maybe(None if sides is None else relative(*sides)),
        "unscored_prompts": len(table.prompts) - (0 if sides is None else sides[0].shape[1]) if finished else 0,
        "best_seed": {"seed": ordered[0], "toxicity": by_seed[ordered[0]]} if ordered else None,
        "worst_seed": {"seed": ordered[-1], "toxicity": by_seed[ordered[-1]]} if ordered else None,
        "against_frontier": _against_frontier(table, frontier),
        "budget": {
            cost: _range([run.costs.get(cost) for run in finished])
            for cost in ("episodes", "sequences", "optimizer_steps")
        },
    }


def _reference(runs: Sequence[RunResult], prompts: Sequence[str]) -> dict[str, Any]:
    """The model before training: one run of each seed, as all runs of a seed have the same answers before."""
    by_seed: dict[int, RunResult] = {}
    for run in runs:
        if run.state == "finished":
            by_seed.setdefault(run.seed, run)
    table = tables(list(by_seed.values()), prompts)
    found: dict[str, Any] = {}
    for name in ("toxicity", "reward", "gold", "length"):
        known = measured(table.at(f"before_{name}"))
        found[name] = _maybe(None if known is None else crossed(known[0]))
    return found


def _pairs(by_name: Mapping[str, Tables]) -> list[dict[str, Any]]:
    """Every pair on the seeds that both finished: differences of all metrics, and who wins by the judge."""
    pairs: list[dict[str, Any]] = []
    for first, second in combinations(by_name, 2):
        left, right = by_name[first], by_name[second]
        seeds = [seed for seed in left.seeds if seed in right.seeds]
        if seeds:
            found = {metric.name: _difference(metric, left, right, seeds) for metric in METRICS}
            sides = measured(left.at("toxicity", seeds), right.at("toxicity", seeds))
            duel = None if sides is None else crossed(wins(-sides[0], -sides[1]))
            pairs.append({"first": first, "second": second, "seeds": seeds, "metrics": found, "duel": _maybe(duel)})
    for metric in METRICS:
        adjusted = holm([_p_value(pair["metrics"][metric.name]) for pair in pairs])
        for pair, p_holm in zip(pairs, adjusted, strict=True):
            if (found := pair["metrics"][metric.name]) is not None:
                pair["metrics"][metric.name] = asdict(replace(found, p_holm=p_holm))
    return pairs


def _difference(metric: Metric, left: Tables, right: Tables, seeds: Sequence[int]) -> SeedDifference | None:
    sides = measured(left.at(metric.name, seeds), right.at(metric.name, seeds))
    if sides is None:
        return None
    return (crossed_difference if metric.over_prompts else difference_over_seeds)(*sides)


def _p_value(difference: SeedDifference | None) -> float | None:
    return None if difference is None else difference.p_value


def _against_frontier(table: Tables, frontier: Frontier | None) -> dict[str, Any]:
    """Reward and toxicity less those of best-of-n at the algorithm's mean KL, on the same prompts; None out of reach.

    The interval takes that KL as it was measured.
    """
    found: dict[str, Any] = {"kl": None, "reward": None, "toxicity": None}
    if frontier is None or not table.seeds:
        return found
    whole = {one.prompt_id: one for one in frontier.reference if None not in (*one.reward, *one.toxicity)}
    places = [place for place, prompt in enumerate(table.prompts) if prompt in whole]
    sides = measured(*(table.at(name)[:, places] for name in ("kl", "reward", "toxicity")))
    if sides is None or sides[0].shape[1] < len(places):
        return found
    found["kl"] = kl = float(sides[0].mean())
    answers = [whole[table.prompts[place]] for place in places]
    rewards = np.array([one.reward for one in answers])
    steps = sizes(frontier.samples)
    for name, ours in zip(("reward", "toxicity"), sides[1:], strict=True):
        curves = [best_of(rewards, np.array([getattr(one, name) for one in answers]), n) for n in steps]
        reached: Floats | None = at_kl(curves, [analytic_kl(n) for n in steps], kl)
        if reached is not None:
            difference = crossed_difference(ours, np.broadcast_to(reached, ours.shape))
            found[name] = {"frontier": float(reached.mean()), **asdict(difference)}
    return found


def _run(run: RunResult, table: Tables) -> dict[str, Any]:
    """One run: its state, its own numbers and interval, the limits that it broke, what it cost."""
    content: dict[str, Any] = {
        "algorithm": run.algorithm,
        "seed": run.seed,
        "folder": run.folder,
        "state": run.state,
        "error": run.error,
        "metrics": None,
        "toxicity": None,
        "outcome": None,
        "limits_broken": None,
        "warnings": None,
        "costs": {name: run.costs.get(name) for name in COSTS},
        "threads": list(run.threads),
    }
    if run.state != "finished" or run.report is None:
        return content
    toxicity = run.report["toxicity"]
    return {
        **content,
        "metrics": {metric.name: _own(metric, table, run.seed) for metric in METRICS},
        "toxicity": {
            "before": toxicity["before"]["mean"],
            "after": toxicity["after"]["mean"],
            **{key: toxicity["difference"][key] for key in ("mean", "ci95", "p_value", "relative")},
        },
        "outcome": run.report["outcome"],
        "limits_broken": [check["label"] for check in run.report["fluency"]["checks"] if not check["passed"]],
        "warnings": list(run.report["warnings"]),
    }


COSTS = (
    "align_seconds",
    "wall_seconds",
    "peak_gigabytes",
    "peak_gpu_gigabytes",
    "episodes",
    "sequences",
    "optimizer_steps",
)


def _own(metric: Metric, table: Tables, seed: int) -> float | None:
    values = table.at(metric.name, [seed])
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The options on which the algorithms that use them differ."""
    options = dict.fromkeys(name for values in settings.values() for name in values)
    return [
        option
        for option in options
        if len({repr(values[option]) for values in settings.values() if option in values}) > 1
    ]


def _unpaired(finished: Sequence[RunResult]) -> list[str]:
    """A warning for each seed whose runs do not share their answers before training.

    Best-of-n is not asked: it draws its first answer among n, where another batch rounds differently.
    """
    found = []
    trained = [run for run in finished if run.algorithm != "best-of-n"]
    for seed in sorted({run.seed for run in trained}):
        sides = [{(r.prompt_id, r.sample): r.before.text for r in run.rows} for run in trained if run.seed == seed]
        if any(side != sides[0] for side in sides):
            found.append(
                f"Seed {seed}: the answers before training are not the same in all runs, as with another number of "
                "threads or another machine; differences between algorithms are noisier for it."
            )
    return found


def _range(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [min(known), max(known)] if known else None


def _maybe(found: OverSeeds | SeedDifference | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)


def plain_values(value: Any) -> Any:
    """Lists for tuples and dictionaries for mappings; text that UTF-8 can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return visible(value) if isinstance(value, str) else value
