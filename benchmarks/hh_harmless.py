"""Real human preferences: how often a reward model on the demo base agrees with people, in folds split by prompt.

Trains on Anthropic's HH-RLHF harmlessness pairs and compares with choosing the shorter answer and with linear models
over word n-grams. Every pair is judged once, by a model that saw no pair with the same opening turn.

    python benchmarks/hh_harmless.py --json > runs/bench/hh_harmless.json
"""

from __future__ import annotations

import argparse
import hashlib
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
from machine import describe_machine

from humanward.config import LoraConfig, ModelConfig, RewardConfig
from humanward.errors import InputError
from humanward.evaluation.reward_accuracy import as_json, difference_as_json, length_outcomes
from humanward.evaluation.statistics import accuracy, accuracy_difference, outcomes
from humanward.feedback.formats import import_files
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.preferences import derive_preferences, group_by_prompt
from humanward.prompts import opening_key
from humanward.records import Preference
from humanward.reward.training import TrainingStep, train_reward_model

FOLDER, FILE = "hh_rlhf_harmless", "harmless-base.test.subset.jsonl.gz"
LINEAR_C, TUNED_C = 1.0, (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def read_pairs(data: Path, limit: int | None) -> list[Preference]:
    """All strict pairs of the file below ``data``, or the first ``limit``."""
    file = data / FOLDER / FILE
    if not file.exists():
        raise InputError(f"{file}: no such file; name the folder that holds {FOLDER}/ with --data")
    feedback = import_files([file], "hh-rlhf").feedback
    derived = derive_preferences(feedback.prompts, feedback.completions, feedback.rankings)
    return [pair for pair in derived.preferences if not pair.tie][:limit]


def fold_of(pair: Preference, folds: int, seed: int) -> int:
    """The fold of a pair, by a hash of the conversation's first human turn."""
    digest = hashlib.sha256(f"{seed}\x1f{opening_key(pair.prompt)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def by_reward_model(
    train: Sequence[Preference], test: Sequence[Preference], options: argparse.Namespace, fold: int
) -> np.ndarray:
    """(N,) outcomes on ``test`` of a reward model trained on ``train``."""
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
        if step.step % 20 == 0 or step.step == step.steps:
            seconds = time.monotonic() - started
            print(
                f"fold {fold + 1}: step {step.step}/{step.steps}  loss {step.loss:.3f}  {seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    model = train_reward_model(
        base, group_by_prompt(train), config, LoraConfig(), seed=options.seed * 1000 + fold, on_step=tell
    )
    prompts = [pair.prompt for pair in test]
    chosen = model.score(prompts, [pair.chosen for pair in test])
    rejected = model.score(prompts, [pair.rejected for pair in test])
    return outcomes(chosen.double().numpy(), rejected.double().numpy())


def by_linear_model(train: Sequence[Preference], test: Sequence[Preference], *, tuned: bool) -> np.ndarray:
    """(N,) outcomes on ``test`` of a logistic regression on the difference of TF-IDF over words and word pairs.

    ``tuned`` chooses the regularisation by cross-validation inside ``train``, grouped by opening turn.
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    words.fit([text for pair in train for text in (pair.chosen, pair.rejected)])

    def difference(pairs: Sequence[Preference]) -> Any:
        return words.transform([p.chosen for p in pairs]) - words.transform([p.rejected for p in pairs])

    # Both orders of every pair, so that no side is favoured.
    inputs = sparse.vstack([difference(train), -difference(train)]).tocsr()
    labels = np.repeat([1, 0], len(train))
    model: Any = LogisticRegression(C=LINEAR_C, fit_intercept=False, max_iter=2000)
    if tuned:
        groups = [opening_key(pair.prompt) for pair in train] * 2
        model = GridSearchCV(model, {"C": list(TUNED_C)}, cv=GroupKFold(5))
        model.fit(inputs, labels, groups=groups)
    else:
        model.fit(inputs, labels)
    score = model.decision_function(difference(test))
    return outcomes(score, np.zeros(len(test)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is published, as one JSON object."""
    started = time.monotonic()
    pairs = read_pairs(options.data, options.limit)
    openings = [opening_key(pair.prompt) for pair in pairs]
    fold = np.array([fold_of(pair, options.folds, options.seed) for pair in pairs])
    names = ("reward_model", "length", "linear", "linear_tuned")
    right = {name: np.full(len(pairs), np.nan) for name in names}
    folds: list[dict[str, Any]] = []
    for number in range(options.folds if options.only_fold is None else 1):
        number = number if options.only_fold is None else options.only_fold
        begun = time.monotonic()
        inside = fold == number
        test = [pair for pair, held in zip(pairs, inside, strict=True) if held]
        train = [pair for pair, held in zip(pairs, inside, strict=True) if not held]
        shorter = length_outcomes(train).mean() >= 0.5
        right["length"][inside] = length_outcomes(test) if shorter else 1 - length_outcomes(test)
        right["linear"][inside] = by_linear_model(train, test, tuned=False)
        right["linear_tuned"][inside] = by_linear_model(train, test, tuned=True)
        right["reward_model"][inside] = by_reward_model(train, test, options, number)
        found = {name: float(right[name][inside].mean()) for name in names}
        folds.append({"fold": number, "pairs": len(test), **found, "seconds": round(time.monotonic() - begun, 1)})
        told = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(f"fold {number + 1} of {options.folds}: {len(test)} pairs  {told}", file=sys.stderr, flush=True)
    done = np.isfinite(right["reward_model"])
    clusters = [opening for opening, judged in zip(openings, done, strict=True) if judged]
    right = {name: values[done] for name, values in right.items()}
    ours = right["reward_model"]
    return {
        "benchmark": "hh_harmless",
        "data": FILE,
        "pairs": len(clusters),
        "prompts": len(set(clusters)),
        "accuracy": {name: as_json(accuracy(right[name], clusters, seed=0)) for name in names},
        "difference": {
            f"to_{name}": difference_as_json(accuracy_difference(ours, right[name], clusters, seed=0))
            for name in names[1:]
        },
        "folds": folds,
        "settings": {
            k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k not in ("json", "data")
        },
        "seconds": round(time.monotonic() - started, 1),
        **describe_machine(),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; the defaults are those of the published numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help=f"folder that holds {FOLDER}/")
    parser.add_argument("--policy", default="demo/policy", help="the base: demo/policy, a folder or a hub id")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only-fold", type=int, help="run one fold, counted from 0")
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
        sys.exit(f"hh_harmless: {error}")
    if options.json:
        print(json.dumps(found))
        return
    for name, estimate in found["accuracy"].items():
        low, high = estimate["ci95"]
        print(f"{name:13} {estimate['value']:.3f}  ({low:.3f} to {high:.3f})  n {estimate['n']}")
    for name, difference in found["difference"].items():
        low, high = difference["ci95"]
        print(f"{name:16} {difference['mean']:+.3f}  ({low:+.3f} to {high:+.3f})  p {difference['p_value']:.4f}")


if __name__ == "__main__":
    main()
