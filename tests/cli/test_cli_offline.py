"""The off-policy algorithms from the command line on tiny models: all five from end to end, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from cli import small
from cli.running import Outcome, humanward, leftovers

from humanward.records import Label, Preference, Rating, read_jsonl

ALGORITHMS = ("sft", "dpo", "ipo", "orpo", "kto")


def settings(tiny: Path, folder: Path, algorithm: str, **offline: Any) -> dict[str, Any]:
    """A run that learns from simulated rankings by ``algorithm``."""
    values = small.settings(tiny, folder, trained=True)
    for section in ("ppo", "reward"):
        values.pop(section)
    values["algorithm"] = algorithm
    values["offline"] = {"batch_size": 4, "max_tokens": 90, "validation_fraction": 0.25, **offline}
    return values


def with_pairs(values: dict[str, Any], folder: Path, rows: list[dict[str, Any]], **feedback: Any) -> dict[str, Any]:
    """The same run on rows of a file."""
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values["feedback"] = {"source": "preferences", "path": str(path), **feedback}
    return values


def pairs(count: int = 48) -> list[dict[str, Any]]:
    return [{"prompt": p, "chosen": f"kindly {p}", "rejected": "go away"} for p in small.PROMPTS[:count]]


def labelled(*kinds: bool) -> list[dict[str, Any]]:
    """Two answers a prompt, of the given kinds."""
    return [
        {"prompt": p, "completion": f"kindly {p}" if kind else f"go away {place}", "label": kind}
        for p in small.PROMPTS
        for place, kind in enumerate(kinds)
    ]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(values: dict[str, Any], folder: Path, *more: object, out: str = "run") -> Outcome:
    return humanward("run", small.write(folder / "config.toml", values), "--out", folder / out, *more)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_whole_loop(algorithm: str, tiny: Path, tmp_path: Path) -> None:
    report = run(settings(tiny, tmp_path, algorithm), tmp_path, "--json").json()
    folder = tmp_path / "run"
    assert report["algorithm"] == algorithm
    assert report["title"].endswith(f"aligned by {algorithm.upper()}")
    assert report["reward_model"] is None
    assert report["reward"] == {
        "source": "preferences (no reward model)",
        "before": None,
        "after": None,
        "difference": None,
        "parts": {},
        "sources": [],
    }
    assert report["kl"]["budget"] is None
    assert report["kl"]["at_start"] == 0
    assert report["kl"]["final"] is not None
    stages = json.loads((folder / "stages.json").read_text(encoding="utf-8"))
    assert list(stages) == ["prompts", "sample", "feedback", "align", "evaluate", "report"]
    align = stages["align"]
    assert align["steps"] == math.ceil(align["prompts"] / 4)
    rows = lines(folder / "metrics.jsonl")
    assert [row["offline/step"] for row in rows] == list(range(align["steps"] + 1))
    assert all(row["offline/loss"] is not None for row in rows[1:])
    assert rows[-1]["offline/validation_loss"] is not None
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Log-probability of the preferred responses" in page
    assert 'id="reward"' not in page
    assert "ready-made classifier" not in page
    assert not (folder / "reward_model").exists()
    assert leftovers(tmp_path) == []
    # A report can be made again from the files, and the answers be looked at side by side.
    again = humanward("report", "--run", folder, "--json").json()
    assert again["reward"] == report["reward"]
    assert humanward("chat", folder, "--prompt", "what is a?", "--json").json().keys() >= {"before", "after"}


def test_the_closing_lines_name_no_budget(tiny: Path, tmp_path: Path) -> None:
    outcome = run(settings(tiny, tmp_path, "dpo"), tmp_path)
    assert outcome.code == 0, outcome.err
    closing = outcome.out.strip().splitlines()
    assert len(closing) == 10
    assert any("nats a sequence, no budget, at start 0" in line for line in closing), closing
    assert any(line.startswith("reward       preferences (no reward model)") for line in closing)


def test_from_sft_to_dpo_and_ppo(tiny: Path, tmp_path: Path) -> None:
    """The adapter of sft is where a further run starts, and its reference: KL 0 there, whatever the bare model says."""
    values = settings(tiny, tmp_path, "sft", epochs=2, learning_rate=0.02)
    assert run(values, tmp_path, "--json", out="sft").code == 0
    adapter = tmp_path / "sft" / "adapter"
    values = settings(tiny, tmp_path, "dpo")
    values["model"]["adapter"] = str(adapter)
    report = run(values, tmp_path, "--json", out="dpo").json()
    assert report["kl"]["at_start"] == 0
    values = small.settings(tiny, tmp_path)
    values["model"]["adapter"] = str(adapter)
    assert run(values, tmp_path, "--json", out="ppo").json()["kl"]["at_start"] == 0
    before = [
        [row["before"]["text"] for row in lines(tmp_path / name / "evaluation.jsonl")] for name in ("sft", "dpo", "ppo")
    ]
    assert before[1] == before[2], "both start from the adapter"
    assert before[0] != before[1], "which is another model than the bare one"


def test_another_algorithm_on_the_same_preferences(tiny: Path, tmp_path: Path) -> None:
    """`align --algorithm` keeps what was ranked; the reward model of the run then watches."""
    values = small.settings(tiny, tmp_path, trained=True)
    first = run(values, tmp_path, "--json").json()
    ranked = (tmp_path / "run" / "preferences.jsonl").read_bytes()
    folder = tmp_path / "run"
    line = humanward("align", "--run", folder, "--algorithm", "dpo").refusal()
    assert "was aligned by ppo" in line
    assert humanward("align", "--run", folder, "--algorithm", "dpo", "--again").code == 0
    assert humanward("evaluate", "--run", folder).code == 0
    report = humanward("report", "--run", folder, "--json").json()
    assert (folder / "preferences.jsonl").read_bytes() == ranked
    assert report["reward"]["source"] == "preferences; reward model trained on the rankings only watched"
    assert report["reward"]["before"]["value"] == pytest.approx(first["reward"]["before"]["value"], rel=1e-5)
    assert report["reward_model"] == first["reward_model"]
    assert 'id="reward"' in (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_stopped_in_training_trains_again(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from humanward.offline.trainer import OfflineTrainer

    real = OfflineTrainer.step

    def stopping(self: OfflineTrainer) -> Any:
        if self.steps_done == 1:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(OfflineTrainer, "step", stopping)
    values = settings(tiny, tmp_path, "dpo")
    assert run(values, tmp_path).code == 130
    assert not (tmp_path / "run" / "adapter").exists()
    monkeypatch.setattr(OfflineTrainer, "step", real)
    assert run(values, tmp_path, "--json").code == 0
    stopped = lines(tmp_path / "run" / "metrics.jsonl")
    assert run(values, tmp_path, "--json", out="whole").code == 0
    for left, right in zip(stopped, lines(tmp_path / "whole" / "metrics.jsonl"), strict=True):
        assert left | {"offline/seconds": 0} == right | {"offline/seconds": 0}
    assert leftovers(tmp_path) == []


# --- labelled answers and demonstrations ---------------------------------------------------------------------------


def test_kto_from_labelled_answers(tiny: Path, tmp_path: Path) -> None:
    values = with_pairs(settings(tiny, tmp_path, "kto"), tmp_path, labelled(True, False), source="ratings")
    report = run(values, tmp_path, "--json").json()
    folder = tmp_path / "run"
    assert report["gold"]["simulated_annotators"] is False
    stages = json.loads((folder / "stages.json").read_text(encoding="utf-8"))
    assert list(stages) == ["prompts", "feedback", "align", "evaluate", "report"]
    assert (stages["feedback"]["labels"], stages["feedback"]["desirable"]) == (96, 48)
    assert len(read_jsonl(folder / "ratings.jsonl", Rating)) == 96
    refused = humanward("reward", "train", "--run", folder).refusal(after_work=True)
    assert "a reward model learns from pairs" in refused
    labels = read_jsonl(folder / "labels.jsonl", Label)
    assert {label.split for label in labels} == {"train", "validation"}
    assert not (folder / "preferences.jsonl").exists()


def test_sft_from_demonstrations(tiny: Path, tmp_path: Path) -> None:
    rows = [{"prompt": p, "response": f"kindly {p}"} for p in small.PROMPTS]
    values = with_pairs(settings(tiny, tmp_path, "sft"), tmp_path, rows, source="ratings")
    assert run(values, tmp_path, "--json").code == 0
    assert all(label.desirable for label in read_jsonl(tmp_path / "run" / "labels.jsonl", Label))


def test_imported_labels_of_a_run_directory(tiny: Path, tmp_path: Path) -> None:
    """`feedback import` puts ratings into a run that has begun; feedback.path may then be left out."""
    values = settings(tiny, tmp_path, "kto")
    values["feedback"] |= {"source": "ratings"}
    config = small.write(tmp_path / "config.toml", values)
    folder = tmp_path / "run"
    assert humanward("sample", "--run", folder, "--config", config).code == 0
    line = humanward("feedback", "simulate", "--run", folder).refusal()
    assert "holds no ratings.jsonl, and feedback.path is not set" in line
    mine = tmp_path / "labels.jsonl"
    mine.write_text("".join(json.dumps(row) + "\n" for row in labelled(True, False)), encoding="utf-8")
    summary = humanward("feedback", "import", mine, "--run", folder, "--json").json()
    assert (summary["ratings"], summary["labels"], summary["desirable"]) == (96, 96, 48)
    assert humanward("feedback", "simulate", "--run", folder).code == 0
    assert humanward("align", "--run", folder).code == 0
    written = tmp_path / "out.jsonl"
    exported = humanward("feedback", "export", "--run", folder, "--format", "kto", "--output", written, "--json").json()
    assert exported["rows"] == 96
    assert lines(written)[0].keys() == {"prompt", "completion", "label"}


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "word"), [(True, "desirable"), (False, "undesirable")])
def test_kto_with_one_kind_of_labels(kind: bool, word: str, tiny: Path, tmp_path: Path) -> None:
    values = with_pairs(settings(tiny, tmp_path, "kto"), tmp_path, labelled(kind), source="ratings")
    line = run(values, tmp_path).refusal(after_work=True)
    assert f"labelled responses to train on are {word}; add some that are not" in line
    assert ("algorithm = 'sft'" in line) is kind


def test_pairs_with_identical_sides_are_counted(tiny: Path, tmp_path: Path) -> None:
    rows = [*pairs(), *({"prompt": p, "chosen": "same", "rejected": "same"} for p in small.PROMPTS[:3])]
    outcome = run(with_pairs(settings(tiny, tmp_path, "dpo"), tmp_path, rows), tmp_path, "--json")
    assert "3 pairs with two identical sides dropped" in outcome.err
    assert "3 pairs with two identical sides dropped" in outcome.json()["warnings"]


def test_our_own_pairs_with_identical_sides_are_counted_too(tiny: Path, tmp_path: Path) -> None:
    assert run(with_pairs(settings(tiny, tmp_path, "dpo"), tmp_path, pairs()), tmp_path, "--json").code == 0
    own = lines(tmp_path / "run" / "preferences.jsonl")
    for row in own[:2]:
        row["rejected"] = row["chosen"]
    values = with_pairs(settings(tiny, tmp_path, "dpo"), tmp_path, own)
    outcome = run(values, tmp_path, "--json", out="again")
    assert "2 pairs with two identical sides dropped" in outcome.err
    assert len(read_jsonl(tmp_path / "again" / "preferences.jsonl", Preference)) == len(own) - 2
    for row in own:
        row["rejected"] = row["chosen"]
    line = run(with_pairs(values, tmp_path, own), tmp_path, out="none").refusal(after_work=True)
    assert f"all {len(own)} pairs have two identical sides; give answers that differ" in line
    assert leftovers(tmp_path) == []


def test_nothing_but_identical_sides(tiny: Path, tmp_path: Path) -> None:
    rows = [{"prompt": p, "chosen": "same", "rejected": "same"} for p in small.PROMPTS]
    line = run(with_pairs(settings(tiny, tmp_path, "dpo"), tmp_path, rows), tmp_path).refusal(after_work=True)
    assert "all 48 pairs have two identical sides; give answers that differ" in line


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pairs_on_test_prompts_alone_train_nothing(algorithm: str, tiny: Path, tmp_path: Path) -> None:
    values = with_pairs(settings(tiny, tmp_path, algorithm), tmp_path, pairs()[20:])
    for split, prompts in (("train", small.PROMPTS[:20]), ("test", small.PROMPTS[20:])):
        (tmp_path / f"{split}.txt").write_text("\n".join(prompts), encoding="utf-8")
    values["prompts"] = {split: str(tmp_path / f"{split}.txt") for split in ("train", "test")}
    line = run(values, tmp_path).refusal(after_work=True)
    assert f"0 prompts to train on and 28 held out; {algorithm} needs at least 1" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offline": {"label_smoothing": 0.1}}, ("offline.label_smoothing = 0.1: kto does not use it", "beta")),
        ({"offline": {"epochz": 1}}, ("unknown key offline.epochz", "did you mean epochs?")),
        ({"offline": {"beta": 0.0}}, ("offline.beta = 0.0", "greater than 0")),
        ({"feedback": {"source": "none"}}, ("algorithm = 'kto' learns from preferences; set feedback.source",)),
        ({"algorithm": "dpo", "feedback": {"source": "ratings"}}, ("dpo learns from pairs", "'kto' or 'sft'")),
        (
            {"algorithm": "ppo", "offline": {}, "feedback": {"source": "ratings"}},
            ("a trained reward model learns from pairs",),
        ),
    ],
)
def test_configurations_that_make_no_sense(
    change: dict[str, Any], words: tuple[str, ...], tiny: Path, tmp_path: Path
) -> None:
    values = {**settings(tiny, tmp_path, "kto"), **change}
    if not values["offline"]:
        del values["offline"]
    line = run(values, tmp_path).refusal()
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"prompt": "a", "completion": "b", "label": "perhaps"},
            ("line 2, field 'label'", "'perhaps' is not true or false"),
        ),
        ({"prompt": "", "completion": "b", "label": True}, ("line 2", "field 'prompt' is missing")),
        ({"prompt": "a", "completion": 3, "label": True}, ("line 2, field 'completion'", "is not text")),
        ({"prompt": "a", "completion": "b"}, ("line 2", "field 'label' is missing")),
    ],
)
def test_bad_rows_of_labels(row: dict[str, Any], words: tuple[str, ...], tiny: Path, tmp_path: Path) -> None:
    values = with_pairs(settings(tiny, tmp_path, "kto"), tmp_path, [*labelled(True)[:1], row], source="ratings")
    line = run(values, tmp_path).refusal(after_work=True)
    assert all(word in line for word in words), line
    assert leftovers(tmp_path) == []


def test_rankings_where_ratings_are_asked_for(tiny: Path, tmp_path: Path) -> None:
    values = with_pairs(settings(tiny, tmp_path, "kto"), tmp_path, pairs(), source="ratings")
    line = run(values, tmp_path).refusal(after_work=True)
    assert "holds no ratings; give answers with a label (format kto)" in line


def test_aligning_before_anything_was_ranked(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", settings(tiny, tmp_path, "dpo"))
    line = humanward("align", "--run", tmp_path / "run", "--config", config).refusal(after_work=True)
    assert "the feedback stage has not finished; run `humanward feedback simulate" in line
