"""The whole loop: every stage that has not finished yet, in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from humanward.stages.align import run_align
from humanward.stages.context import Run, prepare_prompts
from humanward.stages.evaluate import run_evaluate
from humanward.stages.feedback import run_feedback
from humanward.stages.order import needed
from humanward.stages.report import run_report
from humanward.stages.reward import run_reward
from humanward.stages.sample import run_sample
from humanward.stages.scoring import check_reward


def run_prompts(run: Run) -> None:
    """Stage 0: read, deduplicate and split the prompts."""
    started = time.perf_counter()
    counts = prepare_prompts(run)
    run.folder.finish("prompts", time.perf_counter() - started, **counts)


STAGES: dict[str, Callable[[Run], None]] = {
    "prompts": run_prompts,
    "sample": run_sample,
    "feedback": run_feedback,
    "reward": run_reward,
    "align": run_align,
    "evaluate": run_evaluate,
}
"""All stages before the report, in order. A new stage goes here, into ``ORDER`` and, if not every run needs it, into
``needed`` (order.py)."""


def run_loop(run: Run, *, reproduce: str | None = None) -> dict[str, Any]:
    """Run what has not finished, then the report; returns the content of report.json."""
    finished = run.folder.stages()
    check_sources(run)
    for name in needed(run.config):
        if name in finished:
            run.reporter.say(f"{name}: finished before, not run again")
            continue
        finished = {}  # whatever came after an unfinished stage is out of date
        STAGES[name](run)
    return run_report(run, reproduce=reproduce)


def check_sources(run: Run) -> None:
    """Load everything that a later stage needs, so that a wrong name fails in seconds and not after an hour."""
    config = run.config
    run.classifier("judge")
    check_reward(run)
    if "feedback" in needed(config) and config.feedback.source == "simulated":
        run.classifier("gold")
    if not run.folder.file("prompts.jsonl").exists():
        run.base()
