"""What every request passes before any code of ours sees it, and the headers that every response carries.

Host allow-list (against DNS rebinding), body limits, and the Origin of requests that change something. Origins are
compared with the allow-list, not with the Host header, which a proxy may rewrite.
"""

from __future__ import annotations

import json
import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from humanward.feedback.service.settings import LOOPBACK, ServiceSettings

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"


def page_policy(nonce: str) -> str:
    """The Content-Security-Policy of a page: scripts and styles of ours alone, nothing from elsewhere, no eval."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; "
        "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


class BodyTooLargeError(HTTPException):
    """The body went over its limit while being read. An HTTPException, as FastAPI takes others for malformed JSON."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, _too_large(limit))


class Guard:
    """The middleware; see the module."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 400, 403 or 413, or pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})["nonce"] = secrets.token_urlsafe(16)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _secure(MutableHeaders(scope=message), scope, self.settings.secure)
            await send(message)

        if refusal is not None:
            await _refuse(send_guarded, *refusal)
            return
        await self.app(scope, self._counted(scope, receive), send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        host = _hostname(f"//{headers.get('host', '')}")
        if host not in self.settings.hosts:
            return 400, "unknown_host", f"host {host!r}: is not one this server answers to; start it with --allow-host"
        if scope["method"] not in SAFE_METHODS and not self._same_origin(headers):
            return 403, "cross_origin", "origin: the request comes from another site; open this server's own pages"
        length = headers.get("content-length", "0")
        if not length.isdigit():
            return 400, "invalid", "content-length: is no number"
        if int(length) > self._limit(scope):
            return 413, "too_large", _too_large(self._limit(scope))
        return None

    def _same_origin(self, headers: Headers) -> bool:
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return False
        origin = headers.get("origin")
        if origin is None:
            # No browser sends a change without Origin; programs have none, and need a token or the CSRF token.
            return True
        if self.settings.public_url and origin == self.settings.public_url:
            return True
        return _hostname(origin) in self.settings.hosts and self._same_port(origin, headers)

    def _same_port(self, origin: str, headers: Headers) -> bool:
        """Another server on this machine is another origin; behind a proxy the ports differ by right."""
        return bool(self.settings.public_url) or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()

    def _limit(self, scope: Scope) -> int:
        return self.settings.max_import if scope["path"].endswith("/import") else self.settings.max_body

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        limit, seen = self._limit(scope), 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise BodyTooLargeError(limit)
            return message

        return counted


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _secure(headers: MutableHeaders, scope: Scope, https: bool) -> None:
    for name, value in HEADERS.items():
        headers[name] = value
    if "content-security-policy" not in headers:
        headers["content-security-policy"] = API_POLICY
    if not scope["path"].startswith("/static/"):
        headers["cache-control"] = "no-store"
    if https:
        headers["strict-transport-security"] = "max-age=31536000"
    if https or _hostname(f"//{Headers(scope=scope).get('host', '')}") in LOOPBACK:
        # Elsewhere browsers pass it over and complain.
        headers["cross-origin-opener-policy"] = "same-origin"


def _too_large(limit: int) -> str:
    return f"body: is larger than {limit} bytes; send less at once"


async def _refuse(send: Any, status: int, code: str, message: str) -> None:
    body = json.dumps({"error": {"code": code, "message": message, "field": ""}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
