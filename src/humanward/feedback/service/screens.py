"""The pages: templates rendered with a fresh nonce; all data comes to them over the JSON API."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound

from humanward import __version__
from humanward.feedback.service.auth import actor_or_none, cookie_of, store_of
from humanward.feedback.service.security import page_policy
from humanward.feedback.store.audit import Actor
from humanward.feedback.store.errors import RefusedError
from humanward.feedback.store.models import Project
from humanward.feedback.store.people import csrf_token, role_in

PAGES = Path(__file__).parent / "pages"
PROJECT_SCREENS = {
    "": "annotator",
    "label": "annotator",
    "history": "annotator",
    "review": "reviewer",
    "quality": "reviewer",
    "items": "reviewer",
    "data": "admin",
    "people": "admin",
    "settings": "admin",
    "audit": "admin",
}
_RANK = {"annotator": 0, "reviewer": 1, "admin": 2}
_templates = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined)

router = APIRouter(include_in_schema=False)


@router.get("/enter")
def enter_page(request: Request) -> Response:
    """Opened by a one-time link ``/enter#TOKEN``; the token stays in the browser until the page posts it."""
    return _render(request, "enter", None)


@router.get("/sign-in")
def sign_in_page(request: Request) -> Response:
    """By name and password."""
    return _render(request, "sign_in", None)


@router.get("/")
def home_page(request: Request) -> Response:
    """One's projects."""
    actor = actor_or_none(request)
    return _render(request, "home", actor) if actor else _to_sign_in(request)


@router.get("/account")
def account_page(request: Request) -> Response:
    """Password and API tokens."""
    actor = actor_or_none(request)
    return _render(request, "account", actor) if actor else _to_sign_in(request)


@router.get("/projects/{project_id}")
@router.get("/projects/{project_id}/{screen}")
def project_page(request: Request, project_id: int, screen: str = "") -> Response:
    """A screen of a project, for those whose role allows it."""
    actor = actor_or_none(request)
    if actor is None:
        return _to_sign_in(request)
    with store_of(request).read() as db:
        project = db.get(Project, project_id) if project_id < 2**62 else None
        role = role_in(db, actor, project_id) if project else None
    if screen not in PROJECT_SCREENS or project is None or role is None or _RANK[role] < _RANK[PROJECT_SCREENS[screen]]:
        return _render(request, "missing", actor, status=404)
    return _render(request, screen or "project", actor, project=project, role=role)


def _to_sign_in(request: Request) -> Response:
    """To the sign-in page, which leads back to where somebody wanted to go."""
    path = request.url.path
    return RedirectResponse("/sign-in" if path == "/" else f"/sign-in?next={quote(path)}", status_code=303)


def _render(
    request: Request,
    name: str,
    actor: Actor | None,
    *,
    project: Project | None = None,
    role: str = "",
    status: int = 200,
) -> Response:
    nonce: str = request.state.nonce
    cookie = cookie_of(request)
    context: dict[str, Any] = {
        "nonce": nonce,
        "version": __version__,
        "screen": name,
        "csrf_token": csrf_token(cookie) if actor and cookie else "",
        "user": {"id": actor.user_id, "name": actor.name, "owner": actor.owner} if actor else None,
        "project": {"id": project.id, "name": project.name, "mode": project.mode} if project else None,
        "role": role,
    }
    try:
        page = _templates.get_template(f"{name}.html").render(context)
    except TemplateNotFound as error:
        raise RefusedError(404, "no_page", f"page {error.name}: is not there; use the JSON API (docs/api.md)") from None
    return HTMLResponse(page, status, headers={"content-security-policy": page_policy(nonce)})
