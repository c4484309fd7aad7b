"""How often somebody tried to sign in: counted in the store, so for all servers on it and over restarts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from humanward.feedback.store.models import Attempt
from humanward.feedback.store.people import digest
from humanward.feedback.store.session import Store

MOST_FORGOTTEN = 1000
"""Old keys that one attempt clears away at most."""


def wait_for(store: Store, keys: tuple[str, ...], *, limit: int, window: float) -> float:
    """Count an attempt by all keys; seconds to wait, 0 while none has had ``limit`` in ``window`` seconds."""
    now = store.now()
    seconds = now.timestamp()
    hashed = sorted(digest(key) for key in keys)
    insert: Any = sqlite.insert if store.sqlite else postgresql.insert
    with store.write() as db:
        # Rows are made before they are locked, and locked in order: attempts that come at once wait for one another.
        rows = [{"key": key, "times": [], "last": now} for key in hashed]
        db.execute(insert(Attempt).values(rows).on_conflict_do_nothing(index_elements=["key"]))
        found = db.scalars(select(Attempt).where(Attempt.key.in_(hashed)).order_by(Attempt.key).with_for_update()).all()
        waits = [0.0]
        for row in found:
            row.times = [time for time in row.times if time > seconds - window]
            if len(row.times) >= limit:
                waits.append(row.times[0] + window - seconds)
        if max(waits) <= 0:
            for row in found:
                row.times, row.last = [*row.times, seconds], now
        _clear(db, hashed, now - timedelta(seconds=window))
        return max(waits)


def forget(store: Store, keys: tuple[str, ...]) -> None:
    """After a success."""
    with store.write() as db:
        for key in sorted(digest(key) for key in keys):
            db.execute(delete(Attempt).where(Attempt.key == key))


def _clear(db: Session, own: list[str], before: Any) -> None:
    old = (
        select(Attempt.key)
        .where(Attempt.last < before, Attempt.key.not_in(own))
        .order_by(Attempt.key)
        .limit(MOST_FORGOTTEN)
        .with_for_update(skip_locked=True)
    )
    if gone := db.scalars(old).all():
        db.execute(delete(Attempt).where(Attempt.key.in_(gone)))
