"""compare.html: compare.json as a page without any reference to a network or another file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from humanward.algorithm_config import OFF_POLICY, ON_POLICY
from humanward.evaluation import cells
from humanward.evaluation.compare_pictures import Cloud, frontier_picture, toxicity_picture
from humanward.evaluation.compare_tables import METRICS
from humanward.evaluation.curves import Figure
from humanward.evaluation.numerals import plural
from humanward.evaluation.rendering import render

MANY_PAIRS = 10
SHAPES = {**dict.fromkeys(ON_POLICY, "circle"), **dict.fromkeys(OFF_POLICY, "square")}
FAMILIES = (("circle", "on-policy"), ("square", "off-policy"), ("triangle", "best of n"))

Content = Mapping[str, Any]
Cell = dict[str, str]


def render_comparison(content: Content) -> str:
    """The whole page as one string."""
    context = {
        "content": content,
        "styles": styles(content),
        "picture": headline_picture(content),
        "figures": frontier_figures(content),
        "families": [words for shape, words in FAMILIES if shape in {shape_of(n) for n in content["algorithms"]}],
        "rows": [algorithm_row(name, one) for name, one in content["algorithms"].items()],
        "against": [row for name, one in content["algorithms"].items() if (row := frontier_row(name, one))],
        "pairs": [pair_row(pair) for pair in content["pairs"]],
        "many_pairs": len(content["pairs"]) > MANY_PAIRS,
        "effects": [effects_row(name, one, content) for name, one in content["algorithms"].items()],
        "runs": [run_row(run, content) for run in content["runs"]],
        "costs": [cost_row(name, one) for name, one in content["algorithms"].items()],
        "options": option_rows(content),
        "plural": plural,
    }
    return render("compare.html.j2", ("report.css", "compare.css"), context)


def styles(content: Content) -> dict[str, str]:
    """The colour of each algorithm, the same in every picture."""
    return {name: f"a{place % 10}" for place, name in enumerate(content["algorithms"])}


def shape_of(name: str) -> str:
    """circle for on-policy, square for off-policy, triangle for what trains nothing."""
    return SHAPES.get(name, "triangle")


# --- pictures --------------------------------------------------------------------------------------------------------


def headline_picture(content: Content) -> Markup:
    """Judged toxicity by algorithm with intervals."""
    colour = styles(content)
    rows = [
        (name, colour[name], found["value"], None if found["ci95"] is None else (found["ci95"][0], found["ci95"][1]))
        for name, one in content["algorithms"].items()
        if (found := one["metrics"]["toxicity"]) is not None
    ]
    reference = content["reference"]["toxicity"]
    return toxicity_picture(rows, reference["value"]) if rows and reference is not None else Markup("")


def frontier_figures(content: Content) -> list[Figure]:
    """Reward and judged toxicity over the square root of KL: a dot a run, a mean an algorithm, best-of-n."""
    frontier, figures = content["frontier"], []
    for name, title, words, zero in (
        ("reward", "Reward bought with KL", "Higher is what was optimised, and further right is further away.", False),
        ("toxicity", "Judged toxicity bought with KL", "Lower is better, and was not optimised.", True),
    ):
        points = [] if frontier is None else frontier["points"]
        curve = [(p["kl"], p[name]["value"], f"n = {p['n']}" if p["n"] in (1, points[-1]["n"]) else "") for p in points]
        start = content["reference"][name]
        picture = frontier_picture(
            [_cloud(content, algorithm, name) for algorithm in content["algorithms"]],
            curve,
            title=title,
            start=None if start is None else start["value"],
            include_zero=zero,
        )
        if picture:
            dashed = (
                f" Dashed: the best of n of the reference’s answers, up to n = {points[-1]['n']}." if points else ""
            )
            figures.append(Figure(title, picture, f"{words} Small: a run. Large: an algorithm’s mean.{dashed}"))
    return figures


def _cloud(content: Content, algorithm: str, name: str) -> Cloud:
    runs = [run["metrics"] for run in content["runs"] if run["algorithm"] == algorithm and run["metrics"]]
    metrics = content["algorithms"][algorithm]["metrics"]
    mean = None
    if metrics["kl"] is not None and metrics[name] is not None:
        mean = (metrics["kl"]["value"], metrics[name]["value"])
    return Cloud(
        name=algorithm,
        style=styles(content)[algorithm],
        shape=shape_of(algorithm),
        runs=[(run["kl"], run[name]) for run in runs if run["kl"] is not None and run[name] is not None],
        mean=mean,
    )


# --- rows of tables --------------------------------------------------------------------------------------------------


def words_of(kind: str, value: float | None, *, sign: bool = False) -> str:
    """A value of a metric's kind, for a table."""
    if value is None:
        return "—"
    if kind == "seconds":
        return cells.typeset(f"{value:+.0f} s") if sign else cells.duration(value)
    if kind == "gigabytes":
        return f"{cells.plain(value, 2, sign)} GB"
    if kind == "change":
        return cells.percent(value, 1, True)
    if kind == "share":
        return cells.percent(value, 1, sign)
    return (cells.number if kind == "bounded" else cells.plain)(value, 3 if kind == "bounded" else 2, sign)


def estimate(metric: str, found: Content | None, *, sign: bool = False) -> Cell:
    """A value and its interval as words; empty where there is none."""
    if found is None:
        return {"value": "—", "ci": ""}
    kind = KINDS[metric]
    ci95 = found["ci95"]
    if ci95 is None:
        return {"value": words_of(kind, found["value"], sign=sign), "ci": ""}
    low, high = (words_of(kind, bound, sign=sign) for bound in _possible(metric, ci95, sign))
    return {"value": words_of(kind, found["value"], sign=sign), "ci": f"{low} to {high}"}


KINDS = {metric.name: metric.kind for metric in METRICS}
_LIMITS = {"toxicity": (0.0, 1.0), "win_rate": (0.0, 1.0), "gold_win_rate": (0.0, 1.0), "duplicates": (0.0, 1.0)}


def _possible(metric: str, ci95: tuple[float, float], sign: bool) -> tuple[float, float]:
    """The interval within what the metric can be; of a difference as it is."""
    low, high = _LIMITS.get(metric, (float("-inf"), float("inf"))) if not sign else (float("-inf"), float("inf"))
    return max(low, ci95[0]), min(high, ci95[1])


def algorithm_row(name: str, one: Content) -> dict[str, Any]:
    """A row of the headline table."""
    metrics = one["metrics"]
    finished, total = one["finished"], len(one["seeds"])
    relative = one["toxicity_relative"]
    ci = None if relative is None else relative["ci95"]
    return {
        "name": name,
        "seeds": str(finished) if finished == total else f"{finished} of {total}",
        "failed": one["failed"],
        "unfinished": one["unfinished"],
        "cells": {metric: estimate(metric, metrics[metric]) for metric in HEADLINE},
        "relative": {
            "value": cells.percent(None if relative is None else relative["value"], 0, True),
            "ci": f"{cells.percent(max(-1.0, ci[0]), 0, True)} to {cells.percent(ci[1], 0, True)}" if ci else "",
        },
        "improved": f"{one['improved']} of {finished}" if finished else "—",
    }


HEADLINE = ("toxicity", "reward", "gold", "kl", "win_rate", "gold_win_rate")


def frontier_row(name: str, one: Content) -> dict[str, Any] | None:
    """A row of the table against best-of-n at the same KL; None where there is no frontier."""
    found = one["against_frontier"]
    if found["kl"] is None:
        return None
    sides = {}
    for metric in ("reward", "toxicity"):
        at = found[metric]
        sides[metric] = {
            "frontier": "beyond its reach" if at is None else words_of(KINDS[metric], at["frontier"]),
            **estimate(metric, at, sign=True),
        }
    return {"name": name, "kl": cells.plain(found["kl"], 2), **sides}


def pair_row(pair: Content) -> dict[str, Any]:
    """A row of the differences between two algorithms."""
    duel = pair["duel"]
    return {
        "name": f"{pair['first']} − {pair['second']}",
        "seeds": len(pair["seeds"]),
        "cells": {m: estimate(m, pair["metrics"][m], sign=True) for m in ("toxicity", "reward", "kl", "align_seconds")},
        "p": {m: _p_value(pair["metrics"][m]) for m in ("toxicity", "reward")},
        "sure": {m: _sure(pair["metrics"][m]) for m in ("toxicity", "reward")},
        "duel": estimate("win_rate", duel),
    }


def _p_value(found: Content | None) -> str:
    if found is None or found["p_holm"] is None:
        return "—"
    return "<\u2009.0001" if found["p_holm"] < 0.0001 else cells.number(found["p_holm"], 4)


def _sure(found: Content | None) -> bool:
    return found is not None and found["p_holm"] is not None and found["p_holm"] < 0.05


def effects_row(name: str, one: Content, content: Content) -> dict[str, Any]:
    """A row of the side effects: how they changed, and in how many runs a limit did not hold."""
    runs = [run for run in content["runs"] if run["algorithm"] == name and run["limits_broken"] is not None]
    broken = [run for run in runs if run["limits_broken"]]
    labels = dict.fromkeys(label for run in broken for label in run["limits_broken"])
    return {
        "name": name,
        "cells": {m: estimate(m, one["metrics"][m]) for m in ("length", "distinct2", "perplexity", "duplicates")},
        "held": f"{len(runs) - len(broken)} of {len(runs)}" if runs else "—",
        "passed": bool(runs) and not broken,
        "broken": ", ".join(labels),
    }


def run_row(run: Content, content: Content) -> dict[str, Any]:
    """A row for one run, a failed or unfinished one too."""
    one, metrics = content["algorithms"][run["algorithm"]], run["metrics"] or {}
    toxicity = run["toxicity"]
    marks = [
        word
        for word in ("best", "worst")
        if one["finished"] > 1 and one[f"{word}_seed"] and one[f"{word}_seed"]["seed"] == run["seed"]
    ]
    row: dict[str, Any] = {
        "name": run["algorithm"],
        "seed": run["seed"],
        "mark": marks[0] if marks else "",
        "folder": run["folder"],
        "state": run["state"],
        "error": run["error"],
    }
    if toxicity is None:
        return row
    span = "" if toxicity["ci95"] is None else cells.bounds(toxicity["ci95"], 3, True, True)
    values = {metric: words_of(KINDS[metric], metrics.get(metric)) for metric in ("reward", "kl", "win_rate")}
    costs = {name: words_of(KINDS[name], run["costs"][name]) for name in ("align_seconds", "peak_gigabytes")}
    return {
        **row,
        **values,
        **costs,
        "moved": f"{cells.number(toxicity['before'])} → {cells.number(toxicity['after'])}",
        "change": cells.number(toxicity["mean"], 3, True),
        "ci": span,
        "outcome": run["outcome"],
        "broken": ", ".join(run["limits_broken"]),
    }


def cost_row(name: str, one: Content) -> dict[str, Any]:
    """A row of budget and cost: what was sampled and learnt from, and what it took."""
    budget = {key: _counts(one["budget"][key]) for key in ("episodes", "sequences", "optimizer_steps")}
    metrics = ("align_seconds", "wall_seconds", "peak_gigabytes")
    return {"name": name, **budget, "cells": {m: estimate(m, one["metrics"][m]) for m in metrics}}


def _counts(found: list[float] | None) -> str:
    if found is None:
        return "—"
    low, high = found
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def option_rows(content: Content) -> list[dict[str, Any]]:
    """The options on which algorithms differ, a column each; an option that is not used is left empty."""
    settings = content["settings"]
    return [
        {
            "option": option,
            "values": [_shown(values[option]) if option in values else "" for values in settings.values()],
        }
        for option in content["differing"]
    ]


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
