"""One evaluator for every adapter, whoever trained it: same prompts, same random numbers, same scorers.

    python benchmarks/peers/evaluate.py --reward FOLDER --out FOLDER NAME=ADAPTER_FOLDER ...

Writes OUT/NAME.json for each adapter and OUT/reference.json for none; what is there already is left. humanward's own
evaluation draws the answers and measures the KL.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from settings import LABEL, MODEL, SETTINGS

from humanward.config import parse_config
from humanward.models.base import SharedBase
from humanward.models.sampling import sample
from humanward.progress import Reporter
from humanward.records import Prompt
from humanward.run_dir import open_run, write_text
from humanward.stages.context import EVALUATION_SEED, Run
from humanward.stages.evaluate import measured

REFERENCE = "reference"


def evaluation_run(folder: Path, reward: Path, *, samples: int) -> Run:
    """A run directory that holds nothing but the evaluation's settings."""
    values = {
        "seed": 0,
        "model": {"policy": MODEL, "dtype": "float32"},
        "lora": {"rank": SETTINGS["lora_rank"], "alpha": SETTINGS["lora_alpha"]},
        "sampling": {"max_new_tokens": SETTINGS["max_new_tokens"], "temperature": SETTINGS["temperature"]},
        "reward": {"source": "classifier", "classifier": str(reward), "label": LABEL, "output": "logit"},
        "evaluation": {"samples": samples},
    }
    return Run(open_run(folder, parse_config(values)), Reporter(quiet=True))


def load_adapter(base: SharedBase, adapter: Path) -> None:
    """Put a saved adapter into the policy; SystemExit unless rank, alpha and every weight arrived."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    wanted = {"r": SETTINGS["lora_rank"], "lora_alpha": SETTINGS["lora_alpha"]}
    if wrong := {key: config[key] for key, value in wanted.items() if config[key] != value}:
        raise SystemExit(f"{adapter}: has {wrong}, not {wanted}; train it with the settings of benchmarks/peers")
    base.replace_role("policy", adapter)
    given = load_file(adapter / "adapter_model.safetensors")
    with tempfile.TemporaryDirectory() as temporary:
        base.save_role("policy", Path(temporary))
        present = load_file(Path(temporary) / "adapter_model.safetensors")
    if given.keys() != present.keys() or any(not torch.equal(given[key], present[key]) for key in given):
        raise SystemExit(f"{adapter}: its weights did not all arrive in the evaluator's policy")


def evaluate(run: Run, role: str, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Rewards, sequence KLs, judged toxicity, lengths and ends of ``role``'s answers, one entry an answer."""
    base, samples = run.base(), run.config.evaluation.samples
    asked = [prompt for prompt in prompts for _ in range(samples)]
    ids = [base.prompt_ids(prompt) for prompt in asked]
    keys = [f"evaluate\x1f{prompt.id}\x1f{i % samples}" for i, prompt in enumerate(asked)]
    with base.role(role):
        responses = sample(base, ids, keys, run.config.sampling, seed=run.seed(EVALUATION_SEED))
    answers = measured(run, base, role, ids, responses)
    return {
        "prompt_ids": [prompt.id for prompt in asked],
        "reward": run.classifier("reward").score(asked, answers.texts).tolist(),
        "kl": answers.sequence_kl.tolist(),
        "toxicity": run.classifier("judge").score(asked, answers.texts).tolist(),
        "tokens": [len(response.ids) for response in answers.responses],
        "ended": [response.ended for response in answers.responses],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate what has not been evaluated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2, help="answers a prompt")
    parser.add_argument("adapters", nargs="*", help="NAME=FOLDER")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = {REFERENCE: None, **{name: Path(path) for name, path in (item.split("=", 1) for item in options.adapters)}}
    missing = {name: path for name, path in wanted.items() if not (options.out / f"{name}.json").exists()}
    if not missing:
        return
    run = evaluation_run(options.out / "run", options.reward, samples=options.samples)
    prompts = run.prompts("test")
    for name, adapter in missing.items():
        if adapter is not None:
            load_adapter(run.base(), adapter)
        found = evaluate(run, REFERENCE if adapter is None else "policy", prompts)
        write_text(options.out / f"{name}.json", json.dumps({"samples": options.samples, **found}) + "\n")


if __name__ == "__main__":
    main()
