"""How far a person is, and how well they judge the items whose answer is known."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from humanward.feedback.quality.gold import pairs_right
from humanward.feedback.store.models import Assignment, RankingRow, Task
from humanward.feedback.store.tasks import counts_of


def my_progress(db: Session, user_id: int, project_id: int) -> dict[str, Any]:
    """Counts of the person's assignments, tasks that are left for them, gold items and accuracy."""
    counts = counts_of(db, user_id, project_id)
    mine = (
        select(func.count())
        .select_from(Assignment)
        .join(Task, Task.id == Assignment.task_id)
        .where(
            Assignment.user_id == user_id,
            Assignment.project_id == project_id,
            Assignment.state.in_(("leased", "submitted", "skipped")),
            Task.available.is_(True),
        )
    )
    free = select(func.count()).where(Task.project_id == project_id, Task.available.is_(True))
    left = (db.scalar(free) or 0) - (db.scalar(mine) or 0)
    answered, right, total = gold_score(db, user_id, project_id)
    return {
        "submitted": counts.get("submitted", 0),
        "skipped": counts.get("skipped", 0),
        "leased": counts.get("leased", 0),
        "left": max(0, left),
        "gold_answered": answered,
        "gold_accuracy": right / total if total else None,
    }


def gold_score(db: Session, user_id: int, project_id: int) -> tuple[int, float, int]:
    """(gold items answered, pairs judged as gold has them, pairs that gold orders or ties)."""
    rows = db.execute(
        select(Task.id, Task.gold, RankingRow.criterion, RankingRow.tiers)
        .join(RankingRow, RankingRow.task_id == Task.id)
        .where(Task.project_id == project_id, Task.gold.is_not(None), RankingRow.user_id == user_id)
        .where(RankingRow.origin == "collect")
        .order_by(RankingRow.seq)
    )
    last = {(task_id, criterion): (gold, tiers) for task_id, gold, criterion, tiers in rows}
    right, total = 0.0, 0
    for (_, criterion), (gold, tiers) in last.items():
        if criterion in gold:
            good, all_ = pairs_right(gold[criterion], tiers)
            right, total = right + good, total + all_
    return len({task_id for task_id, _ in last}), right, total
