"""Rules that score a response without a model: its length, a regular expression, a list of words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from humanward.errors import InputError
from humanward.records import Prompt

MEASURES: dict[str, Callable[[str], int]] = {"word": lambda text: len(text.split()), "character": len}


class LengthRule:
    """The length n of a response; with a ``target`` -|n - target| / target, 0 at best and -1 for an empty one."""

    def __init__(self, length: Callable[[str], int], target: int | None = None, name: str = "length") -> None:
        self.length, self.target, self.name = length, target, name

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) scores."""
        lengths = torch.tensor([float(self.length(response)) for response in responses])
        return lengths if self.target is None else -(lengths - self.target).abs() / self.target


class PatternRule:
    """How many matches of a pattern a response holds, none of them overlapping; or whether it holds one: 1 or 0."""

    def __init__(self, pattern: re.Pattern[str], measure: str = "count", name: str = "regex") -> None:
        self.pattern, self.measure, self.name = pattern, measure, name

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) scores."""
        if self.measure == "presence":
            return torch.tensor([float(self.pattern.search(response) is not None) for response in responses])
        return torch.tensor([float(sum(1 for _ in self.pattern.finditer(response))) for response in responses])


def word_pattern(words: Sequence[str], *, ignore_case: bool) -> re.Pattern[str]:
    """Finds each of ``words`` (phrases too) where no letter, digit or underscore touches it; the longest first."""
    longest_first = sorted({" ".join(word.split()) for word in words}, key=lambda word: (-len(word), word))
    choices = "|".join(r"\s+".join(re.escape(part) for part in word.split()) for word in longest_first)
    return re.compile(rf"(?<!\w)(?:{choices})(?!\w)", re.IGNORECASE if ignore_case else 0)


def read_words(path: Path) -> list[str]:
    """The words of a file with one a line; empty lines are left out."""
    try:
        words = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable UTF-8 file ({type(error).__name__}); name a list of words") from None
    if not any(words):
        raise InputError(f"{path}: holds no words; write one a line")
    return [word for word in words if word]
