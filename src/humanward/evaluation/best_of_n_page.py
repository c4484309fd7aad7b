"""What the report shows of best-of-n: reward and judged toxicity against KL, their table, toxic favourites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from humanward.evaluation.best_of_n import BestOfN, Frontier, Point, PolicyPoint
from humanward.evaluation.cells import bounds, number, plain
from humanward.evaluation.curves import Figure
from humanward.evaluation.pictures import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    svg_grid,
    svg_line,
    svg_picture,
    svg_text,
    thinned,
    tick_words,
    ticks,
)
from humanward.evaluation.quotes import Quote, cut, quote
from humanward.evaluation.statistics import Difference, Estimate
from humanward.evaluation.toxicity import THRESHOLD
from humanward.evaluation.visible import visible

HEIGHT = 240
NATS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
NARROWEST = 30  # picture units between two ticks
MOST_FAVOURITES = 5

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Favourite:
    """An answer that the reward liked best of all to its prompt and the judge found toxic; ``reward`` as words."""

    prompt_id: str
    prompt: str
    reward: str
    answer: Quote


@dataclass(frozen=True)
class BestOfNShown:
    """The section: the numbers, its two pictures, the table's rows and the favourites that disappoint."""

    summary: BestOfN
    figures: list[Figure]
    rows: list[dict[str, str]]
    favourites: list[Favourite]


@dataclass(frozen=True)
class _Shown:
    """What one picture draws: the frontier's estimates, the policy's, and the column of the training's steps."""

    title: str
    estimates: list[Estimate]
    policy: Estimate | None
    column: str


def best_of_n_shown(
    summary: BestOfN | None, frontier: Frontier | None, metrics: Metrics, algorithm: str
) -> BestOfNShown | None:
    """The section's content; None where no frontier was measured."""
    if summary is None or frontier is None:
        return None
    name = algorithm.upper()
    return BestOfNShown(
        summary, frontier_figures(summary, metrics, name), frontier_rows(summary, name), toxic_favourites(frontier)
    )


def frontier_figures(summary: BestOfN, metrics: Metrics, algorithm: str) -> list[Figure]:
    """Reward and judged toxicity against KL; nothing where no prompt was scored."""
    if not summary.points:
        return []
    policy = summary.policy
    shown = (
        _Shown(
            "Reward against KL",
            [point.reward for point in summary.points],
            None if policy is None else policy.reward,
            "ppo/score_mean",
        ),
        _Shown(
            "Judged toxicity against KL",
            [point.toxicity for point in summary.points],
            None if policy is None else policy.toxicity,
            "ppo/toxicity",
        ),
    )
    unit = "as the reward gives it" if algorithm == "BEST-OF-N" else "before penalties and in the unit of training"
    captions = (
        f"Mean score, {unit}. A point up and to the left is better: more reward for less KL.",
        "Where it falls with the reward, what is optimised is what is judged. Where it rises while the reward still "
        "rises, the reward is being exploited.",
    )
    return [
        Figure(one.title, _picture(summary, one, metrics), words, _key(summary, metrics, algorithm))
        for one, words in zip(shown, captions, strict=True)
    ]


def frontier_rows(summary: BestOfN, algorithm: str) -> list[dict[str, str]]:
    """Rows of the table: one for each n, and the policy's with its differences to the frontier at its KL."""
    rows = [
        _row(f"Best of {point.n}" if point.n > 1 else "One answer", plain(point.kl, 2), "", point)
        for point in summary.points
    ]
    if (policy := summary.policy) is not None:
        kl = bounds(policy.kl.ci95, 2) if policy.kl.ci95 else ""
        rows.append(_row(f"After {algorithm}", plain(policy.kl.value, 2), kl, policy))
    return rows


def _row(label: str, kl: str, kl_ci: str, point: Point | PolicyPoint) -> dict[str, str]:
    row = {"label": label, "kl": kl, "kl_ci": kl_ci}
    for name, words, digits, bounded in (("reward", plain, 2, False), ("toxicity", number, 3, True)):
        estimate: Estimate = getattr(point, name)
        change: Difference | None = getattr(point, f"{name}_difference")
        row[name] = words(estimate.value, digits)
        row[f"{name}_ci"] = bounds(estimate.ci95, digits, bounded=bounded) if estimate.ci95 else ""
        row[f"{name}_change"] = words(change.mean, digits, True) if change else ""
        row[f"{name}_change_ci"] = bounds(change.ci95, digits, True, bounded) if change and change.ci95 else ""
    return row


def toxic_favourites(frontier: Frontier) -> list[Favourite]:
    """The answers with the highest reward of their prompt that the judge finds toxic, the most toxic first."""
    found = []
    for one in frontier.reference:
        rewards = [-math.inf if reward is None else reward for reward in one.reward]
        best = max(range(len(rewards)), key=rewards.__getitem__)
        toxicity = one.toxicity[best]
        if toxicity is not None and toxicity >= THRESHOLD and math.isfinite(rewards[best]):
            shown = Favourite(
                visible(one.prompt_id), cut(one.prompt)[0], plain(rewards[best], 2), quote(one.texts[best], toxicity)
            )
            found.append((-toxicity, one.prompt_id, shown))
    return [shown for _, _, shown in sorted(found, key=lambda item: item[:2])[:MOST_FAVOURITES]]


# --- the picture -----------------------------------------------------------------------------------------------------


def _picture(summary: BestOfN, shown: _Shown, metrics: Metrics) -> Markup:
    """The frontier as a line through its n with a band of 95 % intervals, the training's steps as dots, the policy as a
    dot with its intervals in both directions. Across: KL on a square-root scale, ticks in nats.

    Source of the scale: Gao et al. 2022 (arXiv 2210.10760), who find reward smooth in the square root of KL.
    """
    roots = [math.sqrt(point.kl) for point in summary.points]
    values = [estimate.value for estimate in shown.estimates]
    bounds = [estimate.ci95 or (estimate.value, estimate.value) for estimate in shown.estimates]
    step_x, step_y = _steps(metrics, shown.column)
    across, up = [*roots, *step_x], [*values, *step_y, *(edge for pair in bounds for edge in pair)]
    kl = None if summary.policy is None else summary.policy.kl
    if kl is not None and shown.policy is not None:
        across += [math.sqrt(max(0.0, edge)) for edge in (kl.value, *(kl.ci95 or ()))]
        up += [shown.policy.value, *(shown.policy.ci95 or ())]
    y_ticks = ticks(min(up), max(up), 5)
    x_scale = Scale(0.0, max(across) * 1.02 or 1.0, LEFT + 6, WIDTH - RIGHT)
    y_scale = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*svg_grid(y_ticks, y_scale), *_nats(x_scale)]
    edge = [(x, high) for x, (_, high) in zip(roots, bounds, strict=True)]
    edge += reversed([(x, low) for x, (low, _) in zip(roots, bounds, strict=True)])
    parts.append(f'<path class="band second" d="{_path(edge, x_scale, y_scale)}Z"/>')
    parts += [
        f'<circle class="step" cx="{x_scale(x):.1f}" cy="{y_scale(y):.1f}" r="2.4"/>'
        for x, y in zip(step_x, step_y, strict=True)
    ]
    line = list(zip(roots, values, strict=True))
    parts.append(f'<path class="line second" d="{_path(line, x_scale, y_scale)}"/>')
    for point, (x, y) in zip(summary.points, line, strict=True):
        kind = "before" if point.n == 1 else "second"
        parts.append(f'<circle class="dot {kind}" cx="{x_scale(x):.1f}" cy="{y_scale(y):.1f}" r="3.4"/>')
        if point.n > 1:
            last = point is summary.points[-1]
            at, anchor = (WIDTH - RIGHT, "end") if last and x == max(across) else (x_scale(x), "middle")
            parts.append(svg_text("mark", at, y_scale(y) - 7, f"n = {point.n}", anchor))
    if kl is not None and shown.policy is not None:
        parts += _cross(kl, shown.policy, x_scale, y_scale)
    title = f"{shown.title}: best of n, and training where there was any"
    return svg_picture(parts, title, WIDTH, HEIGHT)


def _cross(kl: Estimate, value: Estimate, x_scale: Scale, y_scale: Scale) -> list[str]:
    x, y = x_scale(math.sqrt(max(0.0, kl.value))), y_scale(value.value)
    parts = []
    if kl.ci95 is not None:
        low, high = (x_scale(math.sqrt(max(0.0, edge))) for edge in kl.ci95)
        parts.append(svg_line("whisker", low, y, high, y))
    if value.ci95 is not None:
        parts.append(svg_line("whisker", x, y_scale(value.ci95[0]), x, y_scale(value.ci95[1])))
    return [*parts, f'<circle class="dot after" cx="{x:.1f}" cy="{y:.1f}" r="5"/>']


def _nats(scale: Scale) -> list[str]:
    """The square-root axis with its ticks in nats, those that have room."""
    floor, shown = HEIGHT - BOTTOM, [0.0]
    for nats in NATS:
        root = math.sqrt(nats)
        if root <= scale.high and scale(root) - scale(math.sqrt(shown[-1])) >= NARROWEST:
            shown.append(nats)
    parts = [svg_line("axis", scale.start, floor, scale.end, floor)]
    parts += [
        svg_text("tick", scale(math.sqrt(nats)), floor + 15, tick_words(nats, nats or 1.0, bounded=False), "middle")
        for nats in shown
    ]
    middle = (scale.start + scale.end) / 2
    return [*parts, svg_text("label", middle, HEIGHT - 6, "KL, nats a sequence (square-root scale)", "middle")]


def _steps(metrics: Metrics, name: str) -> tuple[list[float], list[float]]:
    """(square root of the KL, value) of every step of the training that has both, thinned where there are many."""
    points = [
        (math.sqrt(max(0.0, row["ppo/sequence_kl"])), row[name])
        for row in metrics
        if _finite(row.get("ppo/sequence_kl")) and _finite(row.get(name))
    ]
    x, y = thinned(np.array([p[0] for p in points], dtype=float), np.array([p[1] for p in points], dtype=float))
    return x.tolist(), y.tolist()


def _key(summary: BestOfN, metrics: Metrics, algorithm: str) -> tuple[tuple[str, str], ...]:
    keys = [("before", "one answer of the reference"), ("second", "best of n, 95 % band")]
    if _steps(metrics, "ppo/score_mean")[0]:
        keys.append(("faint", f"{algorithm}, each step on its own training prompts"))
    if summary.policy is not None:
        keys.append(("after", f"after {algorithm}, on the same prompts as best of n"))
    return tuple(keys)


def _path(points: Sequence[tuple[float, float]], x_scale: Scale, y_scale: Scale) -> str:
    return "M" + "L".join(f"{x_scale(x):.1f} {y_scale(y):.1f}" for x, y in points)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
