"""Who acts, and the log of every change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from humanward.feedback.store.models import AuditRow


@dataclass(frozen=True)
class Actor:
    """Who asks. ``user_id`` None is the person at this machine's command line, who may do everything.

    ``only_project`` is set for an API token of one project; ``via`` is session, token or terminal.
    """

    user_id: int | None
    name: str
    owner: bool = False
    via: str = "terminal"
    only_project: int | None = None


TERMINAL = Actor(None, "terminal", owner=True)
_ADD = insert(AuditRow.__table__).inline()  # type: ignore[arg-type]


def record(
    db: Session, at: datetime, actor: Actor, action: str, subject: object, project_id: int | None = None, **detail: Any
) -> None:
    """Add a line to the audit log, in the transaction of the change itself."""
    # The line may name rows that are new.
    db.flush()
    db.execute(
        _ADD,
        {
            "at": at,
            "actor_id": actor.user_id,
            "actor": actor.name,
            "action": action,
            "project_id": project_id,
            "subject": str(subject),
            "detail": detail,
        },
    )


def audit_page(db: Session, project_id: int | None, *, before: int | None = None, limit: int = 100) -> list[AuditRow]:
    """The newest lines first, older than ``before`` when given; of all projects and none without ``project_id``."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if project_id is not None:
        query = query.where(AuditRow.project_id == project_id)
    if before is not None:
        query = query.where(AuditRow.id < before)
    return list(db.scalars(query))
