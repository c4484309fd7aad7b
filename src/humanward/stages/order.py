"""The stages before the report in their order, and which of them a configuration needs; without torch."""

from __future__ import annotations

from humanward.algorithm_config import OFF_POLICY
from humanward.config import RunConfig

ORDER = ("prompts", "sample", "feedback", "reward", "align", "evaluate")


def needed(config: RunConfig) -> list[str]:
    """The stages that this configuration needs."""
    skipped: set[str] = set()
    elsewhere = config.feedback.source == "collect" and config.feedback.db is not None
    given = elsewhere or config.feedback.source in ("rankings", "preferences", "ratings")
    if config.algorithm in OFF_POLICY:
        skipped = {"reward"} | ({"sample"} if given else set())
    elif not config.reward.trains:
        skipped |= {"sample", "feedback", "reward"}
    elif given:
        skipped |= {"sample"}
    return [name for name in ORDER if name not in skipped]
