"""The configuration of iterated alignment: what a round ranks, and what it starts from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from humanward.section import Section


class RoundsConfig(Section):
    """Rounds of ranking, reward training and alignment (``humanward run --rounds N``): docs/rounds.md."""

    select: Literal["uncertainty", "random"] = Field(
        "uncertainty", description="which of a pool of answered prompts are ranked from the second round on"
    )
    pool: float = Field(3.0, ge=1, description="prompts answered for each that is ranked")
    reference: Literal["original", "previous"] = Field(
        "original", description="what KL is measured from: where the first round started, or where this one did"
    )
    number: int = Field(1, ge=1, description="which round this folder is; `--rounds` writes it")
    start: str | None = Field(
        None, description="the policy (an adapter's folder) that this round goes on from; `--rounds` writes it"
    )
