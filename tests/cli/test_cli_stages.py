"""The stages as commands of their own, in the order of the README, and what passes between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli import small
from cli.running import humanward, leftovers

from humanward.prompts import opening_key
from humanward.records import Completion, Preference, Prompt, Ranking, content_id, read_jsonl, write_jsonl


def pairs_file(folder: Path, prompts: list[str]) -> Path:
    rows = [{"prompt": prompt, "chosen": f"kindly {prompt}", "rejected": "go away"} for prompt in prompts]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def own_rankings(tiny: Path, folder: Path) -> dict[str, Any]:
    values = small.settings(tiny, folder, trained=True)
    values["feedback"] |= {"source": "rankings", "path": str(pairs_file(folder, small.PROMPTS))}
    return values


def rank_by_hand(run: Path, count: int) -> list[Ranking]:
    """What `feedback rank` appends: one ranking a prompt of the sampled completions."""
    answers: dict[str, list[str]] = {}
    for completion in read_jsonl(run / "completions.jsonl", Completion):
        answers.setdefault(completion.prompt_id, []).append(completion.id)
    made = [
        Ranking(content_id("ada", prompt), prompt, tuple((i,) for i in ids), "ada", shown_order=tuple(ids))
        for prompt, ids in list(answers.items())[:count]
    ]
    write_jsonl(run / "rankings.jsonl", made)
    return made


def test_every_stage_by_itself(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = small.write(tmp_path / "config.toml", own_rankings(tiny, tmp_path))
    assert humanward("sample", "--run", run, "--config", config).code == 0
    by_hand = rank_by_hand(run, 4)
    assert humanward("feedback", "import", "--format", "trl", tmp_path / "mine.jsonl", "--run", run).code == 0
    assert humanward("feedback", "stats", "--run", run, "--resamples", "100", "--json").json()
    assert humanward("reward", "train", "--run", run).code == 0
    kept = {ranking.id for ranking in read_jsonl(run / "rankings.jsonl", Ranking)}
    assert {ranking.id for ranking in by_hand} <= kept, "rankings by people were overwritten"
    assert len(kept) == len(by_hand) + len(small.PROMPTS)
    measured = humanward("reward", "evaluate", "--run", run, "--no-probes", "--json").json()
    assert measured["sets"][0]["accuracy"]["n"] > 0
    assert json.loads((run / "reward_evaluation.json").read_text(encoding="utf-8")) == measured
    assert "reward_evaluation.json" in (run / "reward_evaluation.html").read_text(encoding="utf-8")
    assert humanward("align", "--run", run).code == 0
    assert humanward("evaluate", "--run", run).code == 0
    report = humanward("report", "--run", run, "--json").json()
    assert report == json.loads((run / "report.json").read_text(encoding="utf-8"))
    scored = tmp_path / "scored.jsonl"
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"prompt": "a", "response": "b", "mine": 1}\n', encoding="utf-8")
    assert humanward("reward", "score", "--source", run, "--input", lines, "--output", scored).code == 0
    (row,) = [json.loads(line) for line in scored.read_text(encoding="utf-8").splitlines()]
    assert row.keys() == {"prompt", "response", "mine", "score"}
    assert leftovers(run) == []


def test_no_reward_model_learns_from_prompts_of_the_evaluation(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", own_rankings(tiny, tmp_path))
    assert humanward("run", config, "--out", tmp_path / "run", "--json").code == 0
    tested = {opening_key(p) for p in read_jsonl(tmp_path / "run" / "prompts.jsonl", Prompt) if p.split == "test"}
    preferences = read_jsonl(tmp_path / "run" / "preferences.jsonl", Preference)
    assert tested
    assert {p.split for p in preferences if opening_key(p.prompt) in tested} == {"validation"}
    assert {p.split for p in preferences} == {"train", "validation"}


def test_pairs_on_test_prompts_alone_train_nothing(tiny: Path, tmp_path: Path) -> None:
    values = own_rankings(tiny, tmp_path)
    for split, prompts in (("train", small.PROMPTS[:20]), ("test", small.PROMPTS[20:])):
        (tmp_path / f"{split}.txt").write_text("\n".join(prompts), encoding="utf-8")
    values["prompts"] = {split: str(tmp_path / f"{split}.txt") for split in ("train", "test")}
    values["feedback"]["path"] = str(pairs_file(tmp_path, small.PROMPTS[20:]))
    config = small.write(tmp_path / "config.toml", values)
    line = humanward("run", config, "--out", tmp_path / "run").refusal(after_work=True)
    assert "strict preferences on 0 prompts to train on and 28 held out" in line
    assert not (tmp_path / "run" / "preferences.jsonl").exists()


def test_chat_puts_both_sides_next_to_each_other(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path))
    assert humanward("run", config, "--out", tmp_path / "run", "--json").code == 0
    shown = humanward("chat", tmp_path / "run", "--prompt", "what is a?", "--json").json()
    assert shown.keys() == {"prompt", "before", "after", "toxicity"}
    assert shown["toxicity"].keys() == {"before", "after"}
    plain = humanward("chat", tmp_path / "run", "--prompt", "what is a?")
    assert plain.code == 0
    assert "before" in plain.out
    assert "after" in plain.out


def test_the_closing_summary_has_ten_lines_and_the_path_of_the_report(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path, trained=True))
    outcome = humanward("run", config, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.strip().splitlines()
    assert len(lines) == 10
    assert str(tmp_path / "run" / "report.html") in lines[-1]
    assert "simulated" in outcome.out


def test_the_resolved_configuration_reproduces_the_run(tiny: Path, tmp_path: Path) -> None:
    config = small.write(tmp_path / "config.toml", small.settings(tiny, tmp_path, trained=True))
    first = humanward("run", config, "--out", tmp_path / "one", "--seed", "7", "--json").json()
    assert first["seed"] == 7
    again = humanward("run", tmp_path / "one" / "config.toml", "--out", tmp_path / "two", "--json").json()
    for report in (first, again):
        for name in ("seconds", "created_at", "reproduce"):
            report.pop(name)
    assert first == again
    one, two = ((tmp_path / name / "evaluation.jsonl").read_text(encoding="utf-8") for name in ("one", "two"))
    assert one == two
