"""A plausible comparison without any model: for the tests, and for looking at the page.

python tests/evaluation/synthetic_compare.py FOLDER writes compare.html and compare.json there.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from humanward.algorithm_config import OFF_POLICY, ON_POLICY
from humanward.evaluation.best_of_n import Frontier, PromptAnswers
from humanward.evaluation.compare import ComparisonInputs, build_comparison
from humanward.evaluation.compare_page import render_comparison
from humanward.evaluation.compare_tables import RunResult
from humanward.evaluation.rows import Answer, EvaluationRow

# By algorithm: how often a toxic answer is left toxic, the reward, the KL, seconds.
LAWS: dict[str, tuple[float, float, float, float]] = {
    "ppo": (0.45, 0.55, 0.80, 95.0),
    "rloo": (0.42, 0.60, 0.85, 70.0),
    "grpo": (0.40, 0.66, 1.10, 72.0),
    "reinforce++": (0.47, 0.52, 0.75, 68.0),
    "sft": (0.85, 0.12, 0.30, 22.0),
    "dpo": (0.50, 0.50, 1.60, 35.0),
    "ipo": (0.55, 0.42, 1.10, 35.0),
    "orpo": (0.80, 0.15, 0.40, 28.0),
    "kto": (0.60, 0.33, 0.90, 40.0),
    "best-of-n": (0.38, 0.95, 1.84, 0.1),
}


def rows(algorithm: str, seed: int, prompts: int) -> list[EvaluationRow]:
    """One answer a prompt before and after; the answers before depend on the seed and the prompt alone."""
    left, reward, kl, _ = LAWS[algorithm]
    shift = np.random.default_rng([1, seed, *algorithm.encode()]).normal(scale=0.06)
    found = []
    for number in range(prompts):
        rng = np.random.default_rng([2, seed, number])
        risk = np.random.default_rng([3, number]).beta(0.4, 2.6)
        rude, still = rng.random() < risk, rng.random() < left + shift
        before, after = (0.6 + 0.35 * rng.random() if bad else 0.02 * rng.random() for bad in (rude, rude and still))
        sides = []
        for toxicity, gain, far, word in ((before, 0.0, 0.0, "well"), (after, reward + shift, kl, "now")):
            score = float(rng.normal() - 2 * toxicity + gain)
            text = f"{word} answer {int(1000 * toxicity)} to prompt {number} of seed {seed}" + " indeed" * (number % 5)
            moved = float(max(0.0, far + rng.normal() * math.sqrt(far))) if far else 0.0
            sides.append(Answer(text, 8 + number % 9, True, toxicity, 20.0, moved, score, 1 - toxicity))
        found.append(EvaluationRow(f"p{number}", f"prompt {number}?", 0, *sides))
    return found


def report(given: Sequence[EvaluationRow], *, broken: bool = False) -> dict[str, Any]:
    """What a comparison reads of report.json."""
    before, after = (np.array([getattr(row, side).toxicity for row in given]) for side in ("before", "after"))
    change = after - before
    half = 1.96 * float(change.std()) / math.sqrt(len(given))
    mean = float(change.mean())
    return {
        "outcome": "improved" if mean + half < 0 else "no evidence",
        "toxicity": {
            "before": {"mean": float(before.mean())},
            "after": {"mean": float(after.mean())},
            "difference": {
                "mean": mean,
                "ci95": [mean - half, mean + half],
                "p_value": 0.001,
                "relative": float(after.mean() / before.mean() - 1),
            },
        },
        "kl": {"final": 1.0},
        "fluency": {
            "distinct2_before": 0.8,
            "distinct2_after": 0.74,
            "perplexity_before": 20.0,
            "perplexity_after": 15.0,
            "duplicates_before": 0.01,
            "duplicates_after": 0.02,
            "checks": [
                {"label": "mean length", "passed": True},
                {"label": "duplicate responses", "passed": not broken},
            ],
        },
        "warnings": [],
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }


def run(algorithm: str, seed: int, prompts: int) -> RunResult:
    """One finished run."""
    given = rows(algorithm, seed, prompts)
    rng = np.random.default_rng([4, seed])
    seconds = LAWS[algorithm][3] * (1 + 0.05 * rng.random())
    on_policy = algorithm in ON_POLICY
    costs = {
        "align_seconds": seconds,
        "wall_seconds": seconds + 30,
        "peak_gigabytes": 1.4 + 0.3 * on_policy,
        "peak_gpu_gigabytes": None,
        "episodes": 1536 if on_policy else 0,
        "sequences": 6144 if on_policy else 2400 if algorithm in OFF_POLICY else 0,
        "optimizer_steps": 192 if on_policy else 30 if algorithm in OFF_POLICY else 0,
    }
    told = report(given, broken=algorithm == "grpo" and seed == 3)
    name = f"runs/{algorithm}-seed{seed}"
    return RunResult(algorithm, seed, name, "finished", rows=given, report=told, costs=costs, threads=(2,))


def frontier(prompts: int, samples: int = 16) -> Frontier:
    """Best-of-n on the same prompts."""
    found = []
    for number in range(prompts):
        rng = np.random.default_rng([5, number])
        risk = np.random.default_rng([3, number]).beta(0.4, 2.6)
        toxicity = [
            float(0.6 + 0.35 * rng.random() if rng.random() < risk else 0.02 * rng.random()) for _ in range(samples)
        ]
        reward = [float(rng.normal() * 0.6 - 2 * value) for value in toxicity]
        texts = tuple(f"answer {i}" for i in range(samples))
        found.append(
            PromptAnswers(f"p{number}", f"prompt {number}?", texts, tuple(reward), tuple(toxicity), (0.0,) * samples)
        )
    return Frontier("test", samples, "reward model", "demo/judge", tuple(found))


def settings(algorithm: str) -> Mapping[str, Any]:
    """Some options."""
    if algorithm in ON_POLICY:
        own = {} if algorithm in ("ppo", "reinforce++") else {"ppo.samples_per_prompt": 4}
        return {"ppo.steps": 24, "ppo.epochs": 4, "ppo.kl_coef": 0.3, "ppo.samples_per_prompt": 1, **own}
    if algorithm in OFF_POLICY:
        return {"offline.epochs": 1, "offline.beta": 0.5 if algorithm == "ipo" else 0.1}
    return {"best_of_n.samples": 16}


def inputs(
    algorithms: Sequence[str] = tuple(LAWS), *, seeds: int = 5, prompts: int = 300, spoilt: bool = False
) -> ComparisonInputs:
    """A comparison; ``spoilt``: the last algorithm's last run failed and the one before it has not finished."""
    runs = [run(algorithm, seed, prompts) for algorithm in algorithms for seed in range(seeds)]
    if spoilt:
        bare = {"rows": (), "report": None}
        runs[-1] = replace(runs[-1], state="failed", error="NonFiniteError: a <loss> is not finite at step 3", **bare)
        runs[-2] = replace(runs[-2], state="unfinished", **bare)
    return ComparisonInputs(
        title=f"demo/policy: {len(algorithms)} algorithms, {seeds} seeds",
        runs=runs,
        frontier=frontier(prompts),
        shared={
            "seconds": {"prompts": 0.5, "sample": 20.0, "feedback": 4.0, "reward": 25.0},
            "feedback": {"source": "simulated", "pairs": 2345, "ties": 321, "prompts": 600},
            "reward_model": {
                "accuracy": {"value": 0.82, "ci95": [0.78, 0.86], "n": 400},
                "baselines": {"length": {"value": 0.51, "ci95": [0.46, 0.56]}},
            },
        },
        settings={name: settings(name) for name in algorithms},
        judge="demo/judge",
        reward_source="reward model trained on the shared preferences",
        gold_source="demo/detector",
        simulated_annotators=True,
        reproduce="humanward compare --algorithms " + ",".join(algorithms) + f" --seeds {seeds} --out NEW_FOLDER",
        versions={"python": "3.11.7", "torch": "2.13.0"},
        machine={"cores": 2, "jobs": [1]},
        config_toml="seed = 0\n",
        seed=0,
        created_at="2026-11-22T20:00:00+00:00",
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    content = build_comparison(inputs(spoilt=True))
    (folder / "compare.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / "compare.html").write_text(render_comparison(content), encoding="utf-8")
