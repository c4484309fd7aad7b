"""A whole run on what people rank in the labelling service: it stops to ask, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from cli import small
from cli.running import humanward

PROMPTS = 6


@contextmanager
def service(run: Path) -> Iterator[dict[str, Any]]:
    """``humanward collect`` on the run: its facts, with the link that signs in."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    start = [sys.executable, "-c", "from humanward.cli import main; main()"]
    command = [*start, "collect", "--run", str(run), "--port", port, "--no-open", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        for _ in range(300):
            try:
                httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        yield facts
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def rank(link: str, *, most: int = 10**9) -> list[str]:
    """Rank what is left by the shorter answer first, through the API; returns the client ids that were confirmed."""
    base, token = link.split("/enter#")
    confirmed = []
    with httpx2.Client(base_url=f"{base}/api/v1", timeout=60) as client:
        session = client.post("/session/enter", json={"token": token}).json()
        client.headers["x-csrf-token"] = session["csrf_token"]
        project = session["projects"][0]["id"]
        while len(confirmed) < most:
            task = client.post(f"/projects/{project}/claim").json()["task"]
            if task is None:
                break
            shown = sorted(task["answers"], key=lambda answer: len(answer["text"]))
            name = f"client-{len(confirmed)}-{os.getpid()}"
            body = {"client_id": name, "judgements": {"overall": {"tiers": [[a["label"]] for a in shown]}}}
            reply = client.post(f"/tasks/{task['task_id']}/submit", json=body)
            assert reply.status_code == 200, reply.text
            confirmed.append(name)
    return confirmed


def test_a_run_waits_for_people_and_trains_on_what_they_said(tiny: Path, tmp_path: Path) -> None:
    values = small.settings(tiny, tmp_path, trained=True)
    values["feedback"] = {"source": "collect", "completions_per_prompt": 3, "prompts": PROMPTS}
    config = small.write(tmp_path / "config.toml", values)
    run = tmp_path / "run"
    refusal = humanward("run", config, "--out", run).refusal(after_work=True)
    assert f"rank with `humanward collect --run {run}`" in refusal
    with service(run) as facts:
        # Asked again while nothing is ranked, it says so and has not sampled anew.
        before = (run / "completions.jsonl").read_bytes()
        refusal = humanward("run", config, "--out", run).refusal(after_work=True)
        assert "nothing was ranked" in refusal
        assert (run / "completions.jsonl").read_bytes() == before
        assert len(rank(facts["link"])) == PROMPTS
    done = humanward("run", config, "--out", run)
    assert done.code == 0, done.err
    stages = json.loads((run / "stages.json").read_text())
    feedback = stages["feedback"]
    assert (feedback["source"], feedback["simulated"], feedback["annotators"]) == ("collect", False, 1)
    preferences = [json.loads(line) for line in (run / "preferences.jsonl").read_text().splitlines()]
    # Three answers give three pairs; answers with the same text give none.
    assert 0 < len(preferences) <= 3 * PROMPTS
    assert all(len(p["chosen"]) <= len(p["rejected"]) for p in preferences)
    assert not any(p["simulated"] or p["tie"] for p in preferences)
    for made in ("reward_model", "adapter", "report.html"):
        assert (run / made).exists(), made
    assert {"reward", "align", "evaluate", "report"} <= set(stages)
