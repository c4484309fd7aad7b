"""A real PostgreSQL server in a temporary folder: for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg


def binaries() -> Path | None:
    """The folder of initdb and postgres, the newest Debian package's or the one on the path; None without any."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def server(*, durable: bool = False) -> Iterator[str]:
    """The URL of a server's database ``postgres``; its folder is removed at the end. initdb refuses root, so the server
    then runs as the package's user postgres.
    """
    folder = binaries()
    assert folder is not None
    data = Path(tempfile.mkdtemp(prefix="humanward-pg-", dir="/tmp"))
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
        owner = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": data, **owner}
    try:
        initdb = [folder / "initdb", "-D", data / "db", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]
        subprocess.run([*initdb, "--locale=C.UTF-8"], check=True, **quiet)
        options = ["-c", "max_connections=200", "-c", f"unix_socket_directories={data}"]
        if not durable:
            options += ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
        command = [folder / "postgres", "-D", data / "db", "-p", str(port), "-h", "127.0.0.1", *options]
        process = subprocess.Popen(command, **quiet)
        try:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            _wait(url, process)
            yield url
        finally:
            # SIGINT ends sessions that are still open; SIGTERM would wait for them.
            process.send_signal(signal.SIGINT)
            process.wait(30)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.05)
