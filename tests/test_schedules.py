"""The learning-rate schedules, against numbers worked by hand."""

from __future__ import annotations

import pytest

from humanward.schedules import Schedule, factor


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        # Without warm-up, u = step / 4.
        ("linear", 0, [1, 3 / 4, 1 / 2, 1 / 4, 0]),
        # cos(pi/4) = .7071067811865476: (1 + .7071..) / 2 and (1 - .7071..) / 2.
        ("cosine", 0, [1, 0.8535533905932737, 1 / 2, 0.14644660940672627, 0]),
        ("constant", 0, [1, 1, 1, 1, 1]),
        # Two steps of warm-up give 1/3 and 2/3; then u = 0, 1/2, 1.
        ("linear", 2, [1 / 3, 2 / 3, 1, 1 / 2, 0]),
        ("cosine", 2, [1 / 3, 2 / 3, 1, 1 / 2, 0]),
        ("constant", 2, [1 / 3, 2 / 3, 1, 1, 1]),
        # Three of four: the last step alone has the full rate.
        ("linear", 3, [1 / 4, 1 / 2, 3 / 4, 1, 0]),
    ],
)
def test_four_steps(name: Schedule, warmup: int, expected: list[float]) -> None:
    assert [factor(name, step, 4, warmup) for step in range(5)] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps=4 is not in 0 to steps=4"):
        factor("linear", 0, 4, 4)
    with pytest.raises(ValueError, match="step=5 is outside"):
        factor("linear", 5, 4)
    with pytest.raises(ValueError, match="step=-1"):
        factor("cosine", -1, 4)
    with pytest.raises(ValueError, match="'step': unknown"):
        factor("step", 0, 4)  # type: ignore[arg-type]
