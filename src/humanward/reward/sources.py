"""Reward sources: anything that scores a response to a prompt.

A source speaks text: ``score(prompts, responses) -> (B,)``, higher is better. To add one: ARCHITECTURE.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import torch

from humanward.errors import InputError
from humanward.records import Prompt
from humanward.reward.classifier import Classifier

__all__ = ["Classifier", "Gold", "RewardSource", "Scored", "SourceError", "checked_scores", "in_detail"]

LARGEST = torch.finfo(torch.float32).max


class SourceError(InputError):
    """A source failed while it scored. Nothing stands in for its scores: whoever asked stops, and keeps what it has."""


@dataclass(frozen=True)
class Scored:
    """Scores (B,) and, by name, the numbers that they are made of, each (B,): the sources of a sum, the members of an
    ensemble and their ``disagreement``."""

    scores: torch.Tensor
    parts: dict[str, torch.Tensor] = field(default_factory=dict)


class RewardSource(Protocol):
    """What the trainer and the evaluation accept as a reward."""

    name: str

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) scores in float32 on the CPU, higher is better, NaN where a text cannot be scored."""
        ...


def in_detail(source: RewardSource, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scored:
    """The scores of a source, with their parts where it has any."""
    detail = getattr(source, "detail", None)
    return Scored(source.score(prompts, responses)) if detail is None else detail(prompts, responses)


def checked_scores(scores: Any, count: int, who: str) -> torch.Tensor:
    """``count`` finite numbers that came from outside as (B,) float32; SourceError in the name of ``who`` otherwise."""
    if isinstance(scores, str | dict) or not hasattr(scores, "__iter__"):
        raise SourceError(f"{who} gave {_short(scores)}, not a list of numbers; return one number for each response")
    values = scores.tolist() if hasattr(scores, "tolist") else list(scores)
    if len(values) != count:
        raise SourceError(f"{who} gave {len(values)} scores for {count} responses; return one for each, in their order")
    for number, value in enumerate(values, 1):
        if isinstance(value, bool) or not isinstance(value, Real) or not -LARGEST <= _float(value) <= LARGEST:
            raise SourceError(
                f"{who} gave {_short(value)} as score {number} of {count}, not a finite number; return one for each "
                "response"
            )
    return torch.tensor([float(value) for value in values], dtype=torch.float32)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond every float
        return float("inf")


def _short(value: Any) -> str:
    words = " ".join(repr(value).split())
    return words if len(words) <= 60 else f"{words[:57]}..."


class Gold:
    """What simulated annotators follow: a classifier's score, less ``short_penalty`` for answers of too few words.

    Without the penalty "yes" is as good an answer as any, and a policy learns to say little else.
    """

    def __init__(self, classifier: RewardSource, short_words: int, short_penalty: float) -> None:
        self.classifier, self.short_words, self.short_penalty = classifier, short_words, short_penalty
        self.name = classifier.name

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) the classifier's scores, lower by the penalty where a response has fewer than ``short_words`` words."""
        short = torch.tensor([len(response.split()) < self.short_words for response in responses])
        return self.classifier.score(prompts, responses) - self.short_penalty * short
