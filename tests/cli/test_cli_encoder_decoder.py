"""The whole loop on T5 and BART, by every family of algorithms; and the chapter's lab, with its own file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli import small, tiny_encoder_decoders, tiny_models
from cli.running import humanward, leftovers
from safetensors.torch import load_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "dialogsum-detox.toml"
BUILD = {
    "t5-tied": lambda folder: tiny_encoder_decoders.t5(folder, tied=True),
    "t5-untied": tiny_encoder_decoders.t5,
    "bart": tiny_encoder_decoders.bart,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """t5-tied/, t5-untied/, bart/, and the classifiers roberta/ and bert/."""
    folder = tmp_path_factory.mktemp("encoder-decoders")
    for name, build in BUILD.items():
        build(folder / name)
    tiny_models.roberta(folder / "roberta")
    tiny_models.bert(folder / "bert")
    return folder


def configuration(models: Path, folder: Path, name: str, algorithm: str, **changes: dict[str, Any]) -> Path:
    values = small.settings(models, folder, trained=algorithm not in ("best-of-n",))
    values["model"]["policy"] = str(models / name)
    values["algorithm"] = algorithm
    if algorithm not in ("ppo", "grpo"):
        del values["ppo"]
    if algorithm == "grpo":
        values["ppo"] = {k: v for k, v in values["ppo"].items() if k != "critic_warmup_steps"}
    if algorithm == "best-of-n":
        values["best_of_n"] = {"samples": 2}
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys}
    return small.write(folder / "config.toml", values)


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("t5-tied", "ppo"),
        ("t5-untied", "ppo"),
        ("bart", "ppo"),
        ("t5-untied", "grpo"),
        ("bart", "dpo"),
        ("t5-tied", "kto"),
        ("t5-untied", "orpo"),
        ("bart", "sft"),
        ("t5-tied", "best-of-n"),
    ],
)
def test_the_whole_loop(name: str, algorithm: str, models: Path, tmp_path: Path) -> None:
    """Sampling, simulated rankings, a reward model, training, evaluation, report, chat."""
    run = tmp_path / "run"
    outcome = humanward("run", configuration(models, tmp_path, name, algorithm), "--out", run, "--json")
    report = outcome.json()
    assert report["kl"]["at_start"] == 0 if algorithm in ("ppo", "grpo") else abs(report["kl"]["at_start"] or 0) < 1e-5
    assert report["toxicity"]["before"]["n"] == 6
    assert leftovers(run) == []
    if algorithm in ("ppo", "grpo", "best-of-n"):
        assert (report["reward_model"] is None) == (algorithm == "best-of-n")
    if algorithm != "best-of-n":
        assert any(
            bool(w.abs().sum()) for k, w in load_file(run / "adapter/adapter_model.safetensors").items() if "_B" in k
        )
    answer = humanward("chat", run, "--prompt", "what is b?", "--json").json()
    assert set(answer) >= {"before", "after", "toxicity"}


def test_the_lab_runs_from_its_own_file(models: Path, tmp_path: Path) -> None:
    """examples/dialogsum-detox.toml as it is shipped: names, sizes and the prompts' file are changed, no more."""
    rows = [
        {
            "fname": f"train_{i}",
            "dialogue": f"#Person1#: {'Good morning. ' * (3, 13, 16, 90)[i % 4]}\n"
            f"#Person2#: Hello number {i}, how are you?",
            "summary": "#Person1# greets #Person2#.",
            "topic": "greeting",
        }
        for i in range(60)
    ]
    lengths = [len(row["dialogue"]) for row in rows]
    data = tmp_path / "dialogsum.train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changes = {
        "model.policy": models / "t5-untied",
        "model.max_prompt_tokens": 1200,  # one token a byte here
        "prompts.path": data,
        "reward.classifier": models / "roberta",
        "evaluation.judge": models / "bert",
        "sampling.max_new_tokens": 8,
        "ppo.steps": 3,  # two of them train the critic alone
        "ppo.rollout_size": 8,
        "ppo.minibatch_size": 4,
        "ppo.micro_batch_size": 4,
        "prompts.test_fraction": 0.2,
        "prompts.validation_fraction": 0.1,
        "evaluation.prompts": 4,
        "best_of_n.samples": 2,
        "best_of_n.prompts": 2,
    }
    settings = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    outcome = humanward("run", EXAMPLE, "--out", tmp_path / "run", *settings, "--json")
    report = outcome.json()
    assert report["kl"]["at_start"] == 0
    assert report["reward"]["source"] == str(models / "roberta")
    stages = json.loads((tmp_path / "run" / "stages.json").read_text(encoding="utf-8"))
    assert stages["prompts"]["too_few_characters"] == sum(n < 200 for n in lengths) > 0
    assert stages["prompts"]["too_many_characters"] == sum(n > 1000 for n in lengths) > 0
    prompts = [json.loads(line) for line in (tmp_path / "run" / "prompts.jsonl").read_text().splitlines()]
    assert len(prompts) == stages["prompts"]["prompts"] == sum(200 <= n <= 1000 for n in lengths)
    texts = {row["dialogue"] for row in rows}
    for prompt in prompts:
        head, dialogue, tail = prompt["text"].split("\n\n")
        assert (head, tail) == ("Summarize the following conversation.", "Summary: ")
        assert dialogue in texts
    adapter = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["r"], adapter["lora_alpha"], sorted(adapter["target_modules"])) == (32, 32.0, ["q", "v"])
    names = {name.rsplit(".", 3)[1] for name in load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")}
    assert names == {"q", "v"}
    models_of_run = json.loads((tmp_path / "run" / "models.json").read_text(encoding="utf-8"))
    assert {use: model["name"] for use, model in models_of_run.items()} == {
        "policy": str(models / "t5-untied"),
        "reward": str(models / "roberta"),
        "judge": str(models / "bert"),
    }
    assert all(len(model["sha256"]) == 64 for model in models_of_run.values())
    assert report["versions"]["policy"] == f"{models / 't5-untied'} (sha256 {models_of_run['policy']['sha256']})"
