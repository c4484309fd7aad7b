"""The quickstart's settings: the embedded default, sized for two cores."""

from __future__ import annotations

from typing import Any

from humanward.algorithm_config import ALGORITHMS, OFF_POLICY, ON_POLICY
from humanward.errors import InputError

# A strong KL penalty and few steps: the demo's answers are short, and variety goes long before toxicity stops falling
# (docs/log.md).
ON_POLICY_OPTIONS = {
    "steps": 24,
    "kl_controller": "fixed",
    "kl_coef": 0.3,
    "learning_rate": 5e-4,
    "missing_eos_penalty": 0.25,
}
# Chosen on the validation prompts, within the limits on side effects: two to three nats of KL, but for sft, which does
# not go that far (docs/log.md).
OFF_POLICY_OPTIONS: dict[str, dict[str, Any]] = {
    "sft": {"learning_rate": 5e-4, "epochs": 2},
    "dpo": {"learning_rate": 5e-4, "beta": 0.2},
    "ipo": {"learning_rate": 5e-4, "beta": 0.05},
    "orpo": {"learning_rate": 1e-3, "beta": 3.0},
    "kto": {"learning_rate": 5e-4, "beta": 0.3, "desirable_weight": 0.7},
}


def quickstart_values(algorithm: str, reward: str, *, rank_yourself: bool, seed: int) -> dict[str, Any]:
    """Configuration values for the demo; ``reward`` is trained or classifier."""
    if algorithm not in ALGORITHMS:
        raise InputError(f"--algorithm {algorithm}: unknown; use one of {', '.join(ALGORITHMS)}")
    if reward not in ("trained", "classifier"):
        raise InputError(f"--reward {reward}: is not trained or classifier; choose one of the two")
    if rank_yourself and reward == "classifier":
        raise InputError("--rank-yourself: a ready-made classifier needs no rankings; leave out --reward classifier")
    values: dict[str, Any] = {
        "seed": seed,
        "algorithm": algorithm,
        "reward": {"source": reward},
        "feedback": {"prompts": 600, "noise": 0.05, "tie_width": 0.15},
    }
    if algorithm in ON_POLICY:
        values["ppo"] = dict(ON_POLICY_OPTIONS)
    elif algorithm in OFF_POLICY:
        values["offline"] = dict(OFF_POLICY_OPTIONS[algorithm])
    if rank_yourself:
        values["feedback"] = {"source": "terminal", "prompts": 10}
        values["reward"] |= {"validation_fraction": 0.3, "batch_size": 4, "epochs": 6}
        if algorithm in OFF_POLICY:
            values["offline"] |= {"batch_size": 4, "epochs": 4}
    return values
