"""People, invitations, API tokens, the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import func, select

from humanward.feedback.service.auth import Me, Settings, TheStore
from humanward.feedback.service.review_schemas import (
    AuditEntry,
    AuditReply,
    InvitationBody,
    InvitationReply,
    MemberReply,
    NewInvitationReply,
    NewTokenReply,
    RoleBody,
    TokenBody,
    TokenReply,
)
from humanward.feedback.service.schemas import Id
from humanward.feedback.store import people
from humanward.feedback.store.audit import audit_page
from humanward.feedback.store.errors import RefusedError
from humanward.feedback.store.models import Assignment, Invitation

router = APIRouter(tags=["people"])


@router.get("/projects/{project_id}/people")
def list_people(project_id: Id, store: TheStore, actor: Me) -> list[MemberReply]:
    """The members of a project and how much they did (admins)."""
    with store.read() as db:
        people.require(db, actor, project_id, "admin")
        counts: dict[tuple[int, str], int] = {
            (user_id, state): count
            for user_id, state, count in db.execute(
                select(Assignment.user_id, Assignment.state, func.count())
                .where(Assignment.project_id == project_id)
                .group_by(Assignment.user_id, Assignment.state)
            )
        }
        return [
            MemberReply(
                user_id=user.id,
                name=user.name,
                role=member.role,
                simulated=user.simulated,
                disabled=user.disabled,
                submitted=counts.get((user.id, "submitted"), 0),
                skipped=counts.get((user.id, "skipped"), 0),
            )
            for user, member in people.members(db, project_id)
        ]


@router.patch("/projects/{project_id}/people/{user_id}", status_code=204)
def change_role(project_id: Id, user_id: Id, body: RoleBody, store: TheStore, actor: Me) -> None:
    """Give a member another role (admins)."""
    people.set_role(store, actor, project_id, user_id, body.role)


@router.delete("/projects/{project_id}/people/{user_id}", status_code=204)
def remove_member(project_id: Id, user_id: Id, store: TheStore, actor: Me) -> None:
    """End a membership (admins); what the person did stays."""
    people.set_role(store, actor, project_id, user_id, None)


@router.get("/projects/{project_id}/invitations")
def list_invitations(project_id: Id, store: TheStore, actor: Me) -> list[InvitationReply]:
    """The invitations to a project (admins), the newest first."""
    with store.read() as db:
        people.require(db, actor, project_id, "admin")
        rows = db.scalars(select(Invitation).where(Invitation.project_id == project_id).order_by(Invitation.id.desc()))
        return [InvitationReply.model_validate(row, from_attributes=True) for row in rows]


@router.post("/projects/{project_id}/invitations", status_code=201)
def invite(
    project_id: Id, body: InvitationBody, request: Request, store: TheStore, settings: Settings, actor: Me
) -> NewInvitationReply:
    """A one-time link for somebody new (admins)."""
    row, token = people.invite(store, actor, project_id=project_id, role=body.role, name=body.name, hours=body.hours)
    base = settings.public_url or str(request.base_url).rstrip("/")
    shown = InvitationReply.model_validate(row, from_attributes=True)
    return NewInvitationReply(**shown.model_dump(), link=f"{base}/enter#{token}")


@router.delete("/projects/{project_id}/invitations/{invitation_id}", status_code=204)
def revoke_invitation(project_id: Id, invitation_id: Id, store: TheStore, actor: Me) -> None:
    """Make an unused link worthless (admins)."""
    people.revoke_invitation(store, actor, invitation_id, project_id)


@router.get("/tokens")
def list_tokens(store: TheStore, actor: Me) -> list[TokenReply]:
    """One's own API tokens, without their secrets."""
    with store.read() as db:
        return [TokenReply.model_validate(row, from_attributes=True) for row in people.tokens_of(db, actor)]


@router.post("/tokens", status_code=201)
def create_token(body: TokenBody, store: TheStore, actor: Me) -> NewTokenReply:
    """A new API token; made in the browser only, so that a stolen token cannot make more."""
    if actor.via != "session":
        raise RefusedError(403, "forbidden", "tokens are made in the browser, not by an API token")
    row, secret = people.create_token(store, actor, body.name, project_id=body.project_id, days=body.days)
    return NewTokenReply(**TokenReply.model_validate(row, from_attributes=True).model_dump(), token=secret)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: Id, store: TheStore, actor: Me) -> None:
    """Make one of one's tokens worthless."""
    people.revoke_token(store, actor, token_id)


@router.get("/projects/{project_id}/audit")
def audit(
    project_id: Id,
    store: TheStore,
    actor: Me,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> AuditReply:
    """Who changed what (admins), the newest first; ``before`` is the id of the last entry seen."""
    with store.read() as db:
        people.require(db, actor, project_id, "admin")
        rows = audit_page(db, project_id, before=before, limit=limit)
        return AuditReply(entries=[AuditEntry.model_validate(row, from_attributes=True) for row in rows])
