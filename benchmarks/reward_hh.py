"""The reward model on real human preferences: accuracy, baselines and calibration, in folds split by prompt.

Anthropic's HH-RLHF harmlessness pairs. Every pair is judged once, by a model that saw no pair with the same opening turn;
the embedded base saw none of them. Score differences of finished folds are kept in --out, so a stopped run goes on.

    python benchmarks/reward_hh.py --out runs/bench/reward_hh --json > runs/bench/reward_hh.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hh_harmless import FILE, FOLDER, by_linear_model, fold_of, read_pairs
from machine import describe_machine

from humanward.config import LoraConfig, ModelConfig, RewardConfig
from humanward.errors import InputError
from humanward.evaluation.reward_accuracy import as_json, difference_as_json, length_outcomes
from humanward.evaluation.statistics import accuracy, accuracy_difference, outcomes
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.preferences import group_by_prompt
from humanward.prompts import opening_key
from humanward.records import Preference
from humanward.reward.training import TrainingStep, train_reward_model

NAMES = ("reward_model", "length", "linear")
SETTINGS = ("policy", "folds", "seed", "epochs", "learning_rate", "batch_size", "weight_decay", "rank", "max_tokens")


def judge(train: Sequence[Preference], test: Sequence[Preference], options: argparse.Namespace, fold: int) -> Any:
    """(N, 2) anchored scores of chosen and rejected by a reward model trained on ``train``."""
    base = SharedBase(load_model(ModelConfig(policy=options.policy, dtype=options.dtype)))
    config = RewardConfig(
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        weight_decay=options.weight_decay,
        rank=options.rank,
        max_tokens_trained=options.max_tokens,
    )
    started = time.monotonic()

    def tell(step: TrainingStep) -> None:
        if step.step % 10 == 0 or step.step == step.steps:
            line = f"fold {fold}: step {step.step}/{step.steps}  loss {step.loss:.3f}  {time.monotonic() - started:.0f} s"
            print(line, file=sys.stderr, flush=True)

    model = train_reward_model(
        base, group_by_prompt(train), config, LoraConfig(), seed=options.seed * 1000 + fold, on_step=tell
    )
    prompts = [pair.prompt for pair in test]
    both = [model.score(prompts, [getattr(pair, side) for pair in test]) for side in ("chosen", "rejected")]
    return torch.stack(both, 1).double().numpy()


def fold_outcomes(pairs: Sequence[Preference], fold: np.ndarray, options: argparse.Namespace, number: int) -> Any:
    """What fold ``number`` gives: scores (N, 2), outcomes of the baselines, seconds; read where it is done already."""
    settings = {name: getattr(options, name) for name in SETTINGS} | {"pairs": len(pairs)}
    file = options.out / f"fold-{number}.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["settings"] != settings:
            raise InputError(f"{file}: was made with other settings; name a new folder with --out")
        return kept
    begun, inside = time.monotonic(), fold == number
    test = [pair for pair, held in zip(pairs, inside, strict=True) if held]
    train = [pair for pair, held in zip(pairs, inside, strict=True) if not held]
    shorter = length_outcomes(train).mean() >= 0.5
    by_length = length_outcomes(test) if shorter else 1 - length_outcomes(test)
    found = {
        "settings": settings,
        "length": by_length.tolist(),
        "linear": by_linear_model(train, test, tuned=False).tolist(),
        "scores": judge(train, test, options, number).tolist(),
        "seconds": round(time.monotonic() - begun, 1),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(found), encoding="utf-8")
    temporary.replace(file)
    return found
