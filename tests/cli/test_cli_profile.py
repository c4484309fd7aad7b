"""``align --profile``: profile.json, the table, and the report's part."""

from __future__ import annotations

import json
from pathlib import Path

from cli import small
from cli.running import humanward

PHASES = ["sample", "policy", "reference", "reward", "learn", "learn: forward", "learn: backward", "learn: optimizer"]


def test_a_profile_adds_up_and_the_report_shows_it(tiny: Path, tmp_path: Path) -> None:
    values = small.settings(tiny, tmp_path)
    values["ppo"] |= {"steps": 3, "critic_warmup_steps": 0}
    config = small.write(tmp_path / "c.toml", values)
    run = tmp_path / "run"
    outcome = humanward("align", "--run", run, "--config", config, "--profile")
    assert "response tokens a second learnt" in outcome.out + outcome.err
    found = json.loads((run / "profile.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["phases"]] == PHASES
    assert [one["step"] for one in found["by_step"]] == [1, 3]
    outer = [one for one in found["phases"] if ":" not in one["name"]]
    assert abs(sum(one["share"] for one in outer) - 1) < 1e-6
    learn = next(one for one in outer if one["name"] == "learn")
    inner = [one for one in found["phases"] if ":" in one["name"]]
    assert 0 < sum(one["seconds"] for one in inner) <= learn["seconds"]
    assert all(one["peak_memory"] <= learn["peak_memory"] for one in inner)
    assert {"aten::mm", "aten::addmm"} & {one["name"] for one in found["operators"]}
    humanward("evaluate", "--run", run)
    humanward("report", "--run", run)
    assert "Where time and memory went" in (run / "report.html").read_text(encoding="utf-8")
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["profile"] == found
    humanward("align", "--run", run, "--again")
    assert not (run / "profile.json").exists()


def test_off_policy_algorithms_have_no_steps_to_profile(tiny: Path, tmp_path: Path) -> None:
    values = small.settings(tiny, tmp_path, trained=True)
    values |= {"algorithm": "dpo"}
    del values["ppo"]
    outcome = humanward(
        "align", "--run", tmp_path / "run", "--config", small.write(tmp_path / "c.toml", values), "--profile"
    )
    assert "--profile: times the steps of ppo" in outcome.refusal()
