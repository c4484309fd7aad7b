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


def test_an_interrupted_repetition_leaves_no_record_of_the_first(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path))
    out = tmp_path / "run"
    assert humanward("run", config, "--out", out).code == 0
    assert {"align", "evaluate"} <= set(finished(out))

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(INTERRUPTED_IN["align"], interrupt)
        assert humanward("align", "--run", out, "--again").code == 130
    assert not {"align", "evaluate"} & set(finished(out))
    assert humanward("run", config, "--out", out).code == 0


def test_two_runs_with_one_seed_are_bitwise_equal(tiny: Path, tmp_path: Path) -> None:
    """Every file that holds a result, but for seconds, dates and the folder's own name."""
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path, trained=True))
    for name in ("one", "two"):
        assert humanward("run", config, "--out", tmp_path / name).code == 0
    same = ["adapter/adapter_model.safetensors", "reward_model/adapter_model.safetensors", "evaluation.jsonl"]
    same += ["reward_model/score_head.safetensors", "prompts.jsonl", "completions.jsonl", "preferences.jsonl"]
    for name in same:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    metrics = [
        [
            {key: value for key, value in json.loads(line).items() if "seconds" not in key}
            for line in (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for name in ("one", "two")
    ]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) == 3  # one reward step, two of PPO
