"""Who judges what next: claims under a lease, drafts, skips.

A live lease counts towards a task's quota, so that no task is judged more often than wanted; a lease that runs out
frees its place and keeps the draft. Nobody ever has two assignments of one task.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from humanward.feedback.store import claiming
from humanward.feedback.store.audit import Actor, record
from humanward.feedback.store.errors import conflict, forbidden, invalid, not_found
from humanward.feedback.store.models import Assignment, Flag, Membership, Project, Task
from humanward.feedback.store.people import require
from humanward.feedback.store.session import Store

FLAG_REASONS = ("broken", "unsafe", "private", "off-topic", "duplicate", "language", "other")
_gold = random.SystemRandom()


def claim(store: Store, actor: Actor, project_id: int) -> Assignment | None:
    """The actor's live lease in the project if there is one, or else a lease on the next task; None when none is left.

    A gold item comes with probability ``gold_share``. Raises RefusedError when the project is archived.
    """
    for last in (False, True):
        try:
            return _claim(store, actor, project_id)
        except IntegrityError:
            # Another request of the same person took the same task at the same time; its lease is found now.
            if last:
                raise
    return None


def _claim(store: Store, actor: Actor, project_id: int) -> Assignment | None:
    user_id = person(actor)
    now = store.now()
    with store.write() as db:
        project = require(db, actor, project_id, "annotator")
        if project.archived:
            raise conflict("archived", f"project {project.name}: is archived; nothing is judged any more")
        held = db.execute(claiming.HELD, {"project": project_id, "user": user_id, "now": now}).all()
        if any(row.lease_until <= now for row in held):
            expire_leases(db, project_id, now)
        for row in held:
            if row.user_id == user_id and row.lease_until > now:
                return db.get_one(Assignment, row.id)
        if actor.owner or actor.only_project is not None:
            _ensure_member(db, actor, project_id, now)
        task = _next_gold(db, project, user_id)
        if task is None:
            task = claiming.take_next(db, project_id, user_id) or _next_gold(db, project, user_id, 1)
        if task is None:
            return None
        return claiming.lease(db, project, task, user_id, shuffled(task.id, task.completion_ids, user_id), now)


def shuffled(task_id: str, completion_ids: Sequence[str], user_id: int) -> list[str]:
    """The answers in an order that depends on person and task alone."""
    seed = hashlib.sha256(f"{user_id}\x1f{task_id}".encode()).digest()
    order = sorted(completion_ids)
    random.Random(int.from_bytes(seed[:8], "big")).shuffle(order)
    return order


def reserve(task: Task, change: int) -> None:
    """Count a place taken or given back, and whether one is left."""
    task.reserved = max(0, task.reserved + change)
    task.available = task.state == "open" and task.reserved < task.quota


def expire_leases(db: Session, project_id: int, now: Any) -> int:
    """End the leases that have run out and free their places; returns how many."""
    over = (Assignment.project_id == project_id, Assignment.state == "leased", Assignment.lease_until <= now)
    found = db.execute(select(Assignment.id, Assignment.task_id).where(*over)).all()
    if not found:
        return 0
    # Tasks are locked before assignments, here as in submit, so that two transactions cannot wait for one another.
    tasks = db.scalars(
        select(Task).where(Task.id.in_({row.task_id for row in found})).order_by(Task.id).with_for_update()
    )
    by_id = {task.id: task for task in tasks}
    ended = db.execute(
        update(Assignment)
        .where(*over, Assignment.id.in_([row.id for row in found]))
        .values(state="expired")
        .returning(Assignment.task_id, Assignment.gold)
    ).all()
    for row in ended:
        if not row.gold:
            reserve(by_id[row.task_id], -1)
    return len(ended)


_LOCKED = select(Task).where(Task.id == bindparam("task")).with_for_update()
_OWN = (
    select(Assignment, Project, Membership)
    .join(Project, Project.id == Assignment.project_id)
    .outerjoin(
        Membership, (Membership.project_id == Assignment.project_id) & (Membership.user_id == Assignment.user_id)
    )
    .where(Assignment.task_id == bindparam("task"), Assignment.user_id == bindparam("user"))
)


def own_assignment(db: Session, actor: Actor, task_id: str) -> tuple[Project, Task, Assignment]:
    """The actor's assignment of a task, task locked; 404 for anybody else's."""
    task = db.scalar(_LOCKED, {"task": task_id})
    if task is None:
        raise not_found("task", task_id)
    # Not in the query above: what it reads beside the locked row may be older than the lock.
    found = db.execute(_OWN, {"task": task_id, "user": person(actor)}).first()
    if found is None:
        raise not_found("task", task_id)
    own, _, _ = found
    # Project and membership are at hand now, so this asks the database nothing more.
    return require(db, actor, task.project_id, "annotator"), task, own


def renew(store: Store, actor: Actor, task_id: str) -> Assignment:
    """Extend a lease to its full length from now; one that ran out is taken again while a place is free."""
    with store.write() as db:
        project, task, own = own_assignment(db, actor, task_id)
        _renew(db, project, task, own, store.now())
        return own


def _renew(db: Session, project: Project, task: Task, own: Assignment, now: Any) -> None:
    if own.state in ("submitted", "skipped"):
        return
    if own.state != "leased":
        if not own.gold:
            if not task.available:
                return
            reserve(task, 1)
        own.state = "leased"
    own.lease_until = now + timedelta(seconds=project.lease_seconds)


def save_draft(store: Store, actor: Actor, task_id: str, draft: dict[str, Any]) -> Assignment:
    """Keep an unfinished answer, whatever it holds, and renew the lease."""
    with store.write() as db:
        project, task, own = own_assignment(db, actor, task_id)
        own.draft, own.draft_at = draft, store.now()
        _renew(db, project, task, own, store.now())
        return own


def skip(store: Store, actor: Actor, task_id: str, reason: str = "") -> Assignment:
    """Give the task to others; it does not come again. Raises RefusedError when an answer was submitted."""
    return _put_back(store, actor, task_id, "skipped", reason)


def release(store: Store, actor: Actor, task_id: str) -> Assignment:
    """Give the lease back; the task may come again."""
    return _put_back(store, actor, task_id, "released", "")


def _put_back(store: Store, actor: Actor, task_id: str, state: str, reason: str) -> Assignment:
    with store.write() as db:
        project, task, own = own_assignment(db, actor, task_id)
        if own.state == "submitted":
            raise conflict("submitted", f"task {task_id}: your answer is in already; edit it instead")
        if own.state == "leased" and not own.gold:
            reserve(task, -1)
        own.state, own.skip_reason = state, reason
        record(
            db,
            store.now(),
            actor,
            f"task.{'skip' if state == 'skipped' else 'release'}",
            task_id,
            project.id,
            reason=reason,
        )
        return own


def flag(store: Store, actor: Actor, task_id: str, reason: str, comment: str = "") -> Flag:
    """Say that something is wrong with a task; the lease stays."""
    if reason not in FLAG_REASONS:
        raise invalid("reason", f"{reason!r} is not one of {', '.join(FLAG_REASONS)}")
    with store.write() as db:
        project, _, _ = own_assignment(db, actor, task_id)
        row = Flag(
            project_id=project.id,
            task_id=task_id,
            user_id=person(actor),
            reason=reason,
            comment=comment,
            created_at=store.now(),
            resolution="",
        )
        db.add(row)
        db.flush()
        record(db, store.now(), actor, "task.flag", task_id, project.id, reason=reason)
        return row


def counts_of(db: Session, user_id: int, project_id: int) -> dict[str, int]:
    """How many assignments the person has in each state."""
    rows = db.execute(
        select(Assignment.state, func.count())
        .where(Assignment.user_id == user_id, Assignment.project_id == project_id)
        .group_by(Assignment.state)
    )
    return {row[0]: row[1] for row in rows}


def person(actor: Actor) -> int:
    """The actor's id; raises RefusedError for the terminal, which judges nothing."""
    if actor.user_id is None:
        raise forbidden("the terminal judges nothing; sign in")
    return actor.user_id


def _ensure_member(db: Session, actor: Actor, project_id: int, now: Any) -> None:
    """An owner who labels becomes a member, so that people and progress show them."""
    if db.get(Membership, (actor.user_id, project_id)) is None:
        db.add(Membership(user_id=person(actor), project_id=project_id, role="admin", created_at=now))


def _next_gold(db: Session, project: Project, user_id: int, share: float | None = None) -> claiming.Next | None:
    share = project.gold_share if share is None else share
    if not project.gold_share or _gold.random() >= share:
        return None
    return claiming.gold_item(db, project.id, user_id)
