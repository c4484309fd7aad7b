"""Stage 4: the policy moves towards what people prefer, by the configured algorithm."""

from __future__ import annotations

from collections.abc import Callable

from humanward.config import ON_POLICY
from humanward.stages.context import Run
from humanward.stages.on_policy import align_on_policy

ALIGNERS: dict[str, Callable[[Run], None]] = {
    **dict.fromkeys(ON_POLICY, align_on_policy),
}
"""What runs each algorithm. All of them write adapter/ and metrics.jsonl and record the same facts."""


def run_align(run: Run) -> None:
    """Train the policy by ``config.algorithm``."""
    ALIGNERS[run.config.algorithm](run)
