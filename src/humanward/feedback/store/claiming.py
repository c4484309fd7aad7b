"""The statements of a claim: few, and made once, as they run for every task that anybody is given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Executable, Select, bindparam, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from humanward.feedback.store.models import Assignment, Project, Task

TAKEN = ("leased", "submitted", "skipped")
FREE = ("expired", "released")
WINDOW = 500
"""How many begun tasks are looked at before those that nobody has begun: bounds a claim's time for somebody who works
alone and has therefore judged most of the begun ones."""


class Next(NamedTuple):
    """A task to be given to somebody."""

    id: str
    completion_ids: list[str]
    gold: bool


HELD = select(Assignment.id, Assignment.user_id, Assignment.lease_until).where(
    Assignment.project_id == bindparam("project"),
    Assignment.state == "leased",
    or_(Assignment.lease_until <= bindparam("now"), Assignment.user_id == bindparam("user")),
)
"""The leases of a project that are the person's own or have run out."""

_MINE = (
    select(Assignment.id)
    .where(Assignment.task_id == Task.id, Assignment.user_id == bindparam("user"), Assignment.state.in_(TAKEN))
    .exists()
)
_GOLD = (
    select(Task.id, Task.completion_ids)
    .where(Task.project_id == bindparam("project"), Task.state == "gold", ~_MINE)
    .order_by(Task.position)
    .limit(1)
)


def _candidates() -> tuple[Select[Any], ...]:
    """Free tasks that the person has not had: begun ones among the first of those, new ones, and any."""
    free = (Task.project_id == bindparam("project"), Task.available.is_(True))
    begun = select(Task.id).where(*free, Task.turn <= -1).order_by(Task.turn, Task.position).limit(WINDOW).subquery()
    return (
        select(Task.id).join(begun, begun.c.id == Task.id).where(Task.available.is_(True), ~_MINE),
        select(Task.id).where(*free, Task.turn > -1, ~_MINE),
        select(Task.id).where(*free, ~_MINE),
    )


def _taking(candidates: Select[Any]) -> Executable:
    """Reserve a place in the first candidate that nobody else is taking at this moment."""
    first = (
        candidates.order_by(Task.turn, Task.position)
        .limit(1)
        .with_for_update(of=Task, skip_locked=True)
        .scalar_subquery()
    )
    table = Task.__table__
    return (
        update(table)  # type: ignore[arg-type]
        .where(table.c.id == first)
        .values(reserved=table.c.reserved + 1, available=table.c.reserved + 1 < table.c.quota)
        .returning(table.c.id, table.c.completion_ids)
    )


_TAKINGS = tuple(_taking(candidates) for candidates in _candidates())


def take_next(db: Session, project_id: int, user_id: int) -> Next | None:
    """The task that is most worth this person's opinion, a place in it reserved; None when none is left."""
    for taking in _TAKINGS:
        row = db.execute(taking, {"project": project_id, "user": user_id}).first()
        if row is not None:
            return Next(row.id, row.completion_ids, False)
    return None


def gold_item(db: Session, project_id: int, user_id: int) -> Next | None:
    """The first gold item that the person has not had."""
    row = db.execute(_GOLD, {"project": project_id, "user": user_id}).first()
    return None if row is None else Next(row.id, row.completion_ids, True)


def _leasing(insert: Any) -> Executable:
    columns = ("project_id", "task_id", "user_id", "gold", "shown_order", "claimed_at", "lease_until")
    table = Assignment.__table__
    fresh = insert(table).values(
        {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in columns}
        | {"state": "leased", "skip_reason": ""}
    )
    again = fresh.on_conflict_do_update(
        index_elements=["task_id", "user_id"],
        set_={name: fresh.excluded[name] for name in ("state", "gold", "claimed_at", "lease_until")},
        where=table.c.state.in_(FREE),
    )
    return select(Assignment).from_statement(again.returning(Assignment))


_LEASING = {"sqlite": _leasing(sqlite.insert), "postgresql": _leasing(postgresql.insert)}


def lease(db: Session, project: Project, task: Next, user_id: int, order: Sequence[str], now: datetime) -> Assignment:
    """A lease on a task whose place is reserved; somebody who had one before keeps the order and the draft.

    Raises IntegrityError when another request of the same person took the task meanwhile.
    """
    values = {
        "new_project_id": project.id,
        "new_task_id": task.id,
        "new_user_id": user_id,
        "new_gold": task.gold,
        "new_shown_order": list(order),
        "new_claimed_at": now,
        "new_lease_until": now + timedelta(seconds=project.lease_seconds),
    }
    own: Assignment | None = db.scalar(_LEASING[db.get_bind().dialect.name], values)
    if own is None:
        raise IntegrityError("lease", values, ValueError("taken by another request of the same person"))
    return own
