"""Numbers as people read them: no false precision, no leading zero on what cannot exceed 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from humanward.evaluation.statistics import Difference


def decimal(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """``.21``, ``-.13``, ``1.50``; ``sign`` writes the plus of a change; None is ``not measured``."""
    if value is None:
        return "not measured"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def plain(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """``0.21``, ``-1.50``: like ``decimal`` but with the leading zero, for quantities that can exceed 1."""
    text = decimal(value, digits, sign=sign)
    return text.replace(".", "0.", 1) if text.lstrip("+-").startswith(".") else text


def percent(share: float | None, digits: int | None = None, *, sign: bool = False) -> str:
    """``12 %``, ``0.4 %``; one digit below 10 % unless ``digits`` says otherwise."""
    if share is None:
        return "not measured"
    value = 100 * share
    if digits is None:
        digits = 1 if 0 < abs(value) < 9.95 else 0
    text = f"{value:+.{digits}f} %" if sign else f"{value:.{digits}f} %"
    return text.lstrip("+-") if float(text[:-2]) == 0 else text


def p_words(p_value: float) -> str:
    """``p = .31``, ``p = .0012``."""
    return f"p = {decimal(p_value, 2 if p_value >= 0.0995 else 3 if p_value >= 0.00995 else 4)}"


def digits_for(*values: float | None) -> int:
    """Decimals (2 to 4) that leave the smallest size among the non-zero values at least 2 in its last place."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    return next((digits for digits in (2, 3) if smallest >= 2 * 10.0**-digits), 4)


def interval(
    bounds: Sequence[float] | None, digits: int = 2, *, sign: bool = False, words: Callable[..., str] = decimal
) -> str:
    """``-.15 to -.11``; ``none`` where no interval exists; ``words`` is ``decimal`` or ``plain``."""
    if bounds is None:
        return "none"
    return f"{words(bounds[0], digits, sign=sign)} to {words(bounds[1], digits, sign=sign)}"


def difference_words(difference: Difference, digits: int = 2) -> str:
    """``-.13, 95 % interval -.15 to -.11``."""
    bounds = f"95 % interval {interval(difference.ci95, digits, sign=True)}" if difference.ci95 else "no interval"
    return f"{decimal(difference.mean, digits, sign=True)}, {bounds}"


def plural(count: int, noun: str) -> str:
    """``1 prompt``, ``1,250 prompts``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def sentence_case(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]
