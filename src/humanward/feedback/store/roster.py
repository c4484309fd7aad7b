"""All people of a store at a glance, and locking one out."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from humanward.feedback.store.audit import Actor, record
from humanward.feedback.store.errors import not_found
from humanward.feedback.store.models import ApiToken, BrowserSession, Invitation, Membership, Project, User
from humanward.feedback.store.people import user_named
from humanward.feedback.store.session import Store


def roster(store: Store) -> dict[str, list[dict[str, Any]]]:
    """``people`` with their roles by project, and ``invitations`` that still work."""
    with store.read() as db:
        roles: dict[int, dict[str, str]] = {}
        for user_id, project, role in db.execute(
            select(Membership.user_id, Project.name, Membership.role).join(Project, Project.id == Membership.project_id)
        ):
            roles.setdefault(user_id, {})[project] = role
        people = [
            {
                "name": user.name,
                "owner": user.owner,
                "simulated": user.simulated,
                "disabled": user.disabled,
                "roles": roles.get(user.id, {}),
            }
            for user in db.scalars(select(User).order_by(User.name))
        ]
        open_links = db.execute(
            select(Invitation, Project.name)
            .outerjoin(Project, Project.id == Invitation.project_id)
            .where(
                Invitation.user_id.is_(None),
                Invitation.used_at.is_(None),
                Invitation.revoked_at.is_(None),
                Invitation.expires_at > store.now(),
            )
            .order_by(Invitation.id)
        )
        invitations = [
            {
                "id": row.id,
                "project": project or "",
                "role": row.role,
                "name": row.name,
                "expires_at": row.expires_at.isoformat(timespec="minutes"),
            }
            for row, project in open_links
        ]
        return {"people": people, "invitations": invitations}


def lock_out(store: Store, actor: Actor, name: str) -> None:
    """End all sessions, links and tokens of a person, who can come back by no way; what they did stays."""
    now = store.now()
    with store.write() as db:
        user = user_named(db, name)
        if user is None:
            raise not_found("user", name)
        user.disabled = True
        for table in (BrowserSession, ApiToken, Invitation):
            db.execute(update(table).where(table.user_id == user.id, table.revoked_at.is_(None)).values(revoked_at=now))
        record(db, now, actor, "people.lock_out", f"user {user.id}", name=name)
