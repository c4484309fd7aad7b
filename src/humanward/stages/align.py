"""Stage 4: the policy moves towards what people prefer, by the configured algorithm."""

from __future__ import annotations

from collections.abc import Callable

from humanward.algorithm_config import OFF_POLICY, ON_POLICY
from humanward.stages.best_of_n import align_best_of_n
from humanward.stages.context import Run
from humanward.stages.off_policy import align_off_policy
from humanward.stages.on_policy import align_on_policy

ALIGNERS: dict[str, Callable[[Run], None]] = {
    **dict.fromkeys(ON_POLICY, align_on_policy),
    **dict.fromkeys(OFF_POLICY, align_off_policy),
    "best-of-n": align_best_of_n,
}
"""What runs each algorithm. All of them record the same facts; those that train write adapter/ and metrics.jsonl."""


def run_align(run: Run) -> None:
    """Train the policy by ``config.algorithm``."""
    ALIGNERS[run.config.algorithm](run)
