"""The labelling service under load: annotators over HTTP, a large import, and kill -9 in the middle.

    python benchmarks/collect_load.py --json [--annotators 50] [--seconds 120] [--completions 1000000]

Each annotator claims, waits half a second, submits and starts over, through a real server on this machine. Measured are
SQLite in a temporary folder and, where its binaries are installed, a PostgreSQL server of its own. One JSON object on
standard output; docs/results.md says what the numbers were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import func, select

from humanward.feedback.store import claiming, people, projects, tasks
from humanward.feedback.store.audit import TERMINAL, Actor
from humanward.feedback.store.loading import load_files
from humanward.feedback.store.models import Assignment, Membership, Project, RankingRow, Submission, Task
from humanward.feedback.store.session import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "feedback"))
sys.path.insert(0, str(Path(__file__).parent))

import machine
import postgres
import serving

LETTERS = "ABCD"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--completions", type=int, default=1_000_000, help="imported before the load; 0: none")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--no-kill", action="store_true", help="leave out the part with kill -9")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    result: dict[str, Any] = {**machine.describe_machine(), "load_average": os.getloadavg()[0], "databases": {}}
    for kind in ("sqlite", "postgresql"):
        if chosen.only in (None, kind):
            result["databases"][kind] = measure(kind, chosen)
    print(json.dumps(result, indent=None if chosen.json else 2))


def measure(kind: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """All parts on one kind of database."""
    if kind == "postgresql" and postgres.binaries() is None:
        return {"not_run": "PostgreSQL is not installed"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder}/load.db" if kind == "sqlite" else stack.enter_context(postgres.server(durable=True))
        store = Store(url)
        stack.callback(store.close)
        found: dict[str, Any] = {}
        project = projects.create_project(
            store, TERMINAL, "load", projects.ProjectSettings(overlap=chosen.overlap, gold_share=0.0)
        )
        if chosen.completions:
            found["import"] = large_import(store, project, folder, chosen.completions)
        small = small_project(store, folder, chosen)
        found["load"] = under_load(store, url, small, chosen, kill_after=None)
        if not chosen.no_kill:
            found["kill"] = under_load(store, url, small, chosen, kill_after=min(15.0, chosen.seconds / 2))
        return found


def write_items(path: Path, completions: int, name: str) -> None:
    """Prompts with four answers each, in our own format, of about the length that people write."""
    filler = "The quick brown fox jumps over the lazy dog and thinks about what it has just done. " * 3
    with path.open("w", encoding="utf-8") as file:
        for i in range(completions // 4):
            prompt = {"id": f"{name}{i}", "text": f"Question {i}: what happened, and why?"}
            file.write(json.dumps({"prompt": prompt}) + "\n")
            for k in range(4):
                row = {"id": f"{name}{i}-{k}", "prompt_id": f"{name}{i}", "text": f"{k} {i} {filler}", "model": f"m{k}"}
                file.write(json.dumps({"completion": row}) + "\n")


def large_import(store: Store, project: Project, folder: Path, completions: int) -> dict[str, Any]:
    """Seconds, peak memory before and after, and how long the next task takes to find."""
    write_items(folder / "large.jsonl", completions, "p")
    before = _peak_mib()
    started, busy = time.perf_counter(), _all_cpu_seconds(os.getpid())
    loaded = load_files(store, TERMINAL, project.id, [folder / "large.jsonl"], "humanward")
    seconds, then = time.perf_counter() - started, _all_cpu_seconds(os.getpid())
    someone = annotator(store, project, "searcher")
    times = []
    cpu = time.process_time()
    for _ in range(50):
        # The session is closed without a commit, so each finds and reserves the same task.
        with store.read() as db:
            begun = time.perf_counter()
            task = claiming.take_next(db, project.id, tasks.person(someone))
            times.append(time.perf_counter() - begun)
        assert task is not None
    cpu = time.process_time() - cpu
    own = tasks.claim(store, someone, project.id)
    assert own is not None
    return {
        "completions": loaded.added.completions,
        "tasks": loaded.added.tasks,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(then["server"] - busy["server"], 1),
        "database_cpu_seconds": round(then["database"] - busy["database"], 1),
        "load_average_after": round(os.getloadavg()[0], 2),
        "peak_mib_before": round(before),
        "peak_mib_after": round(_peak_mib()),
        "next_task_ms": _quantiles(times),
        "next_task_cpu_ms": round(cpu * 1000 / 50, 2),
    }


def small_project(store: Store, folder: Path, chosen: argparse.Namespace) -> Project:
    """Enough tasks that nobody runs out, for the load."""
    project = projects.create_project(
        store, TERMINAL, "people", projects.ProjectSettings(overlap=chosen.overlap, gold_share=0.0)
    )
    enough = int(chosen.annotators * chosen.seconds * 2 / 0.5 / chosen.overlap) + 1000
    write_items(folder / "small.jsonl", 4 * enough, "q")
    load_files(store, TERMINAL, project.id, [folder / "small.jsonl"], "humanward")
    return project


def annotator(store: Store, project: Project, name: str) -> Actor:
    """Somebody with the role annotator."""
    user = people.add_user(store, name)
    with store.write() as db:
        db.add(Membership(user_id=user.id, project_id=project.id, role="annotator", created_at=store.now()))
    return Actor(user.id, name, False, "session")


def under_load(
    store: Store, url: str, project: Project, chosen: argparse.Namespace, *, kill_after: float | None
) -> dict[str, Any]:
    """Latencies and counts; with ``kill_after`` the server is killed then, started again, and the load goes on."""
    tag = secrets.token_hex(3)
    keys = []
    for number in range(chosen.annotators):
        someone = annotator(store, project, f"annotator-{tag}-{number}")
        keys.append(people.create_token(store, someone, "load")[1])
    port = serving.free_port()
    server = serving.start(url, port)
    state = _Load(port, project.id, chosen.seconds if kill_after is None else 2 * kill_after)
    load_before = os.getloadavg()[0]
    try:
        serving.wait_for(port, server)
        before = _all_cpu_seconds(server.pid)
        if kill_after is None:
            asyncio.run(state.run(keys))
        else:
            restarted: list[subprocess.Popen[bytes]] = []

            def kill() -> None:
                server.send_signal(signal.SIGKILL)
                server.wait()
                restarted.append(serving.start(url, port))

            asyncio.run(state.run(keys, at=kill_after, act=kill))
            server = restarted[0]
        busy = _all_cpu_seconds(server.pid)
    finally:
        server.terminate()
        server.wait(20)
    requests = max(1, len(state.claims) + len(state.submits))
    # What a request costs, whatever else the machine does; after a kill that of the second server alone is known.
    cost = {f"{who}_cpu_ms_per_request": round((busy[who] - before[who]) * 1000 / requests, 2) for who in busy}
    loads = {"load_average_before": round(load_before, 2), "load_average_after": round(os.getloadavg()[0], 2)}
    return state.report() | (cost if kill_after is None else {}) | loads | audit(store, project, state)


class Wire:
    """One annotator's connection: HTTP/1.1, kept alive. Written out, as a client library would take as much of the two
    cores as the server.
    """

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.head = f"host: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> tuple[int, bytes]:
        """Status and content; raises OSError, EOFError or TimeoutError (after 30 s) without an answer."""
        async with asyncio.timeout(30):
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.streams
            sent = b"" if body is None else json.dumps(body).encode()
            writer.write(f"POST {path} HTTP/1.1\r\n{self.head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            return int(lines[0].split()[1]), await reader.readexactly(length)

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


class _Load:
    """The annotators, and what they saw."""

    def __init__(self, port: int, project_id: int, seconds: float) -> None:
        self.port, self.project_id, self.seconds = port, project_id, seconds
        self.claims: list[float] = []
        self.submits: list[float] = []
        self.confirmed: dict[str, int] = {}
        self.errors: list[str] = []
        self.refused = 0

    async def run(self, keys: list[str], at: float | None = None, act: Any = None) -> None:
        end = time.monotonic() + self.seconds
        work = [asyncio.create_task(self._annotate(Wire(self.port, key), end, tolerant=at is not None)) for key in keys]
        if at is not None:
            await asyncio.sleep(at)
            await asyncio.to_thread(act)
        await asyncio.gather(*work)

    async def _annotate(self, wire: Wire, end: float, *, tolerant: bool) -> None:
        await asyncio.sleep(secrets.randbelow(500) / 1000)
        while time.monotonic() < end:
            reply = await self._post(wire, f"/projects/{self.project_id}/claim", None, self.claims, tolerant)
            task = reply and reply["task"]
            if task is None:
                await asyncio.sleep(0.5)
                continue
            await asyncio.sleep(0.5)
            order = sorted(LETTERS, key=lambda _: secrets.randbelow(1000))
            body = {
                "client_id": secrets.token_hex(8),
                "judgements": {"overall": {"tiers": [[letter] for letter in order]}},
                "seconds_spent": 0.5,
            }
            # An annotator whose request got no answer sends it again, as the page does.
            while time.monotonic() < end + 20:
                sent = await self._post(wire, f"/tasks/{task['task_id']}/submit", body, self.submits, tolerant)
                if sent is not None:
                    self.confirmed[body["client_id"]] = sent["submission_id"]
                    break
                await asyncio.sleep(0.5)
        wire.close()

    async def _post(
        self, wire: Wire, path: str, body: Any, times: list[float], tolerant: bool
    ) -> dict[str, Any] | None:
        begun = time.perf_counter()
        try:
            status, content = await wire.post(f"/api/v1{path}", body)
        except (OSError, EOFError, TimeoutError) as error:
            wire.close()
            self.refused += 1
            if not tolerant:
                self.errors.append(f"{path}: {type(error).__name__}")
            return None
        times.append(time.perf_counter() - begun)
        if status != 200:
            self.errors.append(f"{path}: {status} {content[:200]!r}")
            return None
        found: dict[str, Any] = json.loads(content)
        return found

    def report(self) -> dict[str, Any]:
        """Latencies in milliseconds, throughput, errors."""
        return {
            "seconds": self.seconds,
            "claim_ms": _quantiles(self.claims),
            "submit_ms": _quantiles(self.submits),
            "submits_per_second": round(len(self.submits) / self.seconds, 1),
            "unanswered": self.refused,
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
        }


def audit(store: Store, project: Project, state: _Load) -> dict[str, Any]:
    """What is in the store against what was confirmed: nothing lost, nothing doubled, no quota overshot."""
    with store.read() as db:
        found = select(Submission.client_id, Submission.id).where(Submission.project_id == project.id)
        kept = {row.client_id: row.id for row in db.execute(found)}
        rankings = (
            select(Submission.id)
            .outerjoin(RankingRow, RankingRow.submission_id == Submission.id)
            .where(Submission.project_id == project.id)
            .group_by(Submission.id)
            .having(func.count(RankingRow.seq) != 1)
            .subquery()
        )
        leases = (
            select(Assignment.task_id, func.count().label("n"))
            .where(Assignment.project_id == project.id, Assignment.state.in_(("leased", "submitted")))
            .group_by(Assignment.task_id)
            .subquery()
        )
        held = select(func.count()).select_from(Task).join(leases, leases.c.task_id == Task.id)
        return {
            "confirmed": len(state.confirmed),
            "lost": sum(kept.get(client_id) != number for client_id, number in state.confirmed.items()),
            "without_exactly_one_ranking": db.scalar(select(func.count()).select_from(rankings)),
            "tasks_with_all_opinions": db.scalar(
                select(func.count()).where(Task.project_id == project.id, Task.opinions == Task.quota)
            ),
            "tasks_over_quota": db.scalar(held.where(leases.c.n > Task.quota)),
            "tasks_miscounted": db.scalar(held.where(leases.c.n != Task.reserved)),
        }


def _all_cpu_seconds(server: int) -> dict[str, float]:
    """Of our server, of this process (the annotators) and of PostgreSQL."""
    database = 0.0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "comm").read_text(encoding="utf-8").strip() == "postgres":
                database += _cpu_seconds(int(folder.name))
        except OSError:
            continue  # It has ended.
    return {"server": _cpu_seconds(server), "annotators": time.process_time(), "database": database}


def _cpu_seconds(process: int) -> float:
    """Of a Linux process, its start included."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _quantiles(times: list[float]) -> dict[str, float]:
    if not times:
        return {}
    low, high, worst = (float(x) * 1000 for x in np.quantile(times, (0.5, 0.95, 1.0)))
    return {"n": len(times), "median": round(low, 1), "p95": round(high, 1), "max": round(worst, 1)}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
