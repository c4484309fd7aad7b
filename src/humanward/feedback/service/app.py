"""The application: routers, errors as JSON, and the guard before them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from humanward import __version__
from humanward.errors import InputError
from humanward.feedback.service import (
    api_data,
    api_people,
    api_projects,
    api_review,
    api_session,
    api_work,
    page_parts,
    screens,
)
from humanward.feedback.service.auth import store_of
from humanward.feedback.service.schemas import ErrorReply
from humanward.feedback.service.security import Guard
from humanward.feedback.service.settings import ServiceSettings
from humanward.feedback.store.errors import RefusedError
from humanward.feedback.store.session import Store

STATIC = Path(__file__).parent / "static"
API = "/api/v1"
ERRORS = (400, 401, 403, 404, 409, 410, 413, 422, 429, 503)


def build_app(store: Store, settings: ServiceSettings | None = None) -> FastAPI:
    """The service on an open store."""
    settings = settings or ServiceSettings()
    app = FastAPI(
        title="humanward labelling service",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={code: {"model": ErrorReply} for code in ERRORS},
    )
    app.state.store, app.state.settings = store, settings
    app.state.quality = {}
    for module in (api_session, api_projects, api_work, api_review, api_data, api_people, page_parts):
        app.include_router(module.router, prefix=API)
    app.include_router(screens.router)
    app.add_api_route("/healthz", _health, methods=["GET"], include_in_schema=True, tags=["health"])
    if STATIC.is_dir():
        app.mount("/static", page_parts.Assets(directory=STATIC), name="static")
    app.add_exception_handler(RefusedError, _on_refused)
    app.add_exception_handler(InputError, _on_input_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(OperationalError, _on_busy)
    app.add_middleware(Guard, settings=settings)
    return app


def _health(request: Request) -> dict[str, str]:
    """200 while the database answers."""
    with store_of(request).read() as db:
        db.execute(text("SELECT 1"))
    return {"status": "ok", "version": __version__}


def error_reply(status: int, code: str, message: str, field: str = "", **headers: str) -> JSONResponse:
    """An error in the form of ``ErrorReply``."""
    return JSONResponse({"error": {"code": code, "message": message, "field": field}}, status, headers)


async def _on_refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    headers = {"retry-after": "60"} if error.status == 429 else {}
    return error_reply(error.status, error.code, str(error), error.field, **headers)


async def _on_input_error(_request: Request, error: Exception) -> JSONResponse:
    return error_reply(422, "bad_input", str(error))


async def _on_validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    field = ".".join(place)
    return error_reply(422, "invalid", f"{field or 'body'}: {first['msg']}", field)


async def _on_busy(request: Request, error: Exception) -> JSONResponse:
    """The database gave up: a deadlock, a lost connection, a lock held too long. Nothing was kept."""
    logging.getLogger(__name__).error("%s %s: %s", request.method, request.url.path, error)
    message = "the database is busy or away; nothing was kept, send it again"
    return error_reply(503, "busy", message, **{"retry-after": "1"})


async def _on_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "error")
    return error_reply(error.status_code, code, str(error.detail), **dict(error.headers or {}))
