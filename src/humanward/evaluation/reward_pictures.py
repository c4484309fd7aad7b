"""The reliability diagram and the learning curve as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from humanward.evaluation.pictures import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    svg_bottom,
    svg_grid,
    svg_line,
    svg_picture,
    svg_text,
    ticks,
)

Content = Mapping[str, Any]
HEIGHT = 260


def reliability(before: Content, after: Content, *, title: str) -> Markup:
    """Stated probability across, share right up; bars are where 95 % of a calibrated reward's bins lie."""
    shown = [*before["bins"], *after["bins"]]
    low = min(0.5, *(row["right"] for row in shown if row["n"] >= 5 or len(shown) < 3), 0.5)
    marks = ticks(low, 1.0, 5)
    x_scale, y_scale = Scale(0.5, 1, LEFT, WIDTH - RIGHT), Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        *svg_grid(marks, y_scale),
        *svg_bottom([0.5, 0.6, 0.7, 0.8, 0.9, 1], x_scale, "stated probability", HEIGHT),
    ]
    parts.append(
        f'<path class="diagonal" d="M{x_scale(0.5):.1f} {y_scale(0.5):.1f}L{x_scale(1):.1f} {y_scale(1):.1f}"/>'
    )
    for row in after["bins"]:
        x, ends = x_scale(row["confidence"]), [max(marks[0], bound) for bound in row["band"]]
        parts.append(svg_line("calibrated", x, y_scale(ends[0]), x, y_scale(ends[1])))
    largest = max(row["n"] for row in shown)
    for kind, rows in (("second", before["bins"]), ("main", after["bins"])):
        for row in rows:
            radius = 2 + 4 * math.sqrt(row["n"] / largest)
            x, y = x_scale(row["confidence"]), y_scale(max(marks[0], row["right"]))
            words = f"<title>{row['n']} pairs, stated {row['confidence']:.2f}, right {row['right']:.2f}</title>"
            parts.append(f'<circle class="point {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{words}</circle>')
    return svg_picture(parts, title, WIDTH, HEIGHT)


def curve(points: Sequence[Content], reference: float, *, title: str) -> Markup:
    """Accuracy with intervals over the number of pairs, each step to the right twice as many."""
    bounds = [bound for point in points for bound in (point["accuracy"]["ci95"] or (point["accuracy"]["value"],) * 2)]
    marks = ticks(min(*bounds, reference), max(*bounds, reference), 5)
    x = [math.log2(point["pairs"]) for point in points]
    margin = 0.25
    x_scale = Scale(min(x) - margin, max(x) + margin, LEFT, WIDTH - RIGHT)
    y_scale = Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*svg_grid(marks, y_scale), svg_line("axis", x_scale.start, HEIGHT - BOTTOM, x_scale.end, HEIGHT - BOTTOM)]
    parts.append(svg_line("limit", LEFT, y_scale(reference), WIDTH - RIGHT, y_scale(reference)))
    for at, point in zip(x, points, strict=True):
        place, found = x_scale(at), point["accuracy"]
        parts.append(svg_text("tick", place, HEIGHT - BOTTOM + 15, f"{point['pairs']:,}", "middle"))
        if found["ci95"]:
            parts.append(svg_line("whisker", place, y_scale(found["ci95"][0]), place, y_scale(found["ci95"][1])))
        parts.append(f'<circle class="dot main" cx="{place:.1f}" cy="{y_scale(found["value"]):.1f}" r="4.5"/>')
    line = "L".join(f"{x_scale(a):.1f} {y_scale(p['accuracy']['value']):.1f}" for a, p in zip(x, points, strict=True))
    parts.append(f'<path class="line main" d="M{line}"/>')
    parts.append(svg_text("label", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "pairs trained on", "middle"))
    return svg_picture(parts, title, WIDTH, HEIGHT)
