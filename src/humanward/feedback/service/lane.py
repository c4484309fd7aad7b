"""Labelling's own few threads: its requests are many and short, and never wait behind an import or a report.

Python runs one thread at a time. With many of them each database round trip ends in a queue for the interpreter, and a
request costs twice the processor time (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Callable

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from pydantic import BaseModel

from humanward.feedback.service.auth import signed_in, store_of
from humanward.feedback.store.audit import Actor
from humanward.feedback.store.session import Store

THREADS = 4


async def in_lane(request: Request, work: Callable[[Store, Actor], BaseModel]) -> Response:
    """The reply of ``work`` for whoever asks, as JSON; authenticated, worked on and written in one thread."""
    state = request.app.state
    if not hasattr(state, "lane"):
        state.lane = CapacityLimiter(THREADS)

    def run() -> bytes:
        return work(store_of(request), signed_in(request)).model_dump_json().encode()

    content = await to_thread.run_sync(run, limiter=state.lane)
    return Response(content, media_type="application/json")
