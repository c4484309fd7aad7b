"""Bad input: exit code 2, one line with the thing, the value, the rule and the remedy, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import small, tiny_models
from cli.running import Outcome, humanward, leftovers

Values = dict[str, Any]


class Place:
    """A folder to work in, a configuration that would run, and where the run goes."""

    def __init__(self, tiny: Path, folder: Path, *, trained: bool = False) -> None:
        self.tiny, self.folder, self.out = tiny, folder, folder / "run"
        self.values = small.settings(tiny, folder, trained=trained)

    def run(self, *more: object) -> Outcome:
        config = small.write(self.folder / "config.toml", self.values)
        return humanward("run", config, "--out", self.out, *more)

    def refused(self, *words: str) -> str:
        """Run, and check that it is refused in one line with ``words``, leaving nothing behind."""
        line = self.run().refusal()
        for word in words:
            assert word in line, line
        assert not self.out.exists(), list(self.out.iterdir())
        assert leftovers(self.folder) == []
        return line


@pytest.fixture
def place(tiny: Path, tmp_path: Path) -> Place:
    return Place(tiny, tmp_path)


# --- models ------------------------------------------------------------------------------------------------------


def no_folder(place: Place) -> None:
    place.values["model"]["policy"] = "./nowhere"


def empty_folder(place: Place) -> None:
    (place.folder / "empty").mkdir()
    place.values["model"]["policy"] = str(place.folder / "empty")


def a_file(place: Place) -> None:
    (place.folder / "model.bin").write_bytes(b"weights")
    place.values["model"]["policy"] = str(place.folder / "model.bin")


def damaged_weights(place: Place) -> None:
    folder = shutil.copytree(place.tiny / "chat", place.folder / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    place.values["model"]["policy"] = str(folder)


def damaged_json(place: Place) -> None:
    folder = shutil.copytree(place.tiny / "chat", place.folder / "damaged")
    (folder / "config.json").write_text("{", encoding="utf-8")
    place.values["model"]["policy"] = str(folder)


def pickled_weights(place: Place) -> None:
    folder = shutil.copytree(place.tiny / "chat", place.folder / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    place.values["model"]["policy"] = str(folder)


def no_tokenizer(place: Place) -> None:
    folder = shutil.copytree(place.tiny / "chat", place.folder / "mute")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    place.values["model"]["policy"] = str(folder)


def hub_id(place: Place) -> None:
    place.values["model"]["policy"] = "nobody/nothing-of-that-name"


def no_eos(place: Place) -> None:
    place.values["model"]["policy"] = str(tiny_models.causal(place.folder / "endless", eos=False))


def classifier_as_policy(place: Place) -> None:
    place.values["model"]["policy"] = str(place.tiny / "roberta")


def policy_as_judge(place: Place) -> None:
    place.values["evaluation"]["judge"] = str(place.tiny / "chat")


def no_such_label(place: Place) -> None:
    place.values["reward"]["label"] = "polite"


def no_such_demo(place: Place) -> None:
    place.values["model"]["policy"] = "demo/polcy"


def no_such_adapter(place: Place) -> None:
    place.values["model"]["adapter"] = str(place.folder / "no-adapter")


def no_such_modules(place: Place) -> None:
    place.values["lora"]["target_modules"] = ["query_of_nothing"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_folder, ("./nowhere", "no such folder", "check the path")),
        (empty_folder, ("empty", "check that the folder holds")),
        (a_file, ("model.bin", "is a file", "name the folder")),
        (damaged_weights, ("damaged", "check that the folder holds")),
        (damaged_json, ("damaged", "check that the folder holds")),
        (pickled_weights, ("pickled", "safetensors")),
        (no_tokenizer, ("mute", "tokenizer")),
        (hub_id, ("nobody/nothing-of-that-name", "network")),
        (no_eos, ("endless", "end-of-sequence", "eos_token")),
        (classifier_as_policy, ("roberta",)),
        (policy_as_judge, ("chat", "classif")),
        (no_such_label, ("'polite'", "its labels are nothate, hate")),
        (no_such_demo, ("demo/polcy", "demo/policy")),
        (no_such_adapter, ("no-adapter", "adapter_model.safetensors", "PEFT")),
        (no_such_modules, ("lora.target_modules", "query_of_nothing", "all-linear")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_models(spoil: Callable[[Place], None], words: tuple[str, ...], place: Place) -> None:
    spoil(place)
    place.refused(*words)


def test_a_tokenizer_without_padding_is_told_and_used(place: Place) -> None:
    place.values["model"]["policy"] = str(tiny_models.causal(place.folder / "unpadded", pad=False))
    outcome = place.run("--json")
    assert outcome.code == 0
    assert "no padding token" in outcome.err


# --- configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("ppo", "stepz", 3, ("unknown key ppo.stepz = 3", "did you mean steps?")),
        ("ppo", "minibatch_size", 3, ("ppo.minibatch_size=3 does not divide rollout_size=4", "choose a divisor of 4")),
        ("ppo", "micro_batch_size", 3, ("ppo.micro_batch_size=3 does not divide minibatch_size=4", "divisor")),
        ("ppo", "steps", "many", ("ppo.steps = 'many'", "integer")),
        ("ppo", "learning_rate", -1.0, ("ppo.learning_rate = -1.0", "greater than 0")),
        ("sampling", "max_new_tokens", 96, ("sampling.max_new_tokens = 96", "96 tokens", "lower it")),
        ("model", "device", "toaster", ("model.device = 'toaster'", "auto, cpu or cuda")),
        ("prompts", "test_fraction", 0.95, ("validation_fraction + test_fraction", "lower them")),
        ("feedback", "overlap", 9, ("overlap=9", "annotators=3")),
    ],
)
def test_configuration(section: str, key: str, value: object, words: tuple[str, ...], place: Place) -> None:
    place.values[section][key] = value
    place.refused(*words)


def test_a_configuration_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("steps = [", encoding="utf-8")
    line = humanward("run", tmp_path / "config.toml", "--out", tmp_path / "run").refusal()
    assert "config.toml: not TOML" in line
    assert not (tmp_path / "run").exists()


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    line = humanward("run", tmp_path / "no.toml", "--out", tmp_path / "run").refusal()
    assert "no.toml: no such configuration file" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [("ppo", "section.key=value"), ("ppo=3", "ppo is a section"), ("seed.x=3", "seed"), ("nothing.x=3", "nothing")],
)
def test_overrides(override: str, words: str, place: Place) -> None:
    line = place.run("--set", override).refusal()
    assert words in line
    assert not place.out.exists()


# --- data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "", ("p.txt", "holds no prompts")),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', ("p.jsonl line 2", "not JSON")),
        ("p.jsonl", '{"prompt": "a"}\n{"text_": "b"}\n', ("p.jsonl line 2", "field 'prompt' is missing")),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n', ("p.jsonl line 2",)),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": " "}\n', ("p.jsonl line 3", "is empty")),
        ("p.csv", "prompt,x\na,b\nc\n", ("p.csv line 3", "cells")),
        ("p.xls", "a", ("p.xls", "unknown kind of file", ".jsonl")),
        ("p.txt", b"caf\xe9\n", ("p.txt", "not UTF-8")),
        ("p.jsonl.gz", "not gzip", ("p.jsonl.gz", "gzip")),
    ],
)
def test_prompt_files(name: str, content: str | bytes, words: tuple[str, ...], place: Place) -> None:
    file = place.folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    place.values["prompts"]["path"] = str(file)
    if name.endswith(".gz"):
        assert all(word in place.run().refusal() for word in words)
        assert not place.out.exists()
        return
    line = place.run().refusal()
    assert all(word in line for word in words), line
    assert not place.out.exists()


def test_a_missing_prompt_file(place: Place) -> None:
    place.values["prompts"]["path"] = str(place.folder / "no.txt")
    place.refused("no.txt", "no such file", "check the path")


def test_a_prompt_longer_than_the_context_is_refused(place: Place) -> None:
    Path(place.values["prompts"]["path"]).write_text("\n".join([*small.PROMPTS, "x" * 300]), encoding="utf-8")
    place.refused("tokens, more than the 60 that fit", "shorten it", "long_prompts = 'drop'")


def test_long_and_repeated_prompts_are_dropped_and_counted(place: Place) -> None:
    again = [f"  {small.PROMPTS[0]} ", small.PROMPTS[1]]
    lines = [*small.PROMPTS, *again, "x" * 300, "y" * 300, "z" * 300]
    Path(place.values["prompts"]["path"]).write_text("\n".join(lines), encoding="utf-8")
    place.values["model"]["long_prompts"] = "drop"
    outcome = place.run("--json")
    report = outcome.json()
    assert "2 duplicate prompts dropped" in outcome.err
    assert "2 duplicate prompts dropped" in report["warnings"]
    assert any(line.startswith("3 prompts longer than") for line in report["warnings"])
    assert len((place.out / "prompts.jsonl").read_text(encoding="utf-8").splitlines()) == len(small.PROMPTS)


def test_too_few_prompts_to_test(place: Place) -> None:
    place.values["prompts"] |= {"test_fraction": 0.0}
    place.refused("leaves no test prompts of 48", "prompts.test_fraction")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("pairs.jsonl",)),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\n', ("pairs.jsonl line 2",)),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{oops\n', ("pairs.jsonl line 2", "not JSON")),
        ('{"a": 1}\n', ("pairs.jsonl line 1", "no known format")),
    ],
)
@pytest.mark.parametrize("source", ["rankings", "preferences"])
def test_preference_files(source: str, content: str, words: tuple[str, ...], tiny: Path, tmp_path: Path) -> None:
    place = Place(tiny, tmp_path, trained=True)
    file = tmp_path / "pairs.jsonl"
    file.write_text(content, encoding="utf-8")
    place.values["feedback"] |= {"source": source, "path": str(file)}
    line = place.run().refusal()
    assert all(word in line for word in words), line
    assert leftovers(place.out) == []


# --- places ------------------------------------------------------------------------------------------------------


def test_the_output_is_a_file(place: Place) -> None:
    place.out.write_text("mine", encoding="utf-8")
    line = place.run().refusal()
    assert "is a file, not a run directory" in line
    assert place.out.read_text(encoding="utf-8") == "mine"


def test_the_output_is_below_a_file(place: Place) -> None:
    (place.folder / "file").write_text("mine", encoding="utf-8")
    place.out = place.folder / "file" / "run"
    line = place.run().refusal()
    assert "file/run" in line
    assert "choose another place" in line


def test_the_output_holds_other_files(place: Place) -> None:
    place.out.mkdir()
    (place.out / "thesis.txt").write_text("mine", encoding="utf-8")
    line = place.run().refusal()
    assert "holds other files" in line
    assert [p.name for p in place.out.iterdir()] == ["thesis.txt"]


def test_the_output_cannot_be_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def mkdir(self: Path, *args: Any, **kwargs: Any) -> None:
        if self.name == "run":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    place.refused("run", "not writable by this user", "choose another place")


def test_a_run_of_another_configuration(place: Place) -> None:
    assert place.run("--json").code == 0
    before = {p: p.stat().st_mtime_ns for p in sorted(place.out.rglob("*"))}
    place.values["ppo"]["steps"] = 3
    line = place.run().refusal()
    assert "belongs to another configuration" in line
    assert "ppo.steps is 2 there and 3 here" in line
    assert "--out" in line
    assert {p: p.stat().st_mtime_ns for p in sorted(place.out.rglob("*"))} == before


def test_a_configuration_may_be_mended_before_anything_was_made(place: Place) -> None:
    good = place.values["model"]["policy"]
    place.values["model"]["policy"] = "./nowhere"
    place.run().refusal()
    place.values["model"]["policy"] = good
    assert place.run("--json").code == 0


def test_a_hand_written_configuration_in_the_output_is_never_replaced(place: Place) -> None:
    place.out.mkdir()
    mine = "seed = 0  # my own notes\n"
    (place.out / "config.toml").write_text(mine, encoding="utf-8")
    place.run().refusal()
    assert (place.out / "config.toml").read_text(encoding="utf-8") == mine


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("report", "--run", "{}"), "not a run directory"),
        (("align", "--run", "{}"), "not a run directory"),
        (("chat", "{}", "--prompt", "x"), "not a run directory"),
        (("feedback", "stats", "--run", "{}"), "rankings.jsonl"),
        (("reward", "score", "--source", "demo/none", "--input", "{}/in", "--output", "{}/out"), "in: no such file"),
    ],
)
def test_commands_on_a_folder_without_a_run(command: tuple[str, ...], words: str, tmp_path: Path) -> None:
    line = humanward(*(part.format(tmp_path) for part in command)).refusal()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_stages_out_of_order(place: Place) -> None:
    config = small.write(place.folder / "config.toml", place.values)
    assert humanward("sample", "--run", place.out, "--config", config).code == 0
    for command in ("evaluate", "report"):
        line = humanward(command, "--run", place.out).refusal()
        assert "the align stage has not finished" in line
        assert f"humanward align --run {place.out}" in line


# --- a full disk -------------------------------------------------------------------------------------------------


SYNCS = 25


class FullDisk:
    """os.fsync that fails with ENOSPC from the ``after``-th call on."""

    def __init__(self, after: int) -> None:
        self.left, self.real = after, os.fsync

    def __call__(self, descriptor: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.real(descriptor)


def test_a_full_disk_is_met_at_every_file(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many times a run syncs, so that the cases below are all of them."""
    disk = FullDisk(10**6)
    monkeypatch.setattr(os, "fsync", disk)
    assert Place(tiny, tmp_path, trained=True).run("--json").code == 0
    assert 10**6 - disk.left == SYNCS


@pytest.mark.parametrize("after", range(SYNCS))
def test_a_full_disk(after: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tiny, tmp_path, trained=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(after))
        outcome = place.run("--json")
    line = outcome.refusal(after_work=True)
    assert "no space left on the disk; free some and run the same command again" in line
    assert str(place.out) in line
    assert leftovers(tmp_path) == []
    stages = place.out / "stages.json"
    assert not stages.exists() or json.loads(stages.read_text(encoding="utf-8"))


def test_a_full_disk_where_safetensors_writes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def save_file(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("humanward.models.base.save_file", save_file)
        line = place.run("--json").refusal(after_work=True)
    assert "adapter: no space left on the disk" in line
    assert not (place.out / "adapter").exists()
    assert leftovers(place.folder) == []
    assert place.run("--json").code == 0
