"""humanward compare on the tiny models: what it makes, how it goes on, grows and refuses.

Every run is a process of its own, some seconds of which are spent on importing; so one comparison serves most tests,
and those that change it work on a copy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli import small
from cli.running import Outcome, humanward, leftovers

ALGORITHMS = ("ppo", "rloo")


def settings(tiny: Path, folder: Path) -> dict[str, Any]:
    values = small.settings(tiny, folder, trained=True)
    values["ppo"]["samples_per_prompt"] = 2
    values["best_of_n"] = {"samples": 2}
    return values


@pytest.fixture(scope="module")
def config(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    return small.write(folder / "config.toml", settings(tiny, folder))


@pytest.fixture(scope="module")
def made(config: Path) -> tuple[Path, Outcome]:
    """Two algorithms, two seeds."""
    out = config.parent / "made"
    return out, humanward(
        "compare", config, "--algorithms", ",".join(ALGORITHMS), "--seeds", 2, "--jobs", 2, "--out", out
    )


@pytest.fixture
def copied(made: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made[0], tmp_path / "compare"))


def content(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    return found


def stages(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "stages.json").read_text(encoding="utf-8"))
    return found


def forget(run: Path, *names: str) -> None:
    """Make stages of a run unfinished."""
    kept = {name: record for name, record in stages(run).items() if name not in names}
    (run / "stages.json").write_text(json.dumps(kept), encoding="utf-8")


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()]


# --- what it makes -----------------------------------------------------------------------------------------------


def test_every_algorithm_and_seed(made: tuple[Path, Outcome]) -> None:
    out, outcome = made
    assert outcome.code == 0, outcome.err
    found = content(out)
    assert list(found["algorithms"]) == ["ppo", "rloo"]
    assert found["seeds"] == [0, 1]
    assert [(run["algorithm"], run["seed"], run["state"]) for run in found["runs"]] == [
        ("ppo", 0, "finished"),
        ("ppo", 1, "finished"),
        ("rloo", 0, "finished"),
        ("rloo", 1, "finished"),
    ]
    for run in found["runs"]:
        assert run["costs"]["wall_seconds"] > run["costs"]["align_seconds"] > 0
        assert 0.1 < run["costs"]["peak_gigabytes"] < 4
        assert run["costs"]["episodes"] == 2 * 4  # ppo.steps * ppo.rollout_size
        assert run["costs"]["sequences"] == 2 * 4  # each once: ppo.epochs = 1
    assert found["frontier"]["split"] == "test"
    assert [point["n"] for point in found["frontier"]["points"]] == [1, 2]
    assert found["pairs"][0]["seeds"] == [0, 1]
    assert found["settings"]["ppo"]["ppo.samples_per_prompt"] == 2
    assert leftovers(out) == []


def test_the_mean_is_the_runs_mean(made: tuple[Path, Outcome]) -> None:
    found = content(made[0])
    for name in ALGORITHMS:
        texts = [row["after"]["toxicity"] for seed in (0, 1) for row in rows(made[0] / "runs" / f"{name}-seed{seed}")]
        assert found["algorithms"][name]["metrics"]["toxicity"]["value"] == pytest.approx(sum(texts) / len(texts))


def test_runs_differ_in_algorithm_and_seed_alone(made: tuple[Path, Outcome]) -> None:
    import tomllib

    first, other = (
        tomllib.loads((made[0] / "runs" / name / "config.toml").read_text(encoding="utf-8"))
        for name in ("ppo-seed0", "ppo-seed1")
    )
    assert {**first, "seed": 1} == other
    third = tomllib.loads((made[0] / "runs" / "rloo-seed0" / "config.toml").read_text(encoding="utf-8"))
    same = [key for key in first if key not in ("algorithm", "ppo")]
    assert [first[key] for key in same] == [third[key] for key in same]
    assert {key: third["ppo"][key] for key in third["ppo"] if key != "whiten_advantages"} == {
        key: first["ppo"][key] for key in third["ppo"] if key != "whiten_advantages"
    }


def test_runs_start_from_the_shared_stages(made: tuple[Path, Outcome]) -> None:
    out = made[0]
    shared = stages(out / "shared")
    assert list(shared) == ["prompts", "sample", "feedback", "reward"]
    for run in (*(out / "runs").iterdir(), out / "frontier"):
        assert {name: stages(run)[name] for name in shared} == shared
        for name in ("prompts.jsonl", "preferences.jsonl", "reward.json", "reward_model/score_head.safetensors"):
            assert (run / name).read_bytes() == (out / "shared" / name).read_bytes()
    # Files that grow are copies; the reward model, which is replaced as a whole, is not.
    run = out / "runs" / "ppo-seed0"
    assert not (run / "rankings.jsonl").samefile(out / "shared" / "rankings.jsonl")
    assert not (run / "metrics.jsonl").samefile(out / "shared" / "metrics.jsonl")


def test_runs_of_a_seed_have_the_same_answers_before(made: tuple[Path, Outcome]) -> None:
    before = {
        path.name: [(row["prompt_id"], row["before"]["text"]) for row in rows(path)]
        for path in (made[0] / "runs").iterdir()
    }
    assert before["ppo-seed0"] == before["rloo-seed0"]
    assert before["ppo-seed1"] == before["rloo-seed1"]
    assert before["ppo-seed0"] != before["ppo-seed1"]
    assert [prompt for prompt, _ in before["ppo-seed0"]] == [prompt for prompt, _ in before["ppo-seed1"]]


def test_each_run_is_a_run_directory(made: tuple[Path, Outcome]) -> None:
    run = made[0] / "runs" / "rloo-seed1"
    report = humanward("report", "--run", run, "--json").json()
    assert report["seed"] == 1
    assert report["reproduce"].startswith("humanward compare "), "its configuration alone does not hold the shared seed"
    answer = humanward("chat", run, "--prompt", "what is a?", "--json").json()
    assert set(answer) == {"prompt", "before", "after", "toxicity"}
    told = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert told["gold"]["simulated_annotators"] is True


def test_page_and_terminal(made: tuple[Path, Outcome]) -> None:
    out, outcome = made
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page
    lines = outcome.out.strip().splitlines()
    assert len(lines) <= 12
    assert [line.split()[0] for line in lines[1:5]] == ["seeds", "reference", "ppo", "rloo"]
    assert lines[-1].split() == ["report", str(out / "compare.html")]
    assert f"reproduce  humanward compare {out.parent / 'config.toml'} --algorithms ppo,rloo --seeds 2" in outcome.out


# --- how it goes on ----------------------------------------------------------------------------------------------


def test_what_has_finished_is_not_run_again(copied: Path, config: Path) -> None:
    files = [path for path in copied.rglob("*") if path.is_file() and path.parent != copied]
    before = {path: path.stat().st_mtime_ns for path in files}
    earlier = content(copied)
    again = humanward("compare", config, "--algorithms", "ppo,rloo", "--seeds", 2, "--out", copied, "--json").json()
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert {**again, "created_at": ""} == {**earlier, "created_at": ""}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_at_its_stage(copied: Path, config: Path) -> None:
    run = copied / "runs" / "ppo-seed1"
    forget(run, "evaluate", "report")
    (run / "evaluation.jsonl").unlink()
    adapter = (run / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    outcome = humanward("compare", config, "--algorithms", "ppo,rloo", "--seeds", 2, "--out", copied)
    assert outcome.code == 0, outcome.err
    assert "3 of 4 runs finished before, not run again" in outcome.err
    assert (run / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == adapter
    assert "align: finished before, not run again" in (copied / "logs" / "ppo-seed1.log").read_text(encoding="utf-8")
    attempts = json.loads((run / "attempts.json").read_text(encoding="utf-8"))
    assert [one["code"] for one in attempts] == [0, 0]
    own = next(one for one in content(copied)["runs"] if one["folder"] == "runs/ppo-seed1")
    assert own["costs"]["wall_seconds"] == pytest.approx(sum(one["seconds"] for one in attempts), abs=0.11)


@pytest.mark.slow
def test_it_grows_by_a_seed_and_by_an_algorithm(copied: Path, config: Path) -> None:
    kept = {run.name: stages(run) for run in (copied / "runs").iterdir()}
    assert humanward("compare", config, "--algorithms", "ppo", "--seeds", 3, "--out", copied).code == 0
    assert humanward("compare", config, "--algorithms", "dpo", "--seeds", 1, "--out", copied).code == 0
    assert {name: stages(copied / "runs" / name) for name in kept} == kept
    found = content(copied)
    counts = {name: len(one["seeds"]) for name, one in found["algorithms"].items()}
    assert counts == {"ppo": 3, "rloo": 2, "dpo": 1}
    assert found["algorithms"]["dpo"]["metrics"]["reward"] is not None, "measured by the shared reward model"
    assert found["algorithms"]["dpo"]["metrics"]["toxicity"]["ci95"] is None
    assert [(pair["first"], pair["second"], pair["seeds"]) for pair in found["pairs"]] == [
        ("ppo", "rloo", [0, 1]),
        ("ppo", "dpo", [0]),
        ("rloo", "dpo", [0]),
    ]
    assert "--algorithms ppo,rloo,dpo --seeds 3" in found["reproduce"]
    assert any("Only 1 seed" in warning for warning in found["warnings"])


@pytest.mark.slow
def test_a_failed_run_is_named_and_in_no_mean(copied: Path, config: Path) -> None:
    run = copied / "runs" / "rloo-seed0"
    forget(run, "evaluate", "report")
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    outcome = humanward("compare", config, "--algorithms", "ppo,rloo", "--seeds", 2, "--out", copied)
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    found = content(copied)
    own = next(one for one in found["runs"] if one["folder"] == "runs/rloo-seed0")
    assert own["state"] == "failed"
    assert own["error"]
    assert found["algorithms"]["rloo"]["failed"] == [0]
    assert found["algorithms"]["rloo"]["finished"] == 1
    assert found["pairs"][0]["seeds"] == [1]
    assert any("rloo seed 0 failed" in warning for warning in found["warnings"])
    assert "1 of 4 runs did not finish" in outcome.out
    assert re.search(r"^rloo +1 of 2 ", outcome.out, flags=re.MULTILINE)
    # Where the cause is gone, the same command mends it.
    shutil.rmtree(run)
    assert humanward("compare", config, "--algorithms", "ppo,rloo", "--seeds", 2, "--out", copied).code == 0


def started(config: Path, out: Path) -> subprocess.Popen[str]:
    """A comparison of one run, at the moment when that has begun."""
    command = ["compare", str(config), "--algorithms", "ppo", "--seeds", "1", "--out", str(out), "--set"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from humanward.cli import main; main()", *command, "best_of_n.prompts=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if (out / "logs" / "ppo-seed0.log").exists() and children(out / "runs"):
            break
        time.sleep(0.05)
    time.sleep(0.5)
    return process


def children(out: Path) -> list[int]:
    """Processes at work on a run below ``out``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"humanward.stages.compare_child" in command and any(str(out).encode() in part for part in command):
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopping_it_stops_its_runs(how: signal.Signals, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    process = started(config, out)
    try:
        process.send_signal(how)
        printed, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert printed == ""
    deadline = time.monotonic() + 60
    while children(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children(out) == []
    assert list(stages(out / "shared")) == ["prompts", "sample", "feedback", "reward"]
    assert leftovers(out) == []
    if how is signal.SIGKILL:
        return
    assert process.returncode == 130, told
    assert "finished stages are kept" in told
    assert "Traceback" not in told
    attempts = json.loads((out / "runs" / "ppo-seed0" / "attempts.json").read_text(encoding="utf-8"))
    assert [(one["code"], one["error"]) for one in attempts] == [(130, None)]
    finished = stages(out / "shared")
    more = ("--set", "best_of_n.prompts=0", "--json")
    resumed = humanward("compare", config, "--algorithms", "ppo", "--seeds", 1, "--out", out, *more).json()
    assert [run["state"] for run in resumed["runs"]] == ["finished"]
    assert resumed["frontier"] is None
    assert stages(out / "shared") == finished


@pytest.mark.slow
def test_a_classifier_as_reward(tiny: Path, tmp_path: Path) -> None:
    """No reward model is trained; the pairs of the off-policy run are made all the same."""
    values = settings(tiny, tmp_path)
    trained = small.settings(tiny, tmp_path)
    values["reward"] = trained["reward"]
    config = small.write(tmp_path / "config.toml", values)
    out = tmp_path / "compare"
    more = ("--set", "best_of_n.prompts=0", "--json", "--jobs", 2)
    found = humanward("compare", config, "--algorithms", "ppo,dpo", "--seeds", 1, "--out", out, *more).json()
    assert [run["state"] for run in found["runs"]] == ["finished", "finished"]
    assert list(stages(out / "shared")) == ["prompts", "sample", "feedback"]
    assert list(stages(out / "runs" / "ppo-seed0")) == ["prompts", "align", "evaluate", "report"]
    assert all(one["metrics"]["reward"] is not None for one in found["algorithms"].values())
    assert found["reward"] == str(tiny / "roberta")


# --- what it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--algorithms", "ppo,pop"), "'pop' is unknown"),
        (("--algorithms", ""), "use all, or some of"),
        (("--algorithms", "ppo,dpo,ppo"), "ppo appears twice"),
        (("--seeds", 0), "--seeds"),
        (("--seeds", "many"), "--seeds"),
        (("--jobs", 0), "--jobs"),
        (("--set", "ppo.stepz=1"), "did you mean steps?"),
        (("--set", "offline.beta=0.2"), "none of ppo, rloo uses it; dpo"),
        (("--set", "algorithms.rloo.ppo.gae_lambda=0.9"), "rloo does not use it; it uses"),
        (("--set", "algorithms.rloo.model.policy=demo/policy"), "start from the same model"),
        (("--set", "algorithms.roo.ppo.steps=3"), "algorithms.roo: is no algorithm"),
        (("--set", "algorithms=3"), "[algorithms.rloo.ppo]"),
        (("--set", "algorithms.rloo=3"), "[algorithms.rloo.ppo]"),
        (("--set", "best_of_n=3"), "is a section, not a value"),
        (("--set", "seed=-1"), "seed"),
        (("--set", "model.policy=./nowhere"), "./nowhere"),
    ],
)
def test_bad_input(arguments: tuple[object, ...], words: str, config: Path, tmp_path: Path) -> None:
    given = ("--algorithms", "ppo,rloo") if "--algorithms" not in arguments else ()
    line = humanward("compare", config, "--out", tmp_path / "compare", *given, *arguments, "--json").refusal()
    assert words in line
    assert not (tmp_path / "compare").exists()


def test_another_configuration_is_refused(made: tuple[Path, Outcome], config: Path) -> None:
    out = made[0]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for one, words in (
        ("sampling.max_new_tokens=5", "sampling.max_new_tokens is 6 in shared and 5 here"),
        ("ppo.kl_coef=0.5", "ppo.kl_coef is 0.05 in ppo-seed0 and 0.5 here and"),
    ):
        line = humanward("compare", config, "--algorithms", "ppo,rloo", "--out", out, "--set", one).refusal()
        assert "belongs to a comparison with another configuration" in line
        assert words.removesuffix(" and") in line
        assert "choose another folder with --out" in line
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_run_of_other_shared_stages_is_refused(copied: Path, config: Path) -> None:
    record = stages(copied / "shared")
    record["reward"]["finished"] = "2020-01-01T00:00:00+00:00"
    (copied / "shared" / "stages.json").write_text(json.dumps(record), encoding="utf-8")
    line = humanward("compare", config, "--algorithms", "ppo", "--seeds", 1, "--out", copied, "--json").refusal()
    assert "ppo-seed0: started from another reward stage" in line


def test_folders_of_something_else_are_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("seed = 0\n", encoding="utf-8")
    for name, words in (
        ("file", "is a file, not a folder"),
        ("notes", "holds other files, not a comparison"),
        ("run", "is a run directory, not a comparison"),
    ):
        assert words in humanward("compare", config, "--out", tmp_path / name).refusal()
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["thesis.txt"]


def test_two_at_once_are_refused(made: tuple[Path, Outcome], config: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (made[0] / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = humanward("compare", config, "--algorithms", "ppo,rloo", "--seeds", 2, "--out", made[0]).refusal()
    assert "another comparison is at work here" in line


# --- the plan ----------------------------------------------------------------------------------------------------


def test_tables_of_the_file_name_the_algorithms_and_what_differs(tiny: Path, tmp_path: Path) -> None:
    from humanward.stages.compare_plan import read_plan

    values = settings(tiny, tmp_path)
    values["algorithms"] = {"rloo": {"ppo": {"kl_coef": 0.4}}, "dpo": {"offline": {"beta": 0.3}}, "ppo": {}}
    plan = read_plan(small.write(tmp_path / "config.toml", values), None, 2, ())
    assert plan.algorithms == ("rloo", "dpo", "ppo")
    assert plan.config("rloo", 1).ppo.kl_coef == 0.4
    assert plan.config("ppo", 1).ppo.kl_coef == 0.05
    assert plan.config("dpo", 1).offline.beta == 0.3
    assert [plan.config(name, 1).ppo.steps for name in ("rloo", "ppo")] == [2, 2]
    assert plan.config("rloo", 1).best_of_n.prompts == 0
    assert plan.asked[:3] == (("rloo", 0), ("dpo", 0), ("ppo", 0))


def test_the_default_is_the_quickstart_by_algorithm() -> None:
    from humanward.algorithm_config import ON_POLICY
    from humanward.config import parse_config
    from humanward.stages.compare_plan import read_plan
    from humanward.stages.quickstart import quickstart_values

    plan = read_plan(None, "all", 1, ())
    for name in plan.algorithms:
        alone = parse_config(quickstart_values(name, "trained", rank_yourself=False, seed=0))
        none = {"best_of_n": alone.best_of_n.model_copy(update={"prompts": 0})}
        frontier = none if name in ON_POLICY else {}
        assert plan.config(name, 0).to_toml() == alone.model_copy(update=frontier).to_toml()


def test_the_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    from humanward.stages.compare_plan import read_plan

    plan = read_plan(None, "all", 2, ("ppo.steps=7", "algorithms.rloo.ppo.kl_coef=0.1", "evaluation.prompts=20"))
    (tmp_path / "compare.toml").write_text(plan.to_toml(), encoding="utf-8")
    again = read_plan(tmp_path / "compare.toml", None, 2, ())
    assert again.algorithms == plan.algorithms
    assert again.shared().to_toml() == plan.shared().to_toml()
    for name in plan.algorithms:
        assert again.config(name, 1).to_toml() == plan.config(name, 1).to_toml()
    assert plan.config("rloo", 0).ppo.kl_coef == 0.1
    assert plan.config("grpo", 0).ppo.steps == 7
