"""Several reward sources as one: their weighted sum, each anchored first where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from humanward.errors import InputError
from humanward.records import Prompt
from humanward.reward.sources import RewardSource, Scored, in_detail


@dataclass(frozen=True)
class Anchor:
    """(score - shift) / scale has mean 0 and standard deviation 1 on reference samples."""

    shift: float = 0.0
    scale: float = 1.0

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        return (scores - self.shift) / self.scale


def anchor_on(scores: torch.Tensor, what: str, remedy: str) -> Anchor:
    """The anchor of scores of reference samples (N,); InputError in the name of ``what`` where they have none."""
    if not bool(torch.isfinite(scores).all()):
        raise InputError(f"{what}: could not score every reference sample, so it cannot be anchored; {remedy}")
    deviation = float(scores.std(correction=0)) if len(scores) else 0.0
    if deviation <= 1e-6 * max(1.0, float(scores.abs().max()) if len(scores) else 1.0):
        value = f"all {float(scores[0]):g}" if len(scores) else "none"
        raise InputError(
            f"{what}: its scores of {len(scores)} reference samples are {value}, so it cannot be anchored to standard "
            f"deviation 1; {remedy}"
        )
    return Anchor(float(scores.mean()), deviation)


@dataclass(frozen=True)
class Part:
    """One of the sources of a sum."""

    name: str
    source: RewardSource
    weight: float
    anchor: Anchor = Anchor()


class CombinedReward:
    """sum of weight * anchor(score) over ``parts``. The parts of its scores are the sources' own, as they gave them."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.name = " + ".join(f"{part.weight:g} {part.name}" for part in parts)

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) weighted sums."""
        return self.detail(prompts, responses).scores

    def detail(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scored:
        """The weighted sums with their parts."""
        return self.combine([in_detail(part.source, prompts, responses) for part in self.parts])

    def combine(self, scored: Sequence[Scored]) -> Scored:
        """The weighted sum of scores that the sources gave, in the order of ``parts``.

        The parts of a source, an ensemble's members say, are called SOURCE-PART.
        """
        parts: dict[str, torch.Tensor] = {}
        for part, one in zip(self.parts, scored, strict=True):
            parts[part.name] = one.scores
            parts |= {f"{part.name}-{name}": value for name, value in one.parts.items()}
        total = sum(part.weight * part.anchor(one.scores) for part, one in zip(self.parts, scored, strict=True))
        assert isinstance(total, torch.Tensor)
        return Scored(total, parts)
