"""Looking again and again, with growing pauses, until something has ended or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

State = TypeVar("State")

FIRST_PAUSE = 5.0
GROWTH = 1.6
LONGEST_PAUSE = 120.0


def poll(
    look: Callable[[], State],
    ended: Callable[[State], bool],
    seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> State:
    """The last state seen: one that has ended, or whatever it is after ``seconds``. Looks once if ``seconds`` is 0.

    The pauses are 5, 8, 12.8, ... up to 120 seconds, the last cut to what is left of the time.
    """
    deadline = clock() + seconds
    pause = FIRST_PAUSE
    while True:
        state = look()
        left = deadline - clock()
        if ended(state) or left <= 0:
            return state
        sleep(min(pause, left))
        pause = min(pause * GROWTH, LONGEST_PAUSE)
