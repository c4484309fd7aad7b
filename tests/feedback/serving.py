"""A labelling service as a process of its own: for tests and benchmarks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(url: str, port: int) -> subprocess.Popen[bytes]:
    """The bare service on a database; ``wait_for`` it before the first request."""
    command = [sys.executable, "-m", "humanward.feedback.service", url, str(port)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(port: int, server: subprocess.Popen[bytes] | subprocess.Popen[str], seconds: float = 60) -> None:
    """Return once it answers; raises OSError when it has ended, or does not answer in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline or server.poll() is not None:
                raise
            time.sleep(0.1)
