"""The quality report of a project, with its gold items."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from humanward.feedback.quality.gold import Gold
from humanward.feedback.quality.report import quality_report
from humanward.feedback.store.models import PromptRow, RankingRow, Task
from humanward.feedback.store.transfer import stream_rankings


def gold_of(db: Session, project_id: int) -> Gold:
    """The right orders of a project's gold items."""
    rows = db.scalars(select(Task.gold).where(Task.project_id == project_id, Task.gold.is_not(None)))
    return {
        (criterion, frozenset(c for tier in tiers for c in tier)): tiers
        for gold in rows
        for criterion, tiers in (gold or {}).items()
    }


def newest_ranking(db: Session, project_id: int) -> int:
    """The number of the last ranking: when it stays, so does the report."""
    return db.scalar(select(func.max(RankingRow.seq)).where(RankingRow.project_id == project_id)) or 0


def project_quality(db: Session, project_id: int, gold: Gold, *, resamples: int = 200) -> dict[str, Any]:
    """``QualityReport`` as JSON; ``statistics`` is None before the first ranking."""
    rankings = list(stream_rankings(db, project_id))
    if not rankings:
        return {
            "statistics": None,
            "by_criterion": {},
            "annotators": [],
            "disputed": [],
            "tie": None,
            "converged": None,
        }
    report = quality_report(rankings, gold, resamples=resamples).as_json()
    _locate(db, project_id, report["disputed"])
    return report


def _locate(db: Session, project_id: int, disputed: list[dict[str, Any]]) -> None:
    """Add to each set of answers its ``task_id`` (None when no task holds exactly those) and ``prompt_start``."""
    ids = {one["prompt_id"] for one in disputed}
    tasks = db.execute(
        select(Task.id, Task.prompt_id, Task.completion_ids, PromptRow.text)
        .join(PromptRow, (PromptRow.project_id == Task.project_id) & (PromptRow.id == Task.prompt_id))
        .where(Task.project_id == project_id, Task.prompt_id.in_(ids))
    ).all()
    known = {(row.prompt_id, frozenset(row.completion_ids)): row.id for row in tasks}
    texts = {row.prompt_id: row.text[:200] for row in tasks}
    for one in disputed:
        answers = frozenset(c for tier in one["tiers"] for c in tier)
        one["task_id"] = known.get((one["prompt_id"], answers))
        one["prompt_start"] = texts.get(one["prompt_id"], "")
