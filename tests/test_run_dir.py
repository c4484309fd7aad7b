"""Run directories: one configuration each, and all-or-nothing writes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from humanward.config import RunConfig, parse_config
from humanward.errors import InputError
from humanward.records import Completion, read_jsonl, write_jsonl
from humanward.run_dir import RunDir, change_algorithm, leaving_nothing_half_begun, new_folder, open_run, write_text


def test_a_run_keeps_its_resolved_configuration(tmp_path: Path) -> None:
    config = parse_config({"seed": 7, "ppo": {"steps": 5}})
    open_run(tmp_path / "run", config)
    assert open_run(tmp_path / "run", None).config == config
    assert open_run(tmp_path / "run", config).config == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ppo": {"steps": 9}}, "(ppo.steps is 5 there and 9 here)"),
        ({"seed": 1, "ppo": {"steps": 9}}, "(ppo.steps is 5 there and 9 here and 1 more)"),
        ({"ppo": {"steps": 5, "score_clip": 1.0}}, "(ppo.score_clip is None there and 1.0 here)"),
    ],
)
def test_a_run_of_another_configuration_is_refused_with_the_key(tmp_path: Path, values: dict, words: str) -> None:
    open_run(tmp_path / "run", parse_config({"ppo": {"steps": 5}})).finish("sample", 1.0)
    before = (tmp_path / "run" / "config.toml").read_text()
    with pytest.raises(InputError) as caught:
        open_run(tmp_path / "run", parse_config(values))
    assert words in str(caught.value)
    assert "choose another folder with --out, or delete it" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / "config.toml").read_text() == before


def test_a_run_that_never_began_may_change_its_configuration(tmp_path: Path) -> None:
    open_run(tmp_path / "run", parse_config({"ppo": {"steps": 5}}))
    changed = parse_config({"ppo": {"steps": 9}})
    open_run(tmp_path / "run", changed)
    assert open_run(tmp_path / "run", None).config == changed


def test_bad_input_takes_a_run_that_never_began_away_and_leaves_others(tmp_path: Path) -> None:
    def fail(run: RunDir, error: Exception) -> None:
        with leaving_nothing_half_begun(run):
            raise error

    run = open_run(tmp_path / "run", RunConfig())
    with pytest.raises(RuntimeError):
        fail(run, RuntimeError("a bug"))
    assert listing(tmp_path / "run") == ["config.toml"]
    with pytest.raises(InputError):
        fail(run, InputError("bad prompts"))
    assert listing(tmp_path) == []
    begun = open_run(tmp_path / "run", RunConfig())
    begun.finish("sample", 1.0)
    with pytest.raises(InputError):
        fail(begun, InputError("bad judge"))
    assert listing(tmp_path / "run") == ["config.toml", "stages.json"]


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files and no config\.toml"):
        open_run(tmp_path / "full", RunConfig())
    assert os.listdir(tmp_path / "full") == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file, not a run directory"):
        open_run(tmp_path / "full" / "thesis.txt", RunConfig())
    with pytest.raises(InputError, match=r"not a run directory \(no config\.toml\)"):
        open_run(tmp_path / "absent", None)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.toml").write_text("= =")
    with pytest.raises(InputError, match="damaged"):
        open_run(tmp_path / "damaged", RunConfig())


def test_stages_are_recorded_in_order_and_later_ones_forgotten(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", RunConfig())
    with pytest.raises(InputError, match="the sample stage has not finished; run it"):
        run.facts("sample", "run it")
    for stage in ("sample", "reward", "align"):
        run.finish(stage, 1.5, count=3)
    assert list(run.stages()) == ["sample", "reward", "align"]
    assert run.facts("sample", "")["count"] == 3
    run.finish("reward", 2.0)
    assert list(run.stages()) == ["sample", "reward"]
    run.file("stages.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        run.stages()


def test_metrics_are_appended_and_those_of_an_unfinished_attempt_forgotten(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", RunConfig())
    assert run.metrics() == []
    run.log({"reward/step": 1, "reward/loss": 0.5})
    run.log({"ppo/step": 1, "ppo/kl": float("nan")})
    run.log({"ppo/step": 2, "ppo/kl": 0.25})
    assert run.metrics()[1] == {"ppo/step": 1, "ppo/kl": None}
    run.forget_metrics("ppo")
    assert run.metrics() == [{"reward/step": 1, "reward/loss": 0.5}]
    for line in run.file("metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def listing(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(InputError, match="no space left on the disk"):
        write_text(tmp_path / "a.txt", "new")
    with pytest.raises(InputError, match="no space left on the disk"):
        write_text(tmp_path / "b.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"old": 1}\n')
    with pytest.raises(InputError, match="no space left on the disk"):
        write_jsonl(tmp_path / "a.jsonl", [{"new": 1}])
    assert (tmp_path / "a.jsonl").read_text() == '{"old": 1}\n'
    assert listing(tmp_path) == ["a.jsonl"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_starts_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no space left on the disk"):
        open_run(tmp_path / "run", RunConfig())
    assert listing(tmp_path / "run") == []


def test_a_record_that_cannot_be_written_leaves_the_old_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write_jsonl(file, [Completion("c", "p", "text", "model")])

    def rows():
        yield Completion("d", "p", "text", "model")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_jsonl(file, rows())
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(file, [{"x": float("nan")}])
    assert [c.id for c in read_jsonl(file, Completion)] == ["c"]
    assert listing(tmp_path) == ["a.jsonl"]


def test_a_text_that_cannot_be_encoded_leaves_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


def write_and_fail(target: Path, error: Exception) -> None:
    before = target.exists()
    with new_folder(target) as folder:
        (folder / "half").write_text("x")
        assert target.exists() == before
        raise error


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    with pytest.raises(RuntimeError, match="power cut"):
        write_and_fail(target, RuntimeError("power cut"))
    assert listing(tmp_path) == []
    with new_folder(target) as folder:
        (folder / "weights").write_text("first")
    assert (target / "weights").read_text() == "first"
    with pytest.raises(InputError, match="no space left on the disk"):
        write_and_fail(target, OSError(errno.ENOSPC, "No space left on device"))
    assert (target / "weights").read_text() == "first"
    with new_folder(target) as folder:
        (folder / "other").write_text("third")
    assert listing(target) == ["other"]
    assert listing(tmp_path) == ["adapter"]


def test_a_full_disk_while_safetensors_writes_is_named_too(tmp_path: Path) -> None:
    """safetensors raises its own error, whose text holds the system's number (28: no space left)."""
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(InputError, match=r"adapter: no space left on the disk"):
        write_and_fail(tmp_path / "adapter", error)
    assert listing(tmp_path) == []


# --- another algorithm -----------------------------------------------------------------------------------------------


def test_another_algorithm_keeps_what_both_use(tmp_path: Path) -> None:
    path = tmp_path / "run"
    open_run(path, parse_config({"ppo": {"steps": 9, "gae_lambda": 0.9}})).finish("sample", 1.0)
    assert change_algorithm(path, "ppo", again=False) == []
    (line,) = change_algorithm(path, "rloo", again=False)
    config = open_run(path, None).config
    assert (config.algorithm, config.ppo.steps, config.ppo.samples_per_prompt) == ("rloo", 9, 4)
    assert config.ppo.whiten_advantages is False
    assert line.startswith("align: rloo instead of ppo; ")
    assert change_algorithm(path, "dpo", again=False)
    assert open_run(path, None).config.algorithm == "dpo"
    assert set(open_run(path, None).stages()) == {"sample"}


def test_another_algorithm_replaces_a_finished_one_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "run"
    open_run(path, parse_config({})).finish("align", 1.0)
    before = (path / "config.toml").read_text()
    with pytest.raises(InputError, match=r"was aligned by ppo; --again replaces that by dpo"):
        change_algorithm(path, "dpo", again=False)
    assert (path / "config.toml").read_text() == before
    assert change_algorithm(path, "dpo", again=True)


@pytest.mark.parametrize(("algorithm", "values"), [("trpo", {}), ("dpo", {"feedback": {"source": "none"}})])
def test_an_algorithm_that_the_run_cannot_have_changes_nothing(tmp_path: Path, algorithm: str, values: dict) -> None:
    path = tmp_path / "run"
    open_run(path, parse_config({"reward": {"source": "classifier"}, **values}))
    before = (path / "config.toml").read_text()
    with pytest.raises(InputError, match=r"trpo: unknown|learns from preferences"):
        change_algorithm(path, algorithm, again=True)
    assert (path / "config.toml").read_text() == before


# --- which models ---------------------------------------------------------------------------------------------------


def test_a_run_keeps_to_the_commit_that_it_began_with(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", RunConfig())
    assert run.revision("policy", "owner/model", "main") == "main"
    run.pin("policy", {"name": "owner/model", "commit": "a" * 40})
    assert run.revision("policy", "owner/model", "main") == "a" * 40
    assert run.revision("policy", "owner/other", "main") == "main"
    assert run.revision("judge", "owner/model", None) is None
    run.pin("policy", {"name": "owner/model", "commit": "a" * 40})
    with pytest.raises(InputError, match=r"began with another policy under the name owner/model \(commit aaaaaaaaaaaa"):
        run.pin("policy", {"name": "owner/model", "commit": "b" * 40})
    run.pin("judge", {"name": "owner/judge", "commit": None})
    run.pin("judge", {"name": "owner/judge", "commit": "c" * 40})
    run.pin("judge", {"name": "owner/judge", "commit": None})  # a cache that does not tell takes nothing away
    assert run.models() == {
        "policy": {"name": "owner/model", "commit": "a" * 40},
        "judge": {"name": "owner/judge", "commit": "c" * 40},
    }
    run.file("models.json").write_text("{")
    with pytest.raises(InputError, match=r"models.json: damaged"):
        run.models()


def test_a_changed_folder_is_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", RunConfig())
    run.pin("judge", {"name": "here", "sha256": "a" * 64})
    with pytest.raises(
        InputError, match=r"began with another judge under the name here \(sha256 aaaaaaaaaaaa then, b"
    ) as e:
        run.pin("judge", {"name": "here", "sha256": "b" * 64})
    assert "start a new run with --out" in str(e.value)
    run.pin("judge", {"name": "there", "sha256": "b" * 64})
    assert run.models()["judge"]["name"] == "there"


def test_a_folder_with_models_json_alone_is_not_begun(tmp_path: Path) -> None:
    """Models are recorded when they are loaded, before any stage has written; bad input then still leaves nothing."""
    run = open_run(tmp_path / "run", RunConfig())
    run.pin("judge", {"name": "here", "sha256": "a" * 64})
    changed = open_run(tmp_path / "run", RunConfig(seed=7))
    assert changed.models() == {}
    changed.pin("judge", {"name": "here", "sha256": "b" * 64})
    with pytest.raises(InputError), leaving_nothing_half_begun(changed):
        raise InputError("bad")
    assert not (tmp_path / "run").exists()
