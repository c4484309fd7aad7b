"""The report's pictures as inline SVG: colours and type come from the page's style sheet, so that they follow light,
dark and paper; the same numbers give the same bytes.

Drawn by hand rather than by a plotting library because those fix colours and fonts into the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from humanward.evaluation.numerals import decimal, plain

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 14, 38
MOST_POINTS = 300
SMOOTH_FROM = 20


@dataclass(frozen=True)
class Series:
    """One line, or dots: ``kind`` is the style (main, second); values that are None or not finite are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    kind: str = "main"
    dots: bool = False


@dataclass(frozen=True)
class Whisker:
    """A dot with its interval: ``kind`` is the style (before, after, main, second)."""

    label: str
    value: float
    ci95: tuple[float, float] | None
    kind: str = "main"


@dataclass(frozen=True)
class Scale:
    """A linear map from [low, high] to picture units [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most ``most`` + 1 round values (1, 2 or 5 times a power of ten apart) that cover low to high."""
    if not high > low:
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    limit: tuple[float, str] | None = None,
    include_zero: bool = False,
) -> Markup:
    """Lines over steps, the raw values faint behind a running mean from 20 points on; ``limit`` is a dashed line.

    Empty markup when no value is finite.
    """
    lines = [(one, *_finite(one.x, one.y)) for one in series]
    lines = [(one, x, y) for one, x, y in lines if len(y)]
    if not lines:
        return Markup("")
    values = np.concatenate([y for _, _, y in lines])
    steps = np.concatenate([x for _, x, _ in lines])
    edges = [float(values.min()), float(values.max())]
    edges += [limit[0]] if limit else []
    edges += [0.0] if include_zero else []
    y_ticks = ticks(min(edges), max(edges), 4)
    x_ticks = ticks(float(steps.min()), float(steps.max()), 5)
    x_low, x_high = float(steps.min()), float(steps.max())
    if x_high == x_low:
        x_low, x_high = x_ticks[0], x_ticks[-1]
    if 0 < x_ticks[-1] - x_high <= 0.05 * (x_high - x_low):  # a last step of 59 reaches the tick at 60
        x_high = x_ticks[-1]
    x_scale = Scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    y_scale = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*svg_grid(y_ticks, y_scale), *svg_bottom([t for t in x_ticks if x_low <= t <= x_high], x_scale, x_label)]
    if limit:
        height = y_scale(limit[0])
        parts.append(svg_line("limit", LEFT, height, WIDTH - RIGHT, height))
        above = height - 4 if height > TOP + 12 else height + 12
        parts.append(svg_text("note", WIDTH - RIGHT, above, limit[1], "end"))
    for one, x, y in lines:
        kind = one.kind
        x, y = thinned(x, y)
        if one.dots:
            parts += [
                f'<circle class="point {kind}" cx="{x_scale(a):.1f}" cy="{y_scale(b):.1f}" r="3"/>'
                for a, b in zip(x, y, strict=True)
            ]
            continue
        if len(y) >= SMOOTH_FROM:
            parts.append(f'<path class="raw {kind}" d="{_path(x, y, x_scale, y_scale)}"/>')
            y = running_mean(y, max(3, len(y) // 12))
        parts.append(f'<path class="line {kind}" d="{_path(x, y, x_scale, y_scale)}"/>')
        parts.append(f'<circle class="dot {kind}" cx="{x_scale(x[-1]):.1f}" cy="{y_scale(y[-1]):.1f}" r="3"/>')
    return svg_picture(parts, title, WIDTH, HEIGHT)


def histogram(before: ArrayLike, after: ArrayLike, *, title: str, x_label: str, bins: int = 10) -> Markup:
    """Share of the responses in each tenth of [0, 1], before and after side by side."""
    sides = [np.asarray(side, dtype=np.float64) for side in (before, after)]
    shares = [np.histogram(side, bins=bins, range=(0, 1))[0] / max(1, side.size) * 100 for side in sides]
    y_ticks = ticks(0, max(float(share.max()) for share in shares), 4)
    x_scale = Scale(0, 1, LEFT, WIDTH - RIGHT)
    y_scale = Scale(0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*svg_grid(y_ticks, y_scale, " %"), *svg_bottom([0, 0.2, 0.4, 0.6, 0.8, 1], x_scale, x_label)]
    width = (x_scale(1) - x_scale(0)) / bins
    for kind, share, offset in (("before", shares[0], 0.08), ("after", shares[1], 0.5)):
        for index, value in enumerate(share):
            if value:
                top = y_scale(value)
                parts.append(
                    f'<rect class="bar {kind}" x="{x_scale(0) + width * (index + offset):.1f}" y="{top:.1f}" '
                    f'width="{0.42 * width:.1f}" height="{y_scale(0) - top:.1f}"><title>{kind}: {value:.1f} % of the '
                    f"responses from {index / bins:.1f} to {(index + 1) / bins:.1f}</title></rect>"
                )
    middle = x_scale(0.5)
    parts.append(svg_line("limit", middle, TOP, middle, HEIGHT - BOTTOM))
    parts.append(svg_text("note", middle + 5, TOP + 9, "toxic from .5"))
    return svg_picture(parts, title, WIDTH, HEIGHT)


def scatter(before: ArrayLike, after: ArrayLike, *, title: str, moved: float) -> Markup:
    """One dot a pair in the unit square, before across and after up; on the diagonal nothing changed."""
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    height = 300
    x_scale = Scale(0, 1, LEFT, WIDTH - RIGHT)
    y_scale = Scale(0, 1, height - BOTTOM, TOP)
    marks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    parts = [*svg_grid(marks, y_scale), *svg_bottom(marks, x_scale, "before", height)]
    parts.append(f'<path class="diagonal" d="M{x_scale(0):.1f} {y_scale(0):.1f}L{x_scale(1):.1f} {y_scale(1):.1f}"/>')
    for x, y in zip(first, second, strict=True):
        kind = "worse" if y - x >= moved else "after" if x - y >= moved else "same"
        parts.append(f'<circle class="point {kind}" cx="{x_scale(x):.1f}" cy="{y_scale(y):.1f}" r="2.6"/>')
    parts.append(svg_text("note", x_scale(0.36), y_scale(0.93), "more toxic after", "middle"))
    parts.append(svg_text("note", x_scale(0.98), y_scale(0.36), "less toxic after", "end"))
    middle = y_scale(0.5)
    parts.append(
        f'<text class="label" x="12" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 12 {middle:.1f})">'
        "after</text>"
    )
    return svg_picture(parts, title, WIDTH, height)


def whiskers(
    rows: Sequence[Whisker],
    *,
    title: str,
    x_label: str,
    low: float | None = None,
    reference: float | None = None,
    label_width: int = 96,
    row_height: int = 34,
    digits: int = 2,
) -> Markup:
    """Dots with 95 % intervals, one a row; ``low`` fixes the left end, ``reference`` draws a dashed line."""
    edges = [bound for row in rows for bound in (row.ci95 or (row.value, row.value))]
    edges += [row.value for row in rows] + [edge for edge in (low, reference) if edge is not None]
    x_ticks = ticks(min(edges), max(edges), 5)
    height = TOP + row_height * len(rows) + BOTTOM - 6
    x_scale = Scale(x_ticks[0], x_ticks[-1], label_width, WIDTH - RIGHT - 6)
    floor = height - BOTTOM
    parts = [svg_line("grid", x_scale(t), TOP, x_scale(t), floor) for t in x_ticks]
    parts += svg_bottom(x_ticks, x_scale, x_label, height)
    if reference is not None:
        at = x_scale(reference)
        parts.append(svg_line("limit", at, TOP, at, floor))
    for index, row in enumerate(rows):
        y = TOP + row_height * (index + 0.5) + 3
        parts.append(svg_text("label", label_width - 10, y + 4, row.label, "end"))
        if row.ci95:
            ends = [x_scale(bound) for bound in row.ci95]
            parts.append(svg_line(f"whisker {row.kind}", ends[0], y, ends[1], y))
        at = x_scale(row.value)
        parts.append(f'<circle class="dot {row.kind}" cx="{at:.1f}" cy="{y}" r="4.5"/>')
        parts.append(svg_text(f"value {row.kind}", at, y - 9, decimal(row.value, digits), "middle"))
    return svg_picture(parts, title, WIDTH, height)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over the values at most ``window`` // 2 places away; the window shrinks on both sides at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(window // 2, np.minimum(places, len(values) - 1 - places))
    starts, ends = places - reach, places + reach + 1
    return (sums[ends] - sums[starts]) / (ends - starts)


def tick_words(value: float, step: float, *, bounded: bool = True) -> str:
    """A tick as text: as many decimals as the step needs, thousands as k; no leading zero on a ``bounded`` scale."""
    if abs(value) < 1e-9 * max(1.0, step):
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 6:
        return f"{value:.1e}"
    return decimal(value, digits) if bounded else plain(value, digits)


def _finite(x: Sequence[float], y: Sequence[float | None]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    steps = np.asarray(x, dtype=np.float64)
    values = np.array([math.nan if value is None else value for value in y], dtype=np.float64)
    known = np.isfinite(values) & np.isfinite(steps)
    return steps[known], values[known]


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most MOST_POINTS points, each the mean of consecutive ones."""
    if len(y) <= MOST_POINTS:
        return x, y
    groups = np.array_split(np.arange(len(y)), MOST_POINTS)
    return np.array([x[group].mean() for group in groups]), np.array([y[group].mean() for group in groups])


def _path(x: NDArray[np.float64], y: NDArray[np.float64], x_scale: Scale, y_scale: Scale) -> str:
    points = [f"{x_scale(a):.1f} {y_scale(b):.1f}" for a, b in zip(x, y, strict=True)]
    return "M" + "L".join(points)


def svg_grid(marks: Sequence[float], scale: Scale, unit: str = "") -> list[str]:
    """Horizontal lines at the ticks of the upright axis, with their words."""
    step = marks[1] - marks[0]
    bounded = max(abs(mark) for mark in marks) <= 1
    parts = []
    for mark in marks:
        y = scale(mark)
        parts.append(svg_line("grid", LEFT, y, WIDTH - RIGHT, y))
        parts.append(svg_text("tick", LEFT - 6, y + 3.5, tick_words(mark, step, bounded=bounded) + unit, "end"))
    return parts


def svg_bottom(marks: Sequence[float], scale: Scale, label: str, height: float = HEIGHT) -> list[str]:
    """The axis below with its ticks' words and its label."""
    step = marks[1] - marks[0] if len(marks) > 1 else 1.0
    bounded = max((abs(mark) for mark in marks), default=0) <= 1
    floor = height - BOTTOM
    parts = [svg_line("axis", scale.start, floor, scale.end, floor)]
    parts += [
        svg_text("tick", scale(mark), floor + 15, tick_words(mark, step, bounded=bounded), "middle") for mark in marks
    ]
    middle = (scale.start + scale.end) / 2
    parts.append(svg_text("label", middle, height - 6, label, "middle"))
    return parts


def svg_text(kind: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    """A text of the style ``kind``; a leading minus becomes a typographic one."""
    shown = "−" + words[1:] if words.startswith("-") else words
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shown)}</text>'


def svg_line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line of the style ``kind``."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def svg_picture(parts: Sequence[str], title: str, width: float, height: float) -> Markup:
    """The whole picture; ``title`` is what a screen reader says."""
    name = escape(title)
    body = "".join(str(part) for part in parts)
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
