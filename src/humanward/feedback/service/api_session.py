"""Signing in and out, one-time links, passwords."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from humanward.feedback.service.auth import Me, Settings, TheStore, cookie_of, settings_of, signed_in
from humanward.feedback.service.schemas import (
    EnterBody,
    LinkBody,
    LinkReply,
    LoginBody,
    PasswordBody,
    ProjectRole,
    SessionReply,
)
from humanward.feedback.service.settings import ServiceSettings
from humanward.feedback.store import attempts, people
from humanward.feedback.store.audit import Actor
from humanward.feedback.store.errors import RefusedError, not_found
from humanward.feedback.store.models import Project, User
from humanward.feedback.store.projects import projects_of
from humanward.feedback.store.session import Store

router = APIRouter(tags=["session"])


@router.post("/session/link")
def look_at_link(body: LinkBody, request: Request, store: TheStore) -> LinkReply:
    """What a one-time link is for, without using it."""
    _limit(request, store)
    with store.read() as db:
        link = people.open_link(db, store, body.token)
        project = db.get(Project, link.project_id) if link.project_id is not None else None
        return LinkReply(
            kind="sign-in" if link.user_id is not None else "invitation",
            name=link.name,
            role=link.role,
            project=project.name if project else None,
            expires_at=link.expires_at,
        )


@router.post("/session/enter")
def enter(body: EnterBody, request: Request, response: Response, store: TheStore, settings: Settings) -> SessionReply:
    """Use a one-time link: signs in, or joins with a name."""
    _limit(request, store)
    signed = people.enter(store, body.token, name=body.name, password=body.password)
    return _start(store, settings, response, signed)


@router.post("/session/join")
def join(body: LinkBody, store: TheStore, actor: Me, request: Request) -> SessionReply:
    """Use an invitation as the person who is signed in."""
    people.join(store, actor, body.token)
    return _reply(store, actor, cookie_of(request))


@router.post("/session/login")
def log_in(body: LoginBody, request: Request, response: Response, store: TheStore, settings: Settings) -> SessionReply:
    """Sign in by name and password."""
    keys = _limit(request, store, f"name {body.name.strip().lower()}")
    signed = people.log_in(store, body.name, body.password)
    attempts.forget(store, keys)
    return _start(store, settings, response, signed)


@router.post("/session/logout", status_code=204)
def log_out(store: TheStore, actor: Me, request: Request, response: Response, settings: Settings) -> None:
    """End this browser's session."""
    people.log_out(store, actor, cookie_of(request))
    response.delete_cookie(settings.cookie, secure=settings.secure, httponly=True, samesite="lax")


@router.get("/session")
def session(store: TheStore, actor: Me, request: Request) -> SessionReply:
    """Who is signed in, their projects, and the CSRF token of this browser (empty for API tokens)."""
    return _reply(store, actor, cookie_of(request) if actor.via == "session" else "")


@router.put("/session/password", status_code=204)
def set_password(body: PasswordBody, store: TheStore, request: Request) -> None:
    """Set one's own password; other browsers are signed out."""
    actor = signed_in(request)
    if actor.via != "session":
        raise RefusedError(403, "forbidden", "a password is set in the browser, not by an API token")
    people.set_password(store, actor, body.password, keep_cookie=cookie_of(request))


def _limit(request: Request, store: Store, *keys: str) -> tuple[str, ...]:
    address = request.client.host if request.client else "?"
    keys = (f"address {address}", *keys)
    settings = settings_of(request)
    wait = attempts.wait_for(store, keys, limit=settings.login_attempts, window=settings.login_window)
    if wait > 0:
        raise RefusedError(429, "too_many_attempts", f"too many attempts; try again in {wait:.0f} seconds")
    return keys


def _start(store: Store, settings: ServiceSettings, response: Response, signed: people.SignedIn) -> SessionReply:
    response.set_cookie(
        settings.cookie,
        signed.cookie,
        max_age=people.SESSION_DAYS * 86_400,
        httponly=True,
        secure=settings.secure,
        samesite="lax",
        path="/",
    )
    return _reply(store, signed.actor, signed.cookie)


def _reply(store: Store, actor: Actor, cookie: str) -> SessionReply:
    with store.read() as db:
        user = db.get(User, actor.user_id)
        if user is None:
            raise not_found("user", actor.user_id)
        return SessionReply(
            user_id=user.id,
            name=user.name,
            owner=actor.owner,
            has_password=user.password_hash is not None,
            csrf_token=people.csrf_token(cookie) if cookie else "",
            projects=[
                ProjectRole(id=p.id, name=p.name, role=role, archived=p.archived) for p, role in projects_of(db, actor)
            ],
        )
