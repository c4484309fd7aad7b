"""What a task is worth asking about: opinions counted, disagreement, turn and state, from the rankings in force."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Row, bindparam, select
from sqlalchemy.orm import Session

from humanward.feedback.store.models import Project, RankingRow, Task
from humanward.feedback.store.projects import names_of_criteria
from humanward.feedback.store.turns import disagreement, turn
from humanward.preferences import current_rankings
from humanward.records import Ranking

Item = TypeVar("Item")
_FIELDS = {field.name for field in fields(Ranking)}


def recount(db: Session, project: Project, task_ids: Sequence[str]) -> None:
    """Opinions, disagreement and turn of tasks from all their rankings.

    An opinion is somebody's, not a simulated annotator's, under a criterion of the project.
    """
    asked = set(names_of_criteria(db, project.id))
    for some in batches(task_ids, 500):
        rankings: dict[str, list[Ranking]] = {}
        rows = db.scalars(
            select(RankingRow)
            .where(RankingRow.task_id.in_(some), RankingRow.origin != "adjudication")
            .order_by(RankingRow.seq)
        )
        for row in rows:
            rankings.setdefault(str(row.task_id), []).append(to_ranking(row))
        for task in db.scalars(select(Task).where(Task.id.in_(some)).order_by(Task.id).with_for_update()):
            live = current_rankings(rankings.get(task.id, ()))
            people = {r.annotator or r.id for r in live if not r.simulated and r.criterion in asked}
            if task.state != "gold":
                task.reserved = max(0, task.reserved + len(people) - task.opinions)
                task.opinions = len(people)
            judge_task(task, project, live)
        db.flush()


def judge_task(task: Task, project: Project, rankings: Iterable[Ranking]) -> None:
    """Set disagreement, turn and state of a task by its rankings that are in force."""
    by_criterion: dict[str, list[Any]] = {}
    for ranking in rankings:
        by_criterion.setdefault(ranking.criterion, []).append(ranking.tiers)
    shares = [share for group in by_criterion.values() if (share := disagreement(group)) is not None]
    task.disagreement = max(shares, default=None)
    task.turn = turn(list(by_criterion.values()), task.uncertainty)
    refresh_state(task, project)


def refresh_state(task: Task, project: Project) -> None:
    """Open or done, with one more opinion wanted while people disagree and the project allows it."""
    if task.state not in ("open", "done") or task.adjudicated:
        return
    disputed = task.disagreement is not None and task.disagreement > project.extra_above
    if task.opinions >= task.quota and disputed and task.quota < project.max_overlap:
        task.quota = min(task.opinions + 1, project.max_overlap)
    task.state = "done" if task.opinions >= task.quota else "open"
    task.available = task.state == "open" and task.reserved < task.quota


_OF_TASK = (
    select(*(column for column in RankingRow.__table__.columns if column.name in _FIELDS))
    .where(RankingRow.task_id == bindparam("task"), RankingRow.origin != "adjudication")
    .order_by(RankingRow.seq)
)


def task_rankings(db: Session, task: Task) -> list[Ranking]:
    """The rankings of a task that are in force, adjudications apart."""
    return list(current_rankings(to_ranking(row) for row in db.execute(_OF_TASK, {"task": task.id})))


def to_ranking(row: RankingRow | Row[Any]) -> Ranking:
    """The record that a row holds."""
    return Ranking(
        id=row.id,
        prompt_id=row.prompt_id,
        tiers=tuple(tuple(tier) for tier in row.tiers),
        annotator=row.annotator,
        none_acceptable=row.none_acceptable,
        criterion=row.criterion,
        shown_order=tuple(row.shown_order),
        seconds_spent=row.seconds_spent,
        created_at=row.created_at,
        simulated=row.simulated,
    )


def batches(items: Iterable[Item], size: int = 2000) -> Iterator[list[Item]]:
    """Lists of at most ``size``."""
    pending = iter(items)
    while batch := list(islice(pending, size)):
        yield batch
