"""The reward stage and `humanward reward evaluate` on tiny models: what they write, resume, and refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from models import tiny
from reward.test_reward_model import preferences

from humanward.config import parse_config
from humanward.errors import InputError
from humanward.evaluation.reward_words import terminal_lines
from humanward.progress import Reporter
from humanward.records import Preference, write_jsonl
from humanward.run_dir import open_run
from humanward.stages import reward as stage
from humanward.stages.context import Run
from humanward.stages.reward import run_reward
from humanward.stages.reward_evaluate import RewardPlan, read_shares, run_reward_evaluation

QUIET = Reporter(quiet=True)


def make_run(tmp_path: Path, **reward) -> Run:
    tiny.save(tmp_path / "policy")
    lines = [json.dumps({"id": p.id, "text": p.text}) for p in tiny.prompts(24, words=4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    config = parse_config(
        {
            "model": {"policy": str(tmp_path / "policy"), "dtype": "float32", "device": "cpu"},
            "lora": {"rank": 4},
            "prompts": {"path": str(tmp_path / "prompts.jsonl")},
            "sampling": {"max_new_tokens": 6},
            "reward": {"epochs": 2, "learning_rate": 0.01, "rank": 4, "max_tokens_trained": 32, **reward},
        }
    )
    return Run(open_run(tmp_path / "run", config), QUIET)


def apart(pairs: list[Preference], name: str) -> list[Preference]:
    """The pairs with prompts that no other list has: the toy's prompts repeat by chance."""
    return [
        dataclasses.replace(p, prompt=dataclasses.replace(p.prompt, text=f"{name} {i} {p.prompt.text}"))
        for i, p in enumerate(pairs)
    ]


def marked(train: list[Preference], held_out: list[Preference]) -> list[Preference]:
    train, held_out = apart(train, "w1"), apart(held_out, "w2")
    return [
        dataclasses.replace(p, split=split)
        for split, group in (("train", train), ("validation", held_out))
        for p in group
    ]


def write(run: Run, pairs: list[Preference]) -> Run:
    write_jsonl(run.folder.file("preferences.jsonl"), pairs)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = write(
        make_run(tmp_path_factory.mktemp("trained"), epochs=5),
        marked(preferences(120, seed=1), preferences(40, seed=2)),
    )
    run_reward(run)
    return run


def pairs_file(folder: Path, count: int = 12) -> Path:
    rows = [
        {"prompt": p.prompt.text, "chosen": p.chosen, "rejected": p.rejected, "subset": "even" if i % 2 else "odd"}
        for i, p in enumerate(preferences(count, seed=7))
    ]
    file = folder / "bench.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_stage_records_temperature_precision_and_leaves_no_checkpoint(trained: Run) -> None:
    facts = json.loads(trained.folder.file("reward_model/reward_model.json").read_text())
    told = json.loads(trained.folder.file("reward.json").read_text())
    assert facts["temperature"] == told["temperature"]["value"] > 0
    assert told["temperature"]["nll_after"] <= told["temperature"]["nll_before"]
    assert (facts["dtype"], facts["quantization"], facts["train"]) == ("float32", "none", "adapter")
    assert not trained.folder.file(stage.CHECKPOINTS).exists()


def test_a_run_and_a_file_with_learning_curve_and_probes(trained: Run, tmp_path: Path) -> None:
    plan = RewardPlan(None, trained.folder.path, (f"bench={pairs_file(tmp_path)}",), shares=(0.5, 1.0))
    content = run_reward_evaluation(plan, tmp_path / "out", reporter=QUIET, command="humanward reward evaluate")
    held_out, bench = content["sets"]
    assert (held_out["name"], held_out["pairs"], bench["name"]) == ("held-out pairs", 40, "bench")
    assert held_out["accuracy"]["value"] > 0.8
    assert [row["name"] for row in bench["by_subset"]] == ["even", "odd"]
    # The run's own pairs fitted its temperature, so another is fitted for them; other pairs are judged by it.
    assert held_out["calibration"]["fitted"].startswith("here")
    assert bench["calibration"]["temperature"] == pytest.approx(trained.reward_model().temperature)
    assert [point["pairs"] for point in content["learning_curve"]["points"]] == [60, 120]
    assert len(content["probes"]["edits"]) == 11
    assert json.loads((tmp_path / "out" / "reward_evaluation.json").read_text()) == content
    page = (tmp_path / "out" / "reward_evaluation.html").read_text()
    assert content["verdict"].split(":")[0].split(" (")[0].replace(" %", "\u202f%") in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    lines = terminal_lines(content, tmp_path / "page.html")
    assert lines[0] == content["verdict"]
    assert any("subset odd" in line for line in lines)


def test_any_source_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w5.py").write_text("def likes(prompts, responses):\n    return [r.count('w5') for r in responses]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = RewardPlan("w5:likes", None, (str(pairs_file(tmp_path, 30)),), probes=False)
    content = run_reward_evaluation(plan, tmp_path / "out", reporter=QUIET, command="")
    assert content["sets"][0]["accuracy"]["value"] == 1.0
    assert content["probes"] is None
    assert "more than choosing by length" in content["verdict"]


def test_an_interrupted_stage_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = marked(preferences(48, seed=1), preferences(20, seed=2))
    whole = write(make_run(tmp_path / "a", checkpoint_seconds=0, ensemble=2), pairs)
    run_reward(whole)
    cut = write(make_run(tmp_path / "b", checkpoint_seconds=0, ensemble=2), pairs)
    real, calls = stage.train_reward_model, []

    def dying(*given, **options):
        calls.append(options["role"])
        if len(calls) == 2:
            inner = options["on_step"]

            def stop(step) -> None:
                inner(step)
                if step.step == 4:
                    raise KeyboardInterrupt

            options["on_step"] = stop
        return real(*given, **options)

    monkeypatch.setattr(stage, "train_reward_model", dying)
    with pytest.raises(KeyboardInterrupt):
        run_reward(cut)
    monkeypatch.setattr(stage, "train_reward_model", real)
    again = Run(open_run(cut.folder.path, None), QUIET)
    run_reward(again)
    for name in ("score_head.safetensors", "adapter_model.safetensors"):
        for member in ("", "member-2/"):
            path = f"reward_model/{member}{name}"
            assert again.folder.file(path).read_bytes() == whole.folder.file(path).read_bytes()
    assert again.folder.metrics() == whole.folder.metrics()


# --- bad input -----------------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[InputError]) -> None:
    assert "\n" not in str(error.value)


def test_prompts_that_straddle_the_splits_are_refused(tmp_path: Path) -> None:
    pairs = marked(preferences(8, seed=1), preferences(8, seed=2))
    run = write(make_run(tmp_path), [*pairs, dataclasses.replace(pairs[0], split="validation")])
    with pytest.raises(
        InputError, match=r"preferences\.jsonl: prompt q1-0: is in split 'train' and in 'validation'"
    ) as e:
        run_reward(run)
    one_line(e)
    with pytest.raises(InputError, match=r"is in split 'train' and in 'validation'; keep it in one of them"):
        run_reward_evaluation(RewardPlan(None, run.folder.path, ()), tmp_path / "out", reporter=QUIET, command="")


def test_a_criterion_without_data_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    pairs = preferences(8, seed=1)
    pairs = [dataclasses.replace(p, criterion="helpful" if i % 4 else "harmless") for i, p in enumerate(pairs)]
    run = write(make_run(tmp_path, criteria={"helpful": 1.0, "honest": 1.0}), marked(pairs, preferences(8, seed=2)))
    with pytest.raises(
        InputError,
        match=r"reward\.criteria: 'honest' has no strict pairs .*harmless \(2 strict\), helpful \(6 strict\)",
    ) as e:
        run_reward(run)
    one_line(e)
    assert not run.folder.file("reward_model").exists()


def test_nothing_held_out_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    run = write(make_run(tmp_path), marked(preferences(8, seed=1), []))
    with pytest.raises(InputError, match="0 strict pairs are held out"):
        run_reward(run)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (RewardPlan(None, None, ()), "--source, --run: give exactly one"),
        (RewardPlan("demo/judge", None, ()), "has no pairs to measure on; give --pairs FILE"),
        (RewardPlan("demo/judge", None, ("x.jsonl",), shares=(0.5, 1.0)), "trains on a run's own pairs; give --run"),
        (RewardPlan("demo/judge", None, ("no/such.jsonl",)), r"no/such\.jsonl"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path: Path, plan: RewardPlan, message: str) -> None:
    with pytest.raises(InputError, match=message) as e:
        run_reward_evaluation(plan, tmp_path / "out", reporter=QUIET, command="")
    one_line(e)


def test_a_set_without_what_accuracy_needs_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a question without answers"}\n')
    with pytest.raises(InputError, match=r"prompts\.jsonl line 1.*: --pairs needs two answers of which one") as e:
        run_reward_evaluation(RewardPlan("demo/judge", None, (str(file),)), tmp_path, reporter=QUIET, command="")
    one_line(e)


@pytest.mark.parametrize("text", ["1", "0.5,0.25", "0,1", "0.5,2", "a,b"])
def test_shares_that_do_not_grow_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--shares"):
        read_shares(text)
