"""Numbers as cells of the report's tables: typographic signs, an em dash where there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence

from humanward.evaluation import numerals


def typeset(text: str) -> str:
    """Typographic minus signs, and no line break inside ``95 %``, ``p = .03`` or ``250 prompts``."""
    text = re.sub(r"(?<![\w.])-(?=[.\d])", "−", text)
    text = re.sub(r"(?<=\d) (?=%)", "\u202f", text)
    return text.replace("p = ", "p\u00a0=\u00a0")


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A quantity that cannot exceed 1, for a table; an em dash where there is none."""
    return "—" if value is None else typeset(numerals.decimal(value, digits, sign=sign))


def plain(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Any other quantity, for a table; an em dash where there is none."""
    return "—" if value is None else typeset(numerals.plain(value, digits, sign=sign))


def percent(share: float | None, digits: int | None = None, sign: bool = False) -> str:
    """A percentage for a table; an em dash where there is none."""
    return "—" if share is None else typeset(numerals.percent(share, digits, sign=sign))


def duration(seconds: float | None) -> str:
    """``4 min 05 s``, ``38 s``; an em dash for a stage that did not run."""
    if seconds is None:
        return "—"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def bounds(ci95: Sequence[float] | None, digits: int = 3, sign: bool = False, bounded: bool = False) -> str:
    """An interval for a table; an em dash where there is none."""
    words = numerals.decimal if bounded else numerals.plain
    return "—" if ci95 is None else typeset(numerals.interval(ci95, digits, sign=sign, words=words))
