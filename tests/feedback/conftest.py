"""A store on SQLite and on PostgreSQL, the service on it, and a clock that tests set."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import psycopg
import pytest

from humanward.feedback.store.models import Base
from humanward.feedback.store.session import Store

sys.path.insert(0, str(Path(__file__).parent))

import postgres

_numbers = count()


class Clock:
    """A time that passes when told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server with a database ``prepared`` that is up to date."""
    if postgres.binaries() is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed, and CI may not leave its tests out: apt-get install postgresql")
        pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
    with ExitStack() as stack:
        url = stack.enter_context(postgres.server())
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE prepared")
        Store(_beside(url, "prepared")).close()
        yield url


@pytest.fixture
def empty_postgres(postgres_server: str) -> str:
    """The URL of a database without tables."""
    name = f"empty{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return _beside(postgres_server, name)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database that is up to date, of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/feedback.db"
        return
    prepared = _beside(request.getfixturevalue("postgres_server"), "prepared")
    yield prepared
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with psycopg.connect(prepared, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    """An open store on either database, at the clock's time."""
    store = Store(url, now=clock)
    yield store
    store.close()


def _beside(server: str, name: str) -> str:
    return f"{server.rsplit('/', 1)[0]}/{name}"
