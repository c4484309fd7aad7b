"""report.html: what the template shows, in the order and words that it shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from humanward.algorithm_config import OFF_POLICY
from humanward.evaluation import numerals
from humanward.evaluation.best_of_n import BestOfN, Frontier
from humanward.evaluation.best_of_n_page import best_of_n_shown
from humanward.evaluation.cells import bounds, number, percent, plain, typeset
from humanward.evaluation.curves import Figure, health_curves, reward_curves, training_curves
from humanward.evaluation.pictures import Whisker, histogram, scatter, whiskers
from humanward.evaluation.profile import profile_shown
from humanward.evaluation.quotes import both_ends, pairs
from humanward.evaluation.rendering import render
from humanward.evaluation.rows import EvaluationRow
from humanward.evaluation.summary import MOVED, Measure, Summary, change_of
from humanward.evaluation.visible import visible

WORST, BEST, ALL = 8, 5, 400


def render_page(
    report: Mapping[str, Any],
    summary: Summary,
    rows: Sequence[EvaluationRow],
    metrics: Sequence[Mapping[str, Any]],
    config_toml: str,
    *,
    best_of_n: BestOfN | None = None,
    frontier: Frontier | None = None,
    alarms: Sequence[Mapping[str, Any]] = (),
    profile: Mapping[str, Any] | None = None,
) -> str:
    """The whole page as one string without any reference to a network or another file.

    ``best_of_n`` sums up ``frontier``; ``alarms`` are shown as a table instead of among the warnings;
    ``profile`` is what profile.json holds.
    """
    scored, unscored = pairs(rows)
    context = {
        "report": report,
        "off_policy": report["algorithm"] in OFF_POLICY,
        "rewarded": report["reward_model"] is not None or report["algorithm"] not in OFF_POLICY,
        "summary": summary,
        "moved": MOVED,
        "headline_words": headline(report["verdict"]),
        "headline_picture": headline_picture(summary),
        "measures": measure_rows(summary),
        "checks": check_rows_shown(summary),
        "extras": extra_rows(summary),
        "best_of_n": best_of_n_shown(best_of_n, frontier, metrics, report["algorithm"]),
        "alarms": alarm_rows(alarms, metrics),
        "warnings": other_warnings(report, alarms),
        "curves": training_curves(metrics, summary.kl_budget, bought=best_of_n is None),
        "health": health_curves(metrics),
        "profile": profile_shown(profile),
        "reward_curves": reward_curves(metrics),
        "distributions": distributions(rows, summary),
        "accuracy": accuracy_picture(report["reward_model"]),
        "reward_parts": reward_part_rows(report["reward"]["sources"], summary),
        "worst": [pair for pair in scored if pair.direction == "worse"][:WORST],
        "best": [pair for pair in reversed(scored) if pair.direction == "better"][:BEST],
        "largest_rise": scored[0].change if scored and scored[0].order > 0 else None,
        "listed": both_ends(scored, ALL - len(unscored[:ALL])) + unscored[:ALL],
        "config_toml": visible(config_toml),
    }
    return render("report.html.j2", ("report.css",), context, script="report.js")


def headline(verdict: str) -> Markup:
    """The verdict with its evidence, the first parenthesis, set apart."""
    return Markup(re.sub(r"\((.*?)\)", r'<span class="evidence">(\1)</span>', str(escape(typeset(verdict))), count=1))


def measure_rows(summary: Summary) -> list[dict[str, str]]:
    """Rows of the table of results: label, both sides, difference, interval, p, and whether lower is better."""
    extremes = summary.extremes if summary.samples[1] > 1 else ()  # with one sample they repeat the rows above
    shown = [summary.toxicity, summary.above_half, *extremes, summary.reward, summary.gold]
    shares = ("above_half", "toxicity_probability")
    rows = [_measure_row(one, percentages=one.name in shares) for one in shown if one is not None]
    if summary.toxicity is not None:
        rows.insert(
            1,
            {
                "name": "std",
                "label": "Toxicity, standard deviation",
                "before": number(summary.scores_before.std),
                "after": number(summary.scores_after.std),
                "difference": "",
                "ci95": "",
                "p": "",
                "before_ci": "",
                "after_ci": "",
            },
        )
    return rows


def reward_part_rows(sources: Sequence[Mapping[str, Any]], summary: Summary) -> list[dict[str, str]]:
    """Rows of the table of what the reward was made of: kind, weight and anchor where it is a sum, and both sides."""
    facts = {source["name"]: source for source in sources}
    rows = []
    for part in summary.reward_parts:
        row, source = _measure_row(part, percentages=False), facts.get(part.name)
        row |= {"kind": "", "weight": "", "anchor": ""}
        if source is not None:
            row |= {"kind": source["kind"], "weight": typeset(f"{source['weight']:g}")}
            anchored = (source["shift"], source["scale"]) != (0.0, 1.0)
            row["anchor"] = f"{plain(source['shift'])}; {plain(source['scale'])}" if anchored else "none"
        rows.append(row)
    return rows


def _measure_row(measure: Measure, *, percentages: bool) -> dict[str, str]:
    scale = 100 if percentages else 1
    bounded = measure.name in ("toxicity", "expected_maximum")
    words = number if bounded else plain
    digits = 1 if percentages else 3

    def unit(sign: bool) -> str:
        return "" if not percentages else "\u202fpts" if sign else "\u202f%"

    def value(x: float, sign: bool = False) -> str:
        return words(x * scale, digits, sign) + unit(sign)

    def span(ci95: tuple[float, float] | None, sign: bool = False) -> str:
        if ci95 is None:
            return bounds(None)
        return bounds([x * scale for x in ci95], digits, sign, bounded) + unit(sign)

    return {
        "name": measure.name,
        "label": measure.label,
        "before": value(measure.before.value),
        "after": value(measure.after.value),
        "before_ci": span(measure.before.ci95),
        "after_ci": span(measure.after.ci95),
        "difference": value(measure.difference.mean, True),
        "ci95": span(measure.difference.ci95, True),
        "p": number(measure.difference.p_value, 4),
    }


def check_rows_shown(summary: Summary) -> list[dict[str, Any]]:
    """Rows of the table of side effects: both sides, change, limit, and the outcome as a mark and a word."""
    intervals = _check_intervals(summary)
    rows = []
    for check in summary.checks:
        words = percent if check.name in ("empty", "duplicates") else number if check.name == "distinct2" else plain
        digits = {"distinct2": 3, "perplexity": 1, "length": 1, "kl": 2}.get(check.name)
        rows.append(
            {
                "name": check.name,
                "label": numerals.sentence_case(check.label),
                "before": words(check.before, digits),  # type: ignore[arg-type]
                "after": words(check.after, digits),  # type: ignore[arg-type]
                "change": percent(check.change, 1, True) if check.name not in ("empty", "duplicates", "kl") else "",
                "ci95": intervals.get(check.name, ""),
                "limit": typeset(check.limit),
                "passed": check.passed,
            }
        )
    return rows


def _check_intervals(summary: Summary) -> dict[str, str]:
    """95 % intervals in the unit of the column: relative change, or nats for KL."""
    found = {}
    if summary.perplexity_change is not None:
        found["perplexity"] = bounds([100 * x for x in summary.perplexity_change], 1, True) + "\u202f%"
    change = summary.length.difference.ci95
    if change is not None:
        found["length"] = bounds(change, 1, True) + " tokens"
    if summary.kl is not None and summary.kl.ci95 is not None:
        found["kl"] = bounds(summary.kl.ci95, 2) + " nats"
    return found


def extra_rows(summary: Summary) -> list[dict[str, str]]:
    """Fluency numbers without a limit."""
    before, after = summary.fluency_before, summary.fluency_after
    return [
        *(
            {"label": f"Distinct-{order}", "before": number(sides[0]), "after": number(sides[1])}
            for order, sides in summary.distinct.items()
            if order != 2
        ),
        {
            "label": "Repetition within a response",
            "before": percent(before.repetition),
            "after": percent(after.repetition),
        },
        {"label": "Ended by the model itself", "before": percent(before.ended), "after": percent(after.ended)},
    ]


def headline_picture(summary: Summary) -> Markup:
    """Before and after with their intervals on one scale that starts at 0."""
    measure = summary.toxicity
    if measure is None:
        return Markup("")
    return whiskers(
        [
            Whisker("before", measure.before.value, measure.before.ci95, "before"),
            Whisker("after", measure.after.value, measure.after.ci95, "after"),
        ],
        title="Mean judged toxicity before and after, with 95 % intervals",
        x_label="mean judged toxicity, 95 % interval",
        low=0.0,
        label_width=58,
        row_height=48,
        digits=numerals.digits_for(measure.before.value, measure.after.value),
    )


def distributions(rows: Sequence[EvaluationRow], summary: Summary) -> list[Figure]:
    """Histogram and scatter of the pairs scored on both sides; nothing when there are none."""
    both = [row for row in rows if change_of(row) is not None]
    if not both:
        return []
    before = [row.before.toxicity or 0.0 for row in both]
    after = [row.after.toxicity or 0.0 for row in both]
    movement = summary.movement
    return [
        Figure(
            "How toxic the responses were judged",
            histogram(before, after, title="Distribution of judged toxicity", x_label="judged toxicity"),
            "Share of the responses in each tenth of the scale.",
            (("before", "before"), ("after", "after")),
        ),
        Figure(
            "Every response, before and after",
            scatter(before, after, title="Judged toxicity of each response before and after", moved=MOVED),
            f"One dot a response: {movement.better} less toxic, {movement.worse} more toxic, {movement.unchanged} "
            f"moved by less than {numerals.decimal(MOVED)}.",
            (("after", "less toxic"), ("worse", "more toxic"), ("same", "unchanged")),
        ),
    ]


def accuracy_picture(reward_model: Mapping[str, Any] | None) -> Markup:
    """Held-out accuracy of the reward model beside its baselines."""
    if reward_model is None:
        return Markup("")

    def row(label: str, value: Mapping[str, Any], kind: str) -> Whisker:
        ci95 = value.get("ci95")
        return Whisker(label, value["value"], None if ci95 is None else (ci95[0], ci95[1]), kind)

    baselines = reward_model["baselines"]
    return whiskers(
        [
            row("reward model", reward_model["accuracy"], "after"),
            row("length alone", baselines["length"], "second"),
            row("constant", baselines["constant"], "second"),
        ],
        title="Held-out accuracy of the reward model and its baselines, with 95 % intervals",
        x_label="held-out accuracy, 95 % interval",
        low=0.4,
        reference=0.5,
    )


def alarm_rows(alarms: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of alarms: what each says, the first step that sounded it and how many did."""
    sounded = [name for row in metrics for key in row if key.endswith("/alarms") for name in row[key] or ()]
    return [{**alarm, "steps": sounded.count(alarm["name"])} for alarm in alarms]


def other_warnings(report: Mapping[str, Any], alarms: Sequence[Mapping[str, Any]]) -> list[str]:
    """The warnings without those that the table of alarms shows."""
    lines = {alarm["line"] for alarm in alarms}
    return [warning for warning in report["warnings"] if warning not in lines]
