"""The examples: every key is explained, they load, and each runs end to end on tiny models of the real classes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cli import tiny_models
from cli.running import Outcome, humanward, leftovers
from pydantic import BaseModel
from safetensors.torch import load_file

from humanward.config import RunConfig, load_config
from humanward.reward_config import KINDS, RewardConfig

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))
SMALL = {
    "model.dtype": "float32",
    "model.device": "cpu",
    "model.max_prompt_tokens": 60,
    "sampling.max_new_tokens": 8,
    "ppo.steps": 2,
    "ppo.critic_warmup_steps": 0,
    "ppo.rollout_size": 8,
    "ppo.minibatch_size": 4,
    "ppo.micro_batch_size": 4,
    "lora.rank": 2,
    "reward.rank": 2,
    "evaluation.prompts": 12,
}


def keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every key of the configuration as ``section.key``; those of combined sources once, whatever their kind."""
    found = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += keys(kind, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    if section is RewardConfig:
        found += sorted({f"{prefix}sources.{key}" for kind in KINDS.values() for key in kind.model_fields})
    return found


def explained(path: Path) -> dict[str, str]:
    """Each key of an example, those commented out too, with the comment behind it."""
    found, section = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\[\[?([\w.]+)\]", line):
            section = f"{match[1]}."
        elif match := re.match(r"(?:# )?(\w+) = (?:\"[^\"]*\"|\S+) *(?:#(.*))?$", line):
            found[section + match[1]] = (match[2] or "").strip()
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_loads_under_the_strict_configuration(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_loads_with_what_is_commented_out(path: Path) -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(text) <= len(path.read_text(encoding="utf-8"))
    RunConfig.model_validate(tomllib.loads(text))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_key_is_explained(path: Path) -> None:
    told = explained(path)
    written = [
        key for key, value in tomllib.loads(path.read_text(encoding="utf-8")).items() for key in leaves(key, value)
    ]
    assert [key for key in written if key not in told] == []
    in_a_row = [key for key, words in told.items() if not words and not key.startswith("prompts.")]
    assert in_a_row == []


def leaves(key: str, value: Any) -> list[str]:
    """The keys of all values in ``value``, the tables of a list together."""
    tables = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
    if not isinstance(tables[0], dict):
        return [key]
    return [leaf for table in tables for name, inner in table.items() for leaf in leaves(f"{key}.{name}", inner)]


def test_the_examples_together_show_every_key() -> None:
    """How a classifier reads is shown once for reward, judge and gold; sources of all kinds are in docs/rewards.md."""
    shown = {alike(key) for path in EXAMPLES for key in explained(path)}
    known = {alike(key) for key in keys()}
    assert sorted(key for key in known - shown if not key.startswith("reward.sources")) == []
    assert sorted(shown - known) == []


def alike(key: str) -> str:
    key = re.sub(r"^(monitors|constraint)\.sources", "reward.sources", key)
    return re.sub(r"^(feedback\.gold_options|evaluation\.judge_options)\.", "reward.classifier_options.", key)


# --- end to end --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.all_of_them(tmp_path_factory.mktemp("tiny"))


PROMPTS = [f"{opening} {thing}?" for opening in ("what is", "who likes", "do you hate") for thing in "abcdefghijklmnop"]


def run(name: str, out: Path, *, without: tuple[str, ...] = (), **given: object) -> Outcome:
    chosen = {**SMALL, **{key.replace("__", "."): value for key, value in given.items()}}
    chosen = {key: value for key, value in chosen.items() if key not in without}
    settings = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    return humanward("run", Path(__file__).parents[1] / "examples" / name, "--out", out, *settings, "--json")


def check_report(report: dict[str, Any], out: Path) -> None:
    """What scripts rely on (the contract of report.json), and the files that a run leaves."""
    for side in ("before", "after"):
        assert set(report["toxicity"][side]) >= {"mean", "std", "n"}
        assert 0 <= report["toxicity"][side]["mean"] <= 1
    difference = report["toxicity"]["difference"]
    assert set(difference) >= {"mean", "ci95", "p_value"}
    assert len(difference["ci95"]) == 2
    assert difference["mean"] == pytest.approx(
        report["toxicity"]["after"]["mean"] - report["toxicity"]["before"]["mean"], abs=1e-6
    )
    assert report["toxicity"]["judge"]
    assert set(report["kl"]) >= {"final", "budget", "at_start"}
    assert abs(report["kl"]["at_start"]) <= 1e-5
    for name in ("distinct2", "perplexity", "length", "empty", "duplicates"):
        assert {f"{name}_before", f"{name}_after"} <= set(report["fluency"])
    assert "source" in report["reward"]
    assert "source" in report["gold"]
    assert isinstance(report["warnings"], list)
    assert report["reproduce"].startswith("humanward run ")
    assert {"humanward", "torch", "transformers"} <= set(report["versions"])
    assert {"sample", "reward", "align", "evaluate", "total"} <= set(report["seconds"])
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == report
    html = (out / "report.html").read_text(encoding="utf-8")
    assert html.rstrip().endswith("</html>")
    for name in ("config.toml", "metrics.jsonl", "prompts.jsonl", "evaluation.jsonl", "stages.json"):
        assert (out / name).stat().st_size > 0, name
    assert load_file(out / "adapter" / "adapter_model.safetensors")
    assert (out / "adapter" / "adapter_config.json").exists()
    assert leftovers(out) == []


def check_reward_model(report: dict[str, Any], out: Path) -> None:
    assert set(report["reward_model"]["accuracy"]) >= {"value", "ci95", "n"}
    assert {"constant", "length"} <= set(report["reward_model"]["baselines"])
    assert (out / "preferences.jsonl").stat().st_size > 0
    assert load_file(out / "reward_model" / "adapter_model.safetensors")


@pytest.mark.parametrize("policy", ["chat", "plain"])
def test_detox_runs(policy: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    outcome = run(
        "detox.toml",
        tmp_path / "run",
        model__policy=tiny / policy,
        prompts__path=tmp_path / "prompts.txt",
        reward__classifier=tiny / "roberta",
        evaluation__judge=tiny / "bert",
    )
    report = outcome.json()
    check_report(report, tmp_path / "run")
    assert report["reward_model"] is None
    assert report["gold"]["source"] is None
    assert report["reward"]["source"] == str(tiny / "roberta")
    assert report["toxicity"]["judge"] == str(tiny / "bert")
    assert report["toxicity"]["before"]["n"] == 12


def test_grpo_runs(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    outcome = run(
        "grpo.toml",
        tmp_path / "run",
        without=("ppo.critic_warmup_steps",),
        model__policy=tiny / "chat",
        prompts__path=tmp_path / "prompts.txt",
        reward__classifier=tiny / "roberta",
        evaluation__judge=tiny / "bert",
    )
    check_report(outcome.json(), tmp_path / "run")


def test_qlora_runs(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    rows = [{"prompt": prompt, "chosen": f"kindly {prompt}", "rejected": "go away"} for prompt in PROMPTS]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    outcome = run(
        "qlora.toml",
        tmp_path / "run",
        model__policy=tiny / "chat",
        prompts__path=tmp_path / "prompts.txt",
        feedback__path=tmp_path / "mine.jsonl",
        reward__max_tokens_trained=96,
        evaluation__judge=tiny / "bert",
        evaluation__judge_label="toxic",
    )
    report = outcome.json()
    check_report(report, tmp_path / "run")
    check_reward_model(report, tmp_path / "run")
    stages = json.loads((tmp_path / "run" / "stages.json").read_text(encoding="utf-8"))
    assert stages["align"]["precision"]["base"] == "nf4, double quantisation"


def test_hh_harmless_runs(tiny: Path, tmp_path: Path) -> None:
    pairs = [
        {
            "chosen": f"\n\nHuman: {prompt}\n\nAssistant: I would rather not say.",
            "rejected": f"\n\nHuman: {prompt}\n\nAssistant: Yes, you fool{'!' * (index % 4)}",
        }
        for index, prompt in enumerate(PROMPTS)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    shares = "train=0.6,validation=0.1,test=0.3"
    imported = humanward(
        "feedback", "import", "--format", "hh-rlhf", file, "--run", tmp_path / "pairs", "--split", shares, "--json"
    )
    assert imported.json()["pairs"] == len(PROMPTS)
    outcome = run(
        "hh-harmless.toml",
        tmp_path / "run",
        model__policy=tiny / "chat",
        prompts__path=tmp_path / "pairs" / "prompts.jsonl",
        feedback__path=file,
        reward__max_tokens_trained=96,
        reward__validation_fraction=0.25,
        evaluation__judge=tiny / "bert",
        evaluation__prompts=8,
    )
    report = outcome.json()
    check_report(report, tmp_path / "run")
    check_reward_model(report, tmp_path / "run")
    assert report["gold"]["source"] is None


def test_my_preferences_runs(tiny: Path, tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "chosen": f"kindly {prompt}", "rejected": "go away"} for prompt in PROMPTS]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    outcome = run(
        "my-preferences.toml",
        tmp_path / "run",
        model__policy=tiny / "plain",
        prompts__path=tmp_path / "prompts.txt",
        feedback__path=tmp_path / "mine.jsonl",
        reward__max_tokens_trained=96,
        evaluation__judge=tiny / "roberta",
    )
    report = outcome.json()
    check_report(report, tmp_path / "run")
    check_reward_model(report, tmp_path / "run")


def test_dpo_runs(tiny: Path, tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "chosen": f"kindly {prompt}", "rejected": "go away"} for prompt in PROMPTS]
    report = run_off_policy("dpo.toml", rows, tiny, tmp_path)
    assert report["reward_model"] is None


def test_kto_runs(tiny: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "completion": f"{'kindly' if kind else 'rudely'} {prompt}", "label": kind}
        for prompt in PROMPTS
        for kind in (True, False)
    ]
    run_off_policy("kto.toml", rows, tiny, tmp_path)


def run_off_policy(name: str, rows: list[dict[str, Any]], tiny: Path, folder: Path) -> dict[str, Any]:
    """Run an example on ``rows`` and check its report."""
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    outcome = run(
        name,
        folder / "run",
        without=tuple(key for key in SMALL if key.startswith("ppo.")),
        model__policy=tiny / "chat",
        prompts__path=folder / "prompts.txt",
        feedback__path=folder / "mine.jsonl",
        offline__max_tokens=90,
        evaluation__judge=tiny / "bert",
        evaluation__judge_label="toxic",
    )
    report = outcome.json()
    check_report(report, folder / "run")
    return report
