"""The reward model on real human preferences: accuracy, baselines and calibration, in folds split by prompt.

Anthropic's HH-RLHF harmlessness pairs. Every pair is judged once, by a model that saw none with the same opening turn;
the embedded base saw none of them. Score differences of finished folds are kept in --out, so a stopped run goes on.

    python benchmarks/reward_hh.py --threads 1 --out runs/bench/reward_hh --json > runs/bench/reward_hh.json
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
from humanward.evaluation.reward_calibration import calibration
from humanward.evaluation.statistics import accuracy, accuracy_difference, outcomes
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.preferences import group_by_prompt
from humanward.prompts import opening_key
from humanward.records import Preference
from humanward.reward.calibration import fit_temperature
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
            line = (
                f"fold {fold}: step {step.step}/{step.steps}  loss {step.loss:.3f}  {time.monotonic() - started:.0f} s"
            )
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


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is published, as one JSON object; of the folds that are done with --only-fold.

    A fold's temperature is fitted on the score differences of the other folds, each judged by a model that had not seen
    them, so no pair has a part in the temperature that judges it.
    """
    pairs = read_pairs(options.data, options.limit)
    openings = [opening_key(pair.prompt) for pair in pairs]
    fold = np.array([fold_of(pair, options.folds, options.seed) for pair in pairs])
    numbers = list(range(options.folds)) if options.only_fold is None else options.only_fold
    found = {number: fold_outcomes(pairs, fold, options, number) for number in numbers}
    places = np.concatenate([np.flatnonzero(fold == number) for number in numbers])
    clusters, of_fold = [openings[place] for place in places], fold[places]
    difference = np.concatenate([np.subtract(*np.array(found[number]["scores"]).T) for number in numbers])
    right = {name: np.concatenate([found[number][name] for number in numbers]) for name in NAMES[1:]}
    right["reward_model"] = outcomes(difference, np.zeros(len(difference)))
    temperature = {
        number: fit_temperature(difference[of_fold != number] if len(numbers) > 1 else difference).value
        for number in numbers
    }
    each = np.array([temperature[number] for number in of_fold])
    return {
        "benchmark": "reward_hh",
        "data": FILE,
        "pairs": len(clusters),
        "prompts": len(set(clusters)),
        "accuracy": {name: as_json(accuracy(right[name], clusters, seed=0)) for name in NAMES},
        "difference": {
            f"to_{name}": difference_as_json(accuracy_difference(right["reward_model"], right[name], clusters, seed=0))
            for name in NAMES[1:]
        },
        "calibration": {
            "temperatures": {str(number): value for number, value in temperature.items()},
            "before": calibration(difference, 1.0, seed=0),
            "after": calibration(difference, each, seed=0),
        },
        "folds": [
            {
                "fold": number,
                "pairs": int((of_fold == number).sum()),
                **{name: float(right[name][of_fold == number].mean()) for name in NAMES},
                "seconds": found[number]["seconds"],
            }
            for number in numbers
        ],
        "settings": {name: getattr(options, name) for name in SETTINGS},
        **describe_machine(),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; the defaults are those of the published numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/reward_hh"), help="where folds are kept")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help=f"folder that holds {FOLDER}/")
    parser.add_argument("--policy", default="demo/policy", help="the base: demo/policy, a folder or a hub id")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only-fold", type=int, action="append", help="this fold alone, from 0; may be repeated")
    parser.add_argument("--limit", type=int, help="use only the first pairs")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=16, help="prompts in an optimizer step")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--rank", type=int, default=16, help="width of the LoRA matrices")
    parser.add_argument("--max-tokens", type=int, default=512, help="prompt + answer; prompts lose their beginning")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="processor threads; default: PyTorch's choice")
    parser.add_argument("--seed", type=int, default=0, help="decides folds, first weights and order")
    return parser.parse_args(arguments)


def main() -> None:
    """Run and print."""
    options = parse()
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        found = measure(options)
    except InputError as error:
        sys.exit(f"reward_hh: {error}")
    if options.json:
        print(json.dumps(found))
        return
    for name, estimate in found["accuracy"].items():
        low, high = estimate["ci95"]
        print(f"{name:13} {estimate['value']:.3f}  ({low:.3f} to {high:.3f})  n {estimate['n']}")
    for name, difference in found["difference"].items():
        low, high = difference["ci95"]
        print(f"{name:13} {difference['mean']:+.3f}  ({low:+.3f} to {high:+.3f})  p {difference['p_value']:.4f}")
    for when in ("before", "after"):
        one = found["calibration"][when]
        low, high = one["band"]
        print(f"calibration error {when} the temperature {one['ece']:.3f}, band {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
