"""The on-policy family by its names, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli import small
from cli.running import humanward, leftovers

FAMILY = ("rloo", "grpo", "reinforce++")


@pytest.mark.parametrize("algorithm", FAMILY)
def test_the_loop_by_another_algorithm(tiny: Path, tmp_path: Path, algorithm: str) -> None:
    values = small.settings(tiny, tmp_path)
    del values["ppo"]["critic_warmup_steps"]
    config = small.write(tmp_path / "config.toml", values)
    run = tmp_path / "run"
    report = humanward("run", config, "--out", run, "--algorithm", algorithm, "--json").json()
    assert algorithm.upper() in report["title"]
    assert report["kl"]["at_start"] == 0
    assert f"--set algorithm={algorithm}" in report["reproduce"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "ppo/score_mean" in rows[0]
    assert "ppo/value_loss" not in rows[0]
    assert json.loads((run / "stages.json").read_text())["align"]["algorithm"] == algorithm
    assert leftovers(run) == []


def test_align_takes_another_algorithm_on_a_run_that_has_begun(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path))
    assert humanward("align", "--run", run, "--config", config).code == 0
    refused = humanward("align", "--run", run, "--algorithm", "rloo")
    assert refused.code == 2
    assert "--again replaces that by rloo" in refused.err
    changed = humanward("align", "--run", run, "--algorithm", "rloo", "--again", "--json")
    assert changed.json()["algorithm"] == "rloo"
    assert 'algorithm = "rloo"' in (run / "config.toml").read_text()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("align", "--run", "RUN", "--config", "CONFIG", "--algorithm", "trpo"), "'ppo', 'rloo', 'grpo'"),
        (("run", "CONFIG", "--out", "RUN", "--algorithm", "rloo"), "ppo.critic_warmup_steps = 0: rloo does not use it"),
        (("quickstart", "--out", "RUN", "--algorithm", "trpo"), "--algorithm trpo: unknown; use one of ppo, rloo"),
        (("align", "--run", "RUN", "--algorithm", "rloo"), "not a run directory"),
    ],
)
def test_bad_algorithms_get_one_line_and_leave_nothing(
    tiny: Path, tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path))
    run = tmp_path / "run"
    outcome = humanward(*[{"RUN": run, "CONFIG": config}.get(part, part) for part in command])
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not run.exists()
