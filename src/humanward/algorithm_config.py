"""The configuration of the algorithms: their names, their sections, and which of them uses which option."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from humanward.monitor_config import ConstraintConfig, MonitorsConfig
from humanward.section import Section

Algorithm = Literal["ppo", "rloo", "grpo", "reinforce++", "sft", "dpo", "ipo", "orpo", "kto", "best-of-n"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
ON_POLICY = ("ppo", "rloo", "grpo", "reinforce++")
OFF_POLICY = ("sft", "dpo", "ipo", "orpo", "kto")


class PPOConfig(Section):
    """The on-policy family: ppo, rloo, grpo and reinforce++ in one loop. Sources of the defaults: docs/ppo.md.

    Which algorithm uses which option: ``options_of``.
    """

    steps: int = Field(40, ge=1, description="rollouts, each learnt from `epochs` times")
    rollout_size: int = Field(64, ge=2, description="episodes a step")
    samples_per_prompt: int = Field(
        1, ge=1, description="responses a prompt in a rollout; 4 by default for rloo and grpo, which compare them"
    )
    minibatch_size: int = Field(32, ge=1, description="episodes an optimizer step")
    micro_batch_size: int = Field(32, ge=1, description="episodes in one forward; changes memory, not the result")
    micro_batch_tokens: int = Field(
        16_384, ge=1, description="padded tokens in one forward, at most; changes memory, not the result"
    )
    epochs: int = Field(4, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    critic_learning_rate: float = Field(1e-2, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    adam_epsilon: float = Field(1e-5, gt=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    gamma: float = Field(1.0, gt=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    clip_range: float = Field(0.2, gt=0)
    value_clip_range: float = Field(0.2, gt=0)
    value_coef: float = Field(0.1, ge=0)
    whiten_advantages: bool = Field(True, description="off by default for rloo")
    whiten_rewards: bool = False
    scale_by_deviation: bool = Field(
        True, description="grpo divides by the standard deviation of a prompt's scores; off is Dr. GRPO"
    )
    critic: Literal["trunk", "adapter"] = Field(
        "trunk", description="the value head reads the policy's states, or those of an adapter of its own"
    )
    critic_start: Literal["zero", "reward"] = Field(
        "zero", description="reward: a critic of its own begins as the trained reward model"
    )
    critic_warmup_steps: int = Field(
        2, ge=0, description="first steps that train the value head alone; the policy rests"
    )
    kl_place: Literal["reward", "loss"] = Field(
        "reward", description="the KL penalty's place; loss (k3, as the GRPO paper has it) is biased"
    )
    kl_controller: Literal["fixed", "adaptive"] = "adaptive"
    kl_coef: float = Field(0.05, ge=0)
    kl_target: float = Field(6.0, gt=0, description="nats a sequence, for the adaptive controller")
    kl_horizon: int = Field(10_000, ge=1, description="episodes")
    kl_budget: float = Field(
        8.0, gt=0, description="nats a sequence; the report warns above it and training stops early"
    )
    target_update_kl: float = Field(0.02, gt=0, description="nats a token between old and new policy")
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="subtracted from the score of a response that was cut off"
    )
    length_penalty: float = Field(0.0, ge=0, description="subtracted from the score for every token of a response")
    score_clip: float | None = Field(None, gt=0, description="scores are clipped to +- this, after anchoring")
    bounded: Literal["off", "mean", "prompt"] = Field(
        "off",
        description="sigmoid(score - reference) instead of the score; the reference: the mean score of its answers, or "
        "each of its answers to the same prompt",
    )
    reference_samples: int = Field(2, ge=1, description="answers of the reference a prompt, for bounded = 'prompt'")
    anchor_scores: bool = Field(
        True, description="shift and scale scores to mean 0, standard deviation 1 on the reference"
    )

    @model_validator(mode="after")
    def _critic(self) -> PPOConfig:
        if self.critic_start == "reward" and self.critic == "trunk":
            raise ValueError("critic_start='reward' needs a critic of its own; set ppo.critic = 'adapter'")
        return self

    @model_validator(mode="after")
    def _sizes(self) -> PPOConfig:
        sizes = ("minibatch_size", "rollout_size"), ("micro_batch_size", "minibatch_size")
        for small, large in (*sizes, ("samples_per_prompt", "rollout_size")):
            a, b = getattr(self, small), getattr(self, large)
            if b % a:
                raise ValueError(f"{small}={a} does not divide {large}={b}; choose a divisor of {b}")
        return self


class OfflineConfig(Section):
    """The off-policy family: sft, dpo, ipo, orpo and kto on the run's preferences. Sources: docs/offline.md."""

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1, description="prompts an optimizer step, each with all its pairs")
    learning_rate: float = Field(5e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    max_tokens: int = Field(512, ge=8, description="prompt + response; longer prompts lose their beginning")
    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference; orpo: weight of its odds ratio")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="dpo: share of pairs taken to be ranked the wrong way"
    )
    desirable_weight: float = Field(1.0, gt=0, description="kto: weight of the desirable responses")
    undesirable_weight: float = Field(1.0, gt=0, description="kto: weight of the undesirable ones")
    validation_fraction: float = Field(0.1, ge=0, lt=1, description="share of the prompts held out to measure the loss")


class BestOfNConfig(Section):
    """Best of n answers of the reference, chosen by the reward: the frontier that training is measured against."""

    samples: int = Field(16, ge=2, description="answers a prompt; the frontier shows n = 1, 2, 4 ... up to this")
    prompts: int = Field(64, ge=0, description="validation prompts, at most, before on-policy training; 0: no frontier")


ALGORITHM_SECTIONS = ("ppo", "monitors", "constraint", "offline", "best_of_n")
"""Sections whose options belong to some algorithms and not to others."""

DEFAULTS_OF: dict[str, dict[str, dict[str, Any]]] = {
    "rloo": {"ppo": {"samples_per_prompt": 4, "whiten_advantages": False}},
    "grpo": {"ppo": {"samples_per_prompt": 4}},
}

_CRITIC = {
    "critic",
    "critic_start",
    "critic_learning_rate",
    "critic_warmup_steps",
    "gae_lambda",
    "value_clip_range",
    "value_coef",
}
_NOT_SHARED = {
    "ppo": {"scale_by_deviation"},
    "rloo": {*_CRITIC, "gamma", "whiten_rewards", "scale_by_deviation"},
    "grpo": {*_CRITIC, "gamma", "whiten_rewards", "whiten_advantages"},
    "reinforce++": {*_CRITIC, "whiten_rewards", "whiten_advantages", "scale_by_deviation"},
}
_OFFLINE_ONLY = {
    "beta": ("dpo", "ipo", "orpo", "kto"),
    "label_smoothing": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}


def options_of(algorithm: str) -> dict[str, frozenset[str]]:
    """The options of ``ALGORITHM_SECTIONS`` that an algorithm uses, by section."""
    best_of_n = frozenset(BestOfNConfig.model_fields)
    if algorithm in ON_POLICY:
        return {
            "ppo": frozenset(PPOConfig.model_fields) - _NOT_SHARED[algorithm],
            "monitors": frozenset(MonitorsConfig.model_fields),
            "constraint": frozenset(ConstraintConfig.model_fields),
            "best_of_n": best_of_n,
        }
    if algorithm in OFF_POLICY:
        left_out = {key for key, users in _OFFLINE_ONLY.items() if algorithm not in users}
        return {"offline": frozenset(OfflineConfig.model_fields) - left_out}
    return {"best_of_n": best_of_n - {"prompts"}}


def listed(used: dict[str, frozenset[str]]) -> list[str]:
    """``ppo.{steps, ...}`` and so on, as an error shows them."""
    sections: dict[str, type[Section]] = {
        "ppo": PPOConfig,
        "monitors": MonitorsConfig,
        "constraint": ConstraintConfig,
        "offline": OfflineConfig,
        "best_of_n": BestOfNConfig,
    }
    return [
        f"{section}.{{{', '.join(name for name in sections[section].model_fields if name in names)}}}"
        for section, names in used.items()
    ]
