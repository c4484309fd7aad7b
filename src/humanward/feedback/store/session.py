"""The database: opened by URL, brought up to date by the migrations, read and written in transactions.

SQLite runs in WAL mode, so that readers never wait; every writing transaction is BEGIN IMMEDIATE, so that none fails in
the middle with "database is locked". On both databases a commit is on the disk before it returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DisconnectionError, OperationalError
from sqlalchemy.orm import Session

from humanward.errors import InputError

BUSY_MS = 120_000
"""Longer than a large import takes, so that nobody is told that the database is locked."""
KEPT_OPEN = 20
"""Connections that stay open. Those beyond are opened for one request each, which costs as much as the request."""
IDLE_SECONDS = 30.0
"""A connection that nobody used for longer is asked whether it still lives before it is used."""
MIGRATIONS = Path(__file__).parent / "migrations"


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Store:
    """An open database whose tables are those of this version. ``now`` gives the time; tests give their own."""

    def __init__(self, url: str, *, now: Callable[[], datetime] = utc_now) -> None:
        self.url = _parse(url)
        self.now = now
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _engine(self.url)
        # Writers of this process queue here, first come first served, instead of polling for SQLite's lock.
        self._turn: Any = threading.Lock() if self.sqlite else nullcontext()
        self._writing = self.engine.execution_options(writes=True)
        # A transaction of SQLite sees one state of the store anyhow.
        self._steady = self._isolated("REPEATABLE READ")
        self._glancing = self._isolated("AUTOCOMMIT")
        try:
            _migrate(self.engine)
        except OperationalError as error:
            self.engine.dispose()
            raise InputError(f"{self.shown_url}: cannot be opened ({_reason(error)}); check --db") from error
        except DatabaseError as error:
            self.engine.dispose()
            raise InputError(f"{self.shown_url}: is no database of ours ({_reason(error)}); check --db") from error

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads, and never waits for a writer."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """As ``read``, with all of its queries seeing the store as it was at the first of them."""
        with Session(self._steady, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def glance(self) -> Iterator[Connection]:
        """A connection for single queries, each of them for itself: on PostgreSQL one round trip, without BEGIN."""
        with self._glancing.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes: all of it is on the disk when the block ends, or nothing if it raises."""
        with self._turn, Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    def _isolated(self, level: Any) -> Engine:
        return self.engine if self.sqlite else self.engine.execution_options(isolation_level=level)

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def sqlite_url(path: Path) -> str:
    """The URL of a database file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise InputError(
            f"--db {text!r}: is no database URL; write e.g. sqlite:///feedback.db or postgresql://user@host/name"
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise InputError(f"--db {text!r}: a database in memory forgets everything; name a file")
        return url
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise InputError(f"--db {text!r}: {backend} is not supported; use sqlite or postgresql")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        engine = create_engine(url, pool_size=KEPT_OPEN, max_overflow=30)
        event.listen(engine, "checkin", _on_checkin)
        event.listen(engine, "checkout", _on_checkout)
        return engine
    Path(str(url.database)).expanduser().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, pool_size=KEPT_OPEN, max_overflow=50, connect_args={"timeout": BUSY_MS / 1000})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_checkin(_connection: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _on_checkout(connection: Any, record: Any, _proxy: Any) -> None:
    # As pool_pre_ping does, but not before every request.
    if time.monotonic() - record.info.get("used", time.monotonic()) < IDLE_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.OperationalError as error:
        raise DisconnectionError("the server closed this connection") from error


def _on_connect(connection: Any, _record: Any) -> None:
    # Transactions are begun below, not by the driver, which would begin them too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", f"busy_timeout={BUSY_MS}", "foreign_keys=ON", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute("PRAGMA cache_size=-65536")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def alembic_config() -> Config:
    """Where the migrations lie; the connection is handed over in ``attributes["connection"]``."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _migrate(engine: Engine) -> None:
    config = alembic_config()
    script = ScriptDirectory.from_config(config)
    newest = script.get_current_head()
    with engine.execution_options(writes=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            # Two servers that start at once migrate one after the other.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4702111)")
        current = MigrationContext.configure(connection).get_current_revision()
        if current == newest:
            return
        if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
            raise InputError(
                f"{engine.url.render_as_string(hide_password=True)}: was written by a newer humanward "
                f"(revision {current}); install that version"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _reason(error: DatabaseError) -> str:
    return str(error.orig or error).strip().splitlines()[0]
