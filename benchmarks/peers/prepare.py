"""What all runs share: the anchored reward, and the preference pairs for DPO. Each is made once and then kept.

Uses humanward alone; the peers read plain files.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from settings import DETECTOR, LABEL, MODEL, SETTINGS
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from humanward import demo
from humanward.config import ModelConfig, SamplingConfig
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.models.sampling import sample
from humanward.prompts import read_prompts
from humanward.records import Preference, Prompt, read_jsonl, write_jsonl
from humanward.reward.sources import Classifier

ANCHOR_PROMPTS, ANCHOR_SEED = 512, 12345
PAIR_PROMPTS, PAIR_SEED = 300, 12345
PAIRS = "pairs.jsonl"


def prompts_of(split: str) -> list[Prompt]:
    """The demo's prompts of a split, in the file's order."""
    return [prompt for prompt in read_prompts(demo.path("demo/prompts")).prompts if prompt.split == split]


def anchored_reward(folder: Path) -> dict[str, Any]:
    """Make ``folder``: the detector with shift and scale folded into its last layer. Returns both, and their samples.

    The label's logit then has mean 0 and standard deviation 1 on answers of the reference to training prompts, by
    numbers that no run can change, whoever reads the logit.
    """
    facts = folder / "anchor.json"
    if facts.exists():
        return json.loads(facts.read_text(encoding="utf-8"))
    base = SharedBase(load_model(ModelConfig(policy=MODEL, dtype="float32")))
    prompts = prompts_of("train")[:ANCHOR_PROMPTS]
    sampling = SamplingConfig(max_new_tokens=SETTINGS["max_new_tokens"], temperature=SETTINGS["temperature"])
    responses = sample(
        base, [base.prompt_ids(p) for p in prompts], [f"anchor\x1f{p.id}" for p in prompts], sampling, seed=ANCHOR_SEED
    )
    texts = [base.response_text(response.ids) for response in responses]
    scores = Classifier(DETECTOR, LABEL).score_texts(texts)
    shift, scale = float(scores.mean()), float(scores.std(correction=0))
    path = str(demo.path(DETECTOR))
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    label = {name: int(i) for i, name in model.config.id2label.items()}[LABEL]
    with torch.no_grad():
        model.classifier.weight[label] /= scale
        model.classifier.bias[label].sub_(shift).div_(scale)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path, local_files_only=True).save_pretrained(folder)
    anchored = Classifier(str(folder), LABEL).score_texts(texts)
    found = {
        "shift": shift,
        "scale": scale,
        "samples": len(texts),
        "mean": float(anchored.mean()),
        "std": float(anchored.std(correction=0)),
    }
    if abs(found["mean"]) > 1e-3 or abs(found["std"] - 1) > 1e-3:
        raise SystemExit(
            f"{folder}: anchored scores have mean {found['mean']} and deviation {found['std']}, not 0 and 1"
        )
    facts.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def preference_run(folder: Path, environment: dict[str, str]) -> Path:
    """A run with simulated annotators' preferences on ``PAIR_PROMPTS`` prompts; returns its strict pairs' file.

    They are freed of the split that the run made for its reward model, so that everybody trains on all of them.
    """
    pairs = folder / PAIRS
    if not pairs.exists():
        shutil.rmtree(folder, ignore_errors=True)
        config = folder.with_suffix(".toml")
        config.write_text(
            f'seed = {PAIR_SEED}\n[model]\npolicy = "{MODEL}"\ndtype = "float32"\n[sampling]\n'
            f"max_new_tokens = {SETTINGS['max_new_tokens']}\n[feedback]\nprompts = {PAIR_PROMPTS}\n"
            "noise = 0.05\ntie_width = 0.15\n",
            encoding="utf-8",
        )
        for words in (["sample", "--config", str(config)], ["feedback", "simulate"]):
            humanward([*words, "--run", str(folder)], environment)
        kept = [replace(p, split="") for p in read_jsonl(folder / "preferences.jsonl", Preference) if not p.tie]
        write_jsonl(pairs, kept)
    return pairs


def humanward(words: list[str], environment: dict[str, str]) -> None:
    """Run a command of humanward in a process of its own; SystemExit where it fails."""
    command = [sys.executable, "-c", "from humanward.cli import main; main()", *words]
    if code := subprocess.run(command, env=environment, stdout=sys.stderr).returncode:
        raise SystemExit(f"humanward {' '.join(words)}: ended with code {code}")


def pairs_of(preferences: Path) -> list[dict[str, str]]:
    """The pairs as plain texts for the peers: prompt, chosen, rejected."""
    text_of = {prompt.id: prompt.text for prompt in prompts_of("train")}
    return [
        {"prompt": text_of[p.prompt_id], "chosen": p.chosen, "rejected": p.rejected}
        for p in read_jsonl(preferences, Preference)
    ]
