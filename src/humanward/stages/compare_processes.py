"""The processes of a comparison: started, looked at, stopped, with seconds and peak memory of each alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanward.stages.compare_child import Task

PATIENCE = 60.0  # seconds that a child has to stop by itself
GRACE = 3.0  # seconds after which an attended child, which the terminal's Ctrl-C should have reached, is told
STOPPED = 130  # what a child that was stopped ends with
LOOK = 0.3  # seconds between looks at the children


@dataclass
class Child:
    """A process at work on a task, since ``started`` (monotonic seconds)."""

    task: Task
    process: subprocess.Popen[bytes]
    started: float


@dataclass(frozen=True)
class Ended:
    """How a child ended. ``error`` is None when it finished (code 0) or was stopped (130); ``wrong_input`` says that it
    is an InputError's line. ``facts``: what the child itself recorded."""

    code: int
    error: str | None
    wrong_input: bool
    seconds: float
    peak_gigabytes: float | None
    facts: dict[str, Any]


def start(task: Task, log: Path | None, environment: dict[str, str]) -> Child:
    """Start a child that tells people in ``log``, or here.

    One that is not attended has a session of its own, so Ctrl-C reaches it through the end of its input alone: once.
    """
    with ExitStack() as stack:
        errors = None if log is None else stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            task.command(),
            stdin=None if task.attended else subprocess.PIPE,
            stdout=None if task.attended else subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=not task.attended,
        )
    return Child(task, process, time.monotonic())


def look(child: Child) -> Ended | None:
    """How the child ended, or None while it is at work.

    Its peak memory is what it recorded; of one that was killed, nothing is known.
    """
    process = child.process
    if process.poll() is None:
        return None
    if process.stdin is not None:
        process.stdin.close()
    # Python ends itself by the signal where an interruption meets it outside of any handler, as while it shuts down.
    code = STOPPED if process.returncode == -signal.SIGINT else process.returncode
    file = Path(child.task.facts)
    facts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    error, wrong_input = facts.pop("error", None), bool(facts.pop("input", False))
    if error is None and code not in (0, STOPPED):
        by = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"code {code}"
        error = f"its process was ended by {by}" + (", as happens when memory runs out" if code == -9 else "")
    return Ended(code, error, wrong_input, time.monotonic() - child.started, facts.pop("peak_gigabytes", None), facts)


def wait(child: Child) -> Ended:
    """How the child ended, once it has; it is stopped when waiting is."""
    try:
        while (ended := look(child)) is None:
            time.sleep(LOOK)
    except BaseException:
        stop([child])
        raise
    return ended


def stop(children: Sequence[Child]) -> None:
    """Let children stop where they are and tidy up; kill those that do not."""
    for child in children:
        if child.process.stdin is not None:
            child.process.stdin.close()
    began = time.monotonic()
    for child in children:
        asked = not child.task.attended
        while child.process.poll() is None:
            waited = time.monotonic() - began
            if waited > GRACE and not asked:
                child.process.send_signal(signal.SIGINT)
                asked = True
            if waited > PATIENCE:
                child.process.kill()
            time.sleep(0.05)
