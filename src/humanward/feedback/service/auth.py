"""Who asks: a browser by its cookie and CSRF token, or a program by its API token."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request

from humanward.feedback.service.security import SAFE_METHODS
from humanward.feedback.service.settings import ServiceSettings
from humanward.feedback.store.audit import Actor
from humanward.feedback.store.errors import RefusedError
from humanward.feedback.store.people import actor_of_cookie, actor_of_token, csrf_token
from humanward.feedback.store.session import Store


def store_of(request: Request) -> Store:
    """The server's store."""
    store: Store = request.app.state.store
    return store


def settings_of(request: Request) -> ServiceSettings:
    """The server's settings."""
    settings: ServiceSettings = request.app.state.settings
    return settings


def cookie_of(request: Request) -> str:
    """The session cookie's value, empty without one."""
    return request.cookies.get(settings_of(request).cookie, "")


def actor_or_none(request: Request) -> Actor | None:
    """Who asks, None when nobody is signed in; does not look at CSRF tokens, so for pages only."""
    cookie = cookie_of(request)
    if not cookie:
        return None
    return actor_of_cookie(store_of(request), cookie)


def signed_in(request: Request) -> Actor:
    """Who asks; raises RefusedError 401 without a valid cookie or token, 403 for a change without its CSRF token."""
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind:
        actor = actor_of_token(store_of(request), secret.strip()) if kind.lower() == "bearer" else None
        if actor is None:
            raise RefusedError(
                401, "bad_token", "authorization: this token is unknown, revoked or over; make a new one"
            )
        return actor
    actor = actor_or_none(request)
    if actor is None:
        raise RefusedError(401, "not_signed_in", "nobody is signed in; open a one-time link or sign in")
    if request.method not in SAFE_METHODS:
        sent = request.headers.get("x-csrf-token", "")
        if not hmac.compare_digest(sent.encode(), csrf_token(cookie_of(request)).encode()):
            raise RefusedError(403, "csrf", "x-csrf-token: is missing or wrong; reload the page")
    return actor


async def _store(request: Request) -> Store:
    # Not a plain function, which FastAPI would run in a thread.
    return store_of(request)


async def _settings(request: Request) -> ServiceSettings:
    return settings_of(request)


TheStore = Annotated[Store, Depends(_store)]
Settings = Annotated[ServiceSettings, Depends(_settings)]
Me = Annotated[Actor, Depends(signed_in)]
