"""How a server is set up: by which names it is reached, how large a request may be."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from humanward.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


@dataclass(frozen=True)
class ServiceSettings:
    """``hosts`` are the names (without port) that requests may be sent to; ``public_url`` is set behind a proxy."""

    hosts: frozenset[str] = frozenset(LOOPBACK)
    port: int = 8765
    public_url: str = ""
    max_body: int = 1_000_000
    max_import: int = 200_000_000
    login_attempts: int = 10
    login_window: float = 300.0

    @property
    def secure(self) -> bool:
        """Whether browsers reach the server by https."""
        return self.public_url.startswith("https://")

    @property
    def cookie(self) -> str:
        """The cookie's name: servers on one host, at different ports, do not overwrite each other's."""
        return "__Host-humanward" if self.secure else f"humanward_{self.port}"


def settings_for(host: str, port: int, public_url: str = "", allowed: tuple[str, ...] = ()) -> ServiceSettings:
    """The settings of a server bound to ``host``; raises InputError for a public URL that is none."""
    names = {*LOOPBACK, *(name.lower() for name in allowed)}
    if host not in ("0.0.0.0", "::", ""):
        names.add(host.lower())
    if public_url:
        parts = urlsplit(public_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise InputError(f"--public-url {public_url!r}: is no address like https://label.example.org; correct it")
        names.add(parts.hostname.lower())
        public_url = public_url.rstrip("/")
    return ServiceSettings(frozenset(names), port, public_url)
