"""The optional libraries of the labelling service."""

from __future__ import annotations

from importlib.util import find_spec

from humanward.errors import InputError

LIBRARIES = ("sqlalchemy", "alembic", "argon2")
SERVER = ("fastapi", "uvicorn")


def need_collect(*, server: bool = False) -> None:
    """Raise InputError, naming the extra, unless the store's (and the server's) libraries are installed."""
    for name in (*LIBRARIES, *(SERVER if server else ())):
        if find_spec(name) is None:
            raise InputError(f"{name}: is not installed; install the extra: pip install 'humanward[collect]'")
