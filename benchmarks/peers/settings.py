"""What every implementation is given: one model, one reward, one budget, one set of hyperparameters.

Nothing here imports torch or a peer, so that jobs can be listed and tested without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

PEER_OF = {"ppo": "trl-1.12.0", "rloo": "trl-1.16.0", "grpo": "trl-1.16.0", "dpo": "trl-1.16.0"}
"""Which release runs an algorithm: 1.12.0 is the last with PPO, 1.16.0 was the newest on 2026-11-22."""

ALGORITHMS = tuple(PEER_OF)
PEERS = tuple(dict.fromkeys(PEER_OF.values()))

FOR_SPEED = ("trl-0.11.4",)
"""The last release with the older PPOTrainer: the faster peer of benchmarks/ppo_speed.py."""

KL_COEFS = (0.1, 0.3)
"""Coefficients of the KL penalty; DPO's beta is given the same."""

MODEL, DETECTOR, LABEL = "demo/policy", "demo/detector", "nothate"

SETTINGS: dict[str, Any] = {
    "rollouts": 8,
    "rollout_size": 64,
    "minibatch_size": 32,
    "epochs": 4,
    "samples_per_prompt": 4,
    "learning_rate": 5e-4,
    "adam_epsilon": 1e-5,
    "max_gradient_norm": 1.0,
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "value_coef": 0.1,
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "max_new_tokens": 32,
    "temperature": 1.0,
    "lora_rank": 16,
    "lora_alpha": 32,
    "dpo_epochs": 2,
    "dpo_batch_size": 64,
    "dpo_max_tokens": 128,
}
"""512 episodes a run; ``samples_per_prompt`` for RLOO and GRPO alone, PPO asks each prompt once.

``dpo_batch_size`` counts pairs. Ours takes 16 prompts an optimizer step, each with all its pairs, about as many.
"""


@dataclass(frozen=True)
class Job:
    """One training run: ``side`` is "ours" or "theirs"."""

    algorithm: str
    side: str
    kl_coef: float
    seed: int

    @property
    def name(self) -> str:
        """The folder's name, readable and unique."""
        return f"{self.algorithm}-{self.side}-kl{self.kl_coef:g}-seed{self.seed}"

    @property
    def implementation(self) -> str:
        """``humanward`` or the peer's name with its version."""
        return "humanward" if self.side == "ours" else PEER_OF[self.algorithm]


def all_jobs(algorithms: tuple[str, ...], kl_coefs: tuple[float, ...], seeds: int) -> list[Job]:
    """Every run of the matrix; ours and theirs alternate, so that a matrix which is stopped early still compares."""
    return [
        Job(algorithm, side, kl_coef, seed)
        for algorithm in algorithms
        for seed in range(seeds)
        for kl_coef in kl_coefs
        for side in ("ours", "theirs")
    ]


def our_config(job: Job, reward: Path, pairs: Path) -> dict[str, Any]:
    """The job as configuration values of humanward. What is not named here keeps its default."""
    s = SETTINGS
    values: dict[str, Any] = {
        "seed": job.seed,
        "algorithm": job.algorithm,
        "model": {"policy": MODEL, "dtype": "float32"},
        "lora": {"rank": s["lora_rank"], "alpha": s["lora_alpha"]},
        "sampling": {"max_new_tokens": s["max_new_tokens"], "temperature": s["temperature"]},
        "reward": {"source": "classifier", "classifier": str(reward), "label": LABEL, "output": "logit"},
    }
    if job.algorithm == "dpo":
        values["feedback"] = {"source": "preferences", "path": str(pairs)}
        values["offline"] = {
            "epochs": s["dpo_epochs"],
            "batch_size": 16,
            "learning_rate": s["learning_rate"],
            "warmup_fraction": 0.0,
            "max_tokens": s["dpo_max_tokens"],
            "beta": job.kl_coef,
            "validation_fraction": 0.0,
        }
        return values
    same = (
        "rollout_size",
        "minibatch_size",
        "epochs",
        "learning_rate",
        "adam_epsilon",
        "max_gradient_norm",
        "clip_range",
    )
    values["ppo"] = {
        **{key: s[key] for key in same},
        "steps": s["rollouts"],
        "kl_controller": "fixed",
        "kl_coef": job.kl_coef,
        "missing_eos_penalty": 0.0,
        "anchor_scores": False,
    }
    if job.algorithm == "ppo":
        values["ppo"] |= {key: s[key] for key in ("value_clip_range", "value_coef", "gamma", "gae_lambda")}
        # TRL's critic has no warm-up, and two of eight rollouts would be a quarter of the budget.
        values["ppo"]["critic_warmup_steps"] = 0
    else:
        values["ppo"]["samples_per_prompt"] = s["samples_per_prompt"]
    values["best_of_n"] = {"prompts": 0}
    return values


def peer_python(venvs: Path, peer: str) -> Path:
    """The interpreter of a peer's virtual environment; SystemExit with the remedy where there is none."""
    python = venvs / peer / "bin" / "python"
    if not python.exists():
        raise SystemExit(
            f"{venvs / peer}: no virtual environment of {peer}; make it with "
            f"`python benchmarks/peers/make_venvs.py --venvs {venvs}`"
        )
    return python
