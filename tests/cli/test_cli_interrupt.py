"""Ctrl-C at any stage: exit code 130, finished stages are kept, and the same command goes on after them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli import small
from cli.running import humanward, leftovers

STAGES = ["prompts", "sample", "feedback", "reward", "align", "evaluate"]
INTERRUPTED_IN = {
    "sample": "humanward.stages.sample.content_id",
    "feedback": "humanward.stages.feedback.derive_preferences",
    "reward": "humanward.stages.reward.measure",
    "align": "humanward.stages.on_policy.live_words",
    "evaluate": "humanward.stages.evaluate._one",
    "report": "humanward.stages.report.write_report",
}


def finished(out: Path) -> dict[str, Any]:
    return json.loads((out / "stages.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("stage", INTERRUPTED_IN)
def test_an_interrupted_stage_is_run_again_and_no_other(
    stage: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path, trained=True))
    out = tmp_path / "run"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(INTERRUPTED_IN[stage], interrupt)
        stopped = humanward("run", config, "--out", out)
    assert stopped.code == 130
    last = stopped.err.strip().splitlines()[-1]
    assert last.startswith("humanward: stopped after ")
    assert "the same command goes on from there" in last
    assert "Traceback" not in stopped.err
    assert leftovers(out) == []
    before = finished(out)
    assert list(before) == [name for name in STAGES if name in before]
    assert stage not in before
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.jsonl") if path.name != "metrics.jsonl"}

    resumed = humanward("run", config, "--out", out)
    assert resumed.code == 0, resumed.err
    again = [name for name in STAGES if f"{name}: finished before, not run again" in resumed.err]
    assert again == list(before)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {name: finished(out)[name] for name in before} == before
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row["ppo/step"] for row in logged if "ppo/step" in row]
    assert steps == sorted(set(steps)), "an interrupted attempt left its steps behind"
    assert len(steps) == small.SETTINGS["ppo"]["steps"]


def test_the_signal_itself(tiny: Path, tmp_path: Path) -> None:
    values = small.settings(tiny, tmp_path)
    values["ppo"]["steps"] = 2000
    config = small.write(tmp_path / "config.toml", values)
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", "from humanward.cli import main; main()", "run", str(config), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert printed == ""
    assert "finished stages are kept" in told
    assert "Traceback" not in told
    assert list(finished(out)) == ["prompts"]
    assert not (out / "adapter").exists()
    assert leftovers(out) == []


def test_a_finished_run_only_writes_its_report_again(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path))
    first = humanward("run", config, "--out", tmp_path / "run", "--json")
    second = humanward("run", config, "--out", tmp_path / "run", "--json")
    assert first.code == second.code == 0
    for report in (one := first.json(), two := second.json()):
        report["seconds"] = None
    assert one == two


def test_metrics_that_a_crash_cut_short_do_not_stop_a_resume(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path))
    assert humanward("run", config, "--out", tmp_path / "run", "--json").code == 0
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text(encoding="utf-8") + '{"ppo/step": 3, "ppo/sc', encoding="utf-8")
    assert humanward("report", "--run", tmp_path / "run", "--json").code == 0
    assert humanward("align", "--run", tmp_path / "run", "--again", "--json").code == 0
    assert leftovers(tmp_path / "run") == []


def test_a_stage_that_runs_again_makes_later_ones_run_again(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path))
    assert humanward("run", config, "--out", tmp_path / "run", "--json").code == 0
    assert humanward("align", "--run", tmp_path / "run").err.count("finished before") == 1
    assert humanward("align", "--run", tmp_path / "run", "--again").code == 0
    assert list(finished(tmp_path / "run")) == ["prompts", "align"]
    resumed = humanward("run", config, "--out", tmp_path / "run")
    assert resumed.code == 0
    assert "evaluate: finished before" not in resumed.err
