"""The default guidelines for people who judge: Markdown files beside this one, ready to use and to change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Guideline:
    """A title, the one question that stays in sight, and the whole text."""

    title: str
    short: str
    text: str


def _read(name: str) -> Guideline:
    """A file's first line is the title, its first paragraph the short text."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8").strip()
    title, short, _ = text.split("\n\n", 2)
    return Guideline(title.removeprefix("# "), " ".join(short.split()), text)


DEFAULTS: dict[str, Guideline] = {name: _read(name) for name in ("overall", "helpful", "honest", "harmless")}
