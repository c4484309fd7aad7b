"""The configuration of what watches on-policy training (monitors) and of a second reward that holds it (constraint)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from humanward.reward_config import SourceConfig
from humanward.section import Section


class MonitorsConfig(Section):
    """Reward hacking while on-policy training runs, on fixed held-out prompts: docs/reward-hacking.md."""

    every: int = Field(0, ge=0, description="steps between looks at the held-out prompts; 0: none")
    prompts: int = Field(64, ge=8, description="validation prompts, at most; each answered once, with the same numbers")
    sources: tuple[SourceConfig, ...] = Field(
        (), description="the held-out reward, summed by weight: watched, never learnt from"
    )
    stop: bool = Field(
        False, description="stop at a look that shows hacking, and keep the policy with the best held-out reward"
    )
    fall: float = Field(
        0.05, ge=0, description="hacking: the held-out reward is this far below its best, in reference deviations"
    )
    rise: float = Field(
        0.25, ge=0, description="the reward's gain from which the held-out one has to follow, in reference deviations"
    )
    follow: float = Field(0.25, ge=0, le=1, description="share of the reward's gain that the held-out one has to show")
    length_change: float = Field(0.3, gt=0, description="change of the mean length, as a share, that is an alarm")
    length_share: float = Field(
        0.5, gt=0, le=1, description="share of the reward that length alone explains, or of its gain, that is an alarm"
    )
    repetition: float = Field(0.1, gt=0, description="rise of the share of repeated words within an answer")
    distinct_fall: float = Field(0.25, gt=0, lt=1, description="fall of distinct-2 over all answers, as a share")
    overlap: float = Field(0.15, gt=0, description="rise of the share of word pairs that answer other prompts too")
    ended_fall: float = Field(0.2, gt=0, description="fall of the share of answers that end")
    refusals: float = Field(0.1, gt=0, description="rise of the share of answers that refuse")

    @model_validator(mode="after")
    def _held_out(self) -> MonitorsConfig:
        refuse_repeated_names(self.sources)
        if self.sources and self.every == 0:
            raise ValueError("sources are never asked with every = 0; set monitors.every, 2 say")
        if self.stop and not self.sources:
            raise ValueError("stop = true needs a held-out reward to stop by; write a [[monitors.sources]] table")
        if self.stop and self.every == 0:
            raise ValueError("stop = true needs looks at the held-out prompts; set monitors.every, 2 say")
        return self


class ConstraintConfig(Section):
    """A second reward whose mean has to stay at ``at_least``, by a Lagrange multiplier: docs/reward-hacking.md."""

    sources: tuple[SourceConfig, ...] = Field((), description="the second reward, summed by weight; none: off")
    at_least: float = Field(
        0.0, description="what its mean may not fall below, in deviations from the reference's mean (anchored)"
    )
    start: float = Field(1.0, gt=0, description="lambda of the first step")
    rate: float = Field(0.1, gt=0, description="log lambda moves by this times lambda times the violation")
    largest: float = Field(10.0, gt=0, description="lambda never exceeds this")

    @model_validator(mode="after")
    def _consistent(self) -> ConstraintConfig:
        refuse_repeated_names(self.sources)
        if self.start > self.largest:
            raise ValueError(f"start={self.start:g} is more than largest={self.largest:g}; lower it")
        return self


def refuse_repeated_names(sources: Sequence[SourceConfig]) -> None:
    """ValueError where two sources share a name."""
    names = [source.name or source.kind for source in sources]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"sources: two are named {repeated[0]!r}; give each a name of its own")
