from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanward.evaluation import pictures as p
from humanward.evaluation.curves import column, health_curves, training_curves

SVG = "{http://www.w3.org/2000/svg}"


def tags(picture, name, kind=None):
    found = ET.fromstring(str(picture)).iter(SVG + name)
    return [one for one in found if kind is None or kind in one.get("class", "").split()]


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 8, 4, [0, 2, 4, 6, 8]),
        (-0.3, 1.7, 4, [-0.5, 0, 0.5, 1.0, 1.5, 2.0]),
        (5, 5, 5, [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
    ],
)
def test_ticks(low, high, most, expected):
    assert p.ticks(low, high, most) == pytest.approx(expected)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_cover_and_are_few(low, width):
    marks = p.ticks(low, low + width)
    assert marks[0] <= low + 1e-6 * width
    assert marks[-1] >= low + width - 1e-6 * width
    assert 2 <= len(marks) <= 8


def test_tick_words():
    assert p.tick_words(0.5, 0.5) == ".5"
    assert p.tick_words(0.5, 0.5, bounded=False) == "0.5"
    assert p.tick_words(1e-17, 0.2) == "0"
    assert p.tick_words(20_000, 5_000) == "20k"
    assert p.tick_words(0.25, 0.05) == ".25"


def test_running_mean_golden():
    assert p.running_mean(np.array([1.0, 2.0, 6.0, 4.0]), 3).tolist() == [1.0, 3.0, 4.0, 4.0]


def test_line_positions():
    picture = p.line_chart([p.Series("a", [0, 10], [0.0, 4.0])], title="t", x_label="step", limit=(8.0, "budget 8.0"))
    path = tags(picture, "path", "line")[0].get("d")
    # x from 44 to 350; y: 0 at 172, the top tick 8 at 14, so 4 lies half-way at 93
    assert path == "M44.0 172.0L350.0 93.0"
    limit = tags(picture, "line", "limit")[0]
    assert (limit.get("y1"), limit.get("y2")) == ("14.0", "14.0")
    assert "budget 8.0" in picture


def test_values_that_are_not_finite_are_left_out():
    picture = p.line_chart([p.Series("a", [0, 1, 2], [1.0, None, math.nan])], title="t", x_label="step")
    assert "nan" not in picture
    assert p.line_chart([p.Series("a", [0], [None])], title="t", x_label="step") == ""
    assert p.line_chart([], title="t", x_label="step") == ""


def test_long_runs_are_thinned():
    steps = list(range(10_000))
    picture = p.line_chart([p.Series("a", steps, [float(s) for s in steps])], title="t", x_label="step")
    assert len(picture) < 15_000


def test_histogram_counts():
    picture = p.histogram([0.05, 0.05, 0.95, 1.0], [0.05] * 4, title="t", x_label="x")
    titles = [one.text for one in tags(picture, "title")]
    assert titles == [
        "before: 50.0 % of the responses from 0.0 to 0.1",
        "before: 50.0 % of the responses from 0.9 to 1.0",
        "after: 100.0 % of the responses from 0.0 to 0.1",
    ]


def test_scatter_colours():
    picture = p.scatter([0.1, 0.9, 0.5], [0.9, 0.1, 0.52], title="t", moved=0.05)
    assert [one.get("class") for one in tags(picture, "circle")] == ["point worse", "point after", "point same"]


def test_whiskers_without_interval():
    rows = [p.Whisker("a", 0.5, None), p.Whisker("b", 0.7, (0.6, 0.8), "second")]
    picture = p.whiskers(rows, title="t", x_label="x", reference=0.5)
    assert len(tags(picture, "line", "whisker")) == 1
    assert len(tags(picture, "circle")) == 2


def test_words_are_escaped():
    picture = p.whiskers([p.Whisker("<script>", 0.5, None)], title='"><b>', x_label="&")
    ET.fromstring(str(picture))
    assert "<script>" not in picture
    assert "<b>" not in picture


def test_curves_of_what_was_logged():
    metrics = [{"ppo/step": 3, "ppo/sequence_kl": 1.0}, {"reward/loss": 0.5}, {"ppo/step": 5, "ppo/sequence_kl": 2.0}]
    assert column(metrics, "ppo/sequence_kl") == ([3.0, 5.0], [1.0, 2.0])
    assert column(metrics, "reward/loss") == ([0.0], [0.5])
    assert [figure.title for figure in training_curves(metrics, 8.0)] == ["KL to the reference"]
    assert health_curves(metrics) == []
    assert training_curves([], None) == []
