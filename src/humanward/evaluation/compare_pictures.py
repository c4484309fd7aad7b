"""The pictures of a comparison: what each algorithm bought with KL, and toxicity with intervals, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from humanward.evaluation.pictures import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    Whisker,
    svg_bottom,
    svg_grid,
    svg_line,
    svg_picture,
    svg_text,
    ticks,
    whiskers,
)

HEIGHT = 270
LINE = 11.0  # height of a line of text
LETTER = 5.6  # about the width of one


@dataclass(frozen=True)
class Cloud:
    """One algorithm: a dot a run (KL in nats, value), and the mean. ``style`` is its colour's class, ``shape`` circle,
    square or triangle."""

    name: str
    style: str
    shape: str
    runs: Sequence[tuple[float, float]]
    mean: tuple[float, float] | None


def frontier_picture(
    clouds: Sequence[Cloud],
    curve: Sequence[tuple[float, float, str]],
    *,
    title: str,
    start: float | None,
    include_zero: bool,
) -> Markup:
    """Values over the square root of sequence KL; ``curve`` is best-of-n as (KL, value, words), a dashed line;
    ``start`` is the reference's value, at KL 0. Empty markup without a run.

    Source of the axis: Gao et al. 2022, arXiv 2210.10760, who find reward smooth in the square root of KL.
    """
    points = [point for cloud in clouds for point in cloud.runs]
    if not points:
        return Markup("")
    xs = [_root(kl) for kl, _ in points] + [_root(kl) for kl, _, _ in curve]
    ys = [value for _, value in points] + [value for _, value, _ in curve]
    ys += [] if start is None else [start]
    ys += [0.0] if include_zero else []
    y_ticks = ticks(min(ys), max(ys), 5)
    x_ticks = ticks(0.0, max([*xs, 0.1]), 5)
    x_scale = Scale(0.0, x_ticks[-1], LEFT, WIDTH - RIGHT)
    y_scale = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*svg_grid(y_ticks, y_scale), *svg_bottom(x_ticks, x_scale, "square root of sequence KL, nats", HEIGHT)]
    marks: list[tuple[float, float, float]] = []
    names: list[tuple[str, str, float, float]] = []
    for cloud in clouds:
        for kl, value in cloud.runs:
            marks.append((x_scale(_root(kl)), y_scale(value), 3.0))
            parts.append(_mark(f"run {cloud.style}", cloud.shape, *marks[-1][:2], 2.6))
    path = [(x_scale(_root(kl)), y_scale(value)) for kl, value, _ in curve]
    if path:
        parts.append(f'<path class="frontier" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in path)}"/>')
    elif start is not None:
        path, curve = [(x_scale(0), y_scale(start))], [(0.0, start, "reference")]
    for (x, y), (_, _, words) in zip(path, curve, strict=True):
        marks.append((x, y, 4.0))
        parts.append(f'<circle class="frontier-dot" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>')
        names += [(words, "note", x, y)] if words else []
    for cloud in clouds:
        if cloud.mean is not None:
            x, y = x_scale(_root(cloud.mean[0])), y_scale(cloud.mean[1])
            marks.append((x, y, 6.0))
            names.append((cloud.name, f"name {cloud.style}", x, y))
            parts.append(_mark(f"mean {cloud.style}", cloud.shape, x, y, 5.0))
    labels = _Labels(marks)
    parts += [labels.place(*name) for name in sorted(names, key=lambda name: -name[3])]
    return svg_picture(parts, title, WIDTH, HEIGHT)


def toxicity_picture(rows: Sequence[tuple[str, str, float, tuple[float, float] | None]], reference: float) -> Markup:
    """Judged toxicity of each algorithm (name, style, mean, interval), the reference as a dashed line."""
    clipped = [(n, s, v, None if ci is None else (max(0.0, ci[0]), min(1.0, ci[1]))) for n, s, v, ci in rows]
    return whiskers(
        [Whisker(name, value, ci95, style) for name, style, value, ci95 in clipped],
        title="Mean judged toxicity of each algorithm with 95 % intervals; the dashed line is the reference",
        x_label="mean judged toxicity, 95 % interval; dashed: before",
        low=0.0,
        reference=reference,
        label_width=86,
        row_height=30,
        digits=3,
    )


class _Labels:
    """Names beside their marks, none on another or on a mark."""

    def __init__(self, marks: Sequence[tuple[float, float, float]]) -> None:
        """``marks`` are (x, y, reach) that no name may cover."""
        self._taken = [(x - reach, y - reach, x + reach, y + reach) for x, y, reach in marks]

    def place(self, name: str, kind: str, x: float, y: float) -> str:
        """The name where it is free, nearest to its mark; a thin line leads to it when it is far."""
        width = LETTER * len(name)
        for distance in range(0, 120, 4):
            for shift in (distance, -distance):
                for anchor, left in (("start", x + 9), ("end", x - 9 - width)):
                    middle = y + shift
                    box = (left, middle - LINE / 2, left + width, middle + LINE / 2)
                    if self._free(box):
                        self._taken.append(box)
                        at = left if anchor == "start" else left + width
                        words = svg_text(kind, at, middle + 3.8, name, anchor)
                        return words if distance < 12 else svg_line("leader", x, y, at, middle) + words
        return svg_text(kind, x, y - 8, name, "middle")

    def _free(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = box
        if left < LEFT or right > WIDTH or top < 0 or bottom > HEIGHT - BOTTOM + 4:
            return False
        return all(right < a or left > c or bottom < b or top > d for a, b, c, d in self._taken)


def _mark(kind: str, shape: str, x: float, y: float, size: float) -> str:
    if shape == "square":
        side = 1.8 * size
        return (
            f'<rect class="{kind}" x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side:.1f}" '
            f'height="{side:.1f}"/>'
        )
    if shape == "triangle":
        corners = (x, y - 1.2 * size), (x + 1.15 * size, y + 0.9 * size), (x - 1.15 * size, y + 0.9 * size)
        return f'<path class="{kind}" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in corners)}Z"/>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'


def _root(kl: float) -> float:
    return math.sqrt(max(0.0, kl))
