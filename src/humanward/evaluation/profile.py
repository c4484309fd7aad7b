"""The report's part on where a step's time and memory went, from profile.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from humanward.evaluation.numerals import percent, plain
from humanward.evaluation.pictures import (
    BOTTOM,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    svg_bottom,
    svg_line,
    svg_picture,
    svg_text,
    ticks,
)

ROW, LABELS = 26, 92


def profile_shown(profile: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page shows of a profile: rows of phases and operators, the rates in words, the picture; None of none."""
    if not profile or not profile["phases"]:
        return None
    return {
        "phases": [
            {
                "name": _name(one["name"]),
                "inner": ": " in one["name"],
                "seconds": plain(one["seconds"], 3),
                "share": percent(one["share"]),
                "cpu_seconds": plain(one["cpu_seconds"], 3),
                "peak": f"{one['peak_memory'] / 2**20:,.0f}" if one["peak_memory"] else "not known",
            }
            for one in profile["phases"]
        ],
        "operators": [
            {
                "name": one["name"],
                "seconds": plain(one["seconds"], 3),
                "share": percent(one["share"]),
                "calls": f"{one['calls']:,}",
            }
            for one in profile["operators"]
        ],
        "sampled": _rate(profile["sampled_tokens_per_second"]),
        "learnt": _rate(profile["learnt_tokens_per_second"]),
        "step": plain(profile["seconds_per_step"], 2),
        "steps": profile["steps"],
        "picture": phase_picture(profile),
    }


def phase_picture(profile: Mapping[str, Any]) -> Markup:
    """A bar for each phase's seconds of a step; what lies inside a phase is lighter and below it."""
    phases = profile["phases"]
    marks = ticks(0, max(one["seconds"] for one in phases), 5)
    height = TOP + ROW * len(phases) + BOTTOM
    scale = Scale(0, marks[-1], LABELS, WIDTH - RIGHT - 34)
    parts = [svg_line("grid", scale(mark), TOP, scale(mark), height - BOTTOM) for mark in marks]
    parts += svg_bottom(marks, scale, "seconds a step", height)
    for index, one in enumerate(phases):
        inner = ": " in one["name"]
        top = TOP + ROW * index + 4
        width = scale(one["seconds"]) - scale(0)
        parts.append(svg_text("label", LABELS - 8, top + 13, _name(one["name"]), "end"))
        parts.append(
            f'<rect class="bar {"before" if inner else "after"}" x="{scale(0):.1f}" y="{top}" '
            f'width="{max(width, 0.5):.1f}" height="{ROW - 8}"/>'
        )
        parts.append(svg_text("tick", scale(one["seconds"]) + 5, top + 13, percent(one["share"], 0)))
    return svg_picture(parts, "Seconds of a step by phase", WIDTH, height)


def _name(phase: str) -> str:
    return phase.rpartition(": ")[2]


def _rate(tokens: float | None) -> str | None:
    return None if tokens is None else f"{tokens:,.0f}"
