"""One rollout: responses sampled from the policy, scored, with log-probabilities under policy and reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from humanward.algorithm_config import PPOConfig
from humanward.config import SamplingConfig
from humanward.models.base import SharedBase
from humanward.models.heads import ValueHead
from humanward.models.micro_batches import MicroBatches
from humanward.models.sampling import as_tokens, sample
from humanward.models.tokens import TensorBatch, Tokens
from humanward.records import Prompt
from humanward.rl.advantages import (
    generalized_advantages,
    group_relative_advantages,
    leave_one_out_advantages,
    returns_of,
)
from humanward.rl.ops import whiten
from humanward.rl.rewards import final_scores, token_rewards

Scorer = Callable[[Sequence[Prompt], Sequence[str], Tokens], torch.Tensor]
"""(prompts, responses as text, the same as tokens) -> scores (B,), higher is better."""


@dataclass(frozen=True)
class Rollout(TensorBatch):
    """A batch of episodes, complete. B episodes, R response tokens; everything (B, R) is 0 on padding.

    ``logprobs`` and ``ref_logprobs`` in nats under the policy at collection and the reference; ``values`` the critic's;
    ``rewards`` per token after the KL penalty; ``scores`` (B,) as the source gave them, anchored; ``ended`` (B,) True
    where the response closed itself; ``group`` (B,) numbers the prompt.
    """

    tokens: Tokens
    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    rewards: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    scores: torch.Tensor
    ended: torch.Tensor
    group: torch.Tensor

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Episodes(TensorBatch):
    """Responses as sampled, before scoring: tokens, whether each ended, its prompt's number, and its text."""

    tokens: Tokens
    ended: torch.Tensor
    group: torch.Tensor


def respond(
    base: SharedBase, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int, step: int
) -> tuple[Episodes, list[str]]:
    """One response of the present role to each prompt, and their texts."""
    ids = [base.prompt_ids(prompt) for prompt in prompts]
    keys = [f"step {step}\x1f{index}\x1f{prompt.id}" for index, prompt in enumerate(prompts)]
    # The filters of the sample stage would make the sampled distribution another than the one that is learnt from.
    responses = sample(base, ids, keys, sampling.unfiltered(), seed=seed)
    groups: dict[str, int] = {}
    group = torch.tensor([groups.setdefault(p.id, len(groups)) for p in prompts], device=base.device)
    ended = torch.tensor([r.ended for r in responses], device=base.device)
    texts = [base.response_text(r.ids, sampling.stop) for r in responses]
    return Episodes(as_tokens(base, ids, responses), ended, group), texts


@torch.no_grad()
def judge_tokens(
    base: SharedBase, tokens: Tokens, value_head: ValueHead | None, *, temperature: float, micro_batches: MicroBatches
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log-probabilities, entropies, values), all (B, R), of the present role; values are 0 without a critic."""

    def judge(chunk: Tokens) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logprobs, entropies, hidden = base.logprobs(chunk, temperature=temperature, entropy=True)
        values = torch.zeros_like(logprobs)
        if value_head is not None:
            values = torch.where(chunk.response_mask, value_head(hidden[:, :-1]), 0.0)
        return logprobs, entropies, values

    return micro_batches.map(tokens, judge)  # type: ignore[return-value]


@torch.no_grad()
def judge_values(
    base: SharedBase, tokens: Tokens, value_head: ValueHead, *, micro_batches: MicroBatches
) -> torch.Tensor:
    """(B, R) values of a critic with a role of its own, which the caller is in; 0 on padding."""
    (values,) = micro_batches.map(
        tokens, lambda chunk: (torch.where(chunk.response_mask, value_head(base.states(chunk)[:, :-1]), 0.0),)
    )
    return values


def estimate_advantages(
    algorithm: str,
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    group: torch.Tensor,
    config: PPOConfig,
) -> torch.Tensor:
    """(B, R) advantages before whitening, by the estimator of ``algorithm``; a new estimator goes here.

    reinforce++ has no baseline but the whitening that follows: its advantages are the rewards to go. Source: Hu et al.
    2025 (arXiv 2501.03262), section 3.
    """
    discounts = torch.full_like(rewards, config.gamma)
    match algorithm:
        case "ppo":
            return generalized_advantages(rewards, values, discounts, mask, gae_lambda=config.gae_lambda)
        case "rloo":
            return leave_one_out_advantages(rewards, mask, group)
        case "grpo":
            return group_relative_advantages(rewards, mask, group, scale=config.scale_by_deviation)
        case "reinforce++":
            return generalized_advantages(rewards, torch.zeros_like(rewards), discounts, mask, gae_lambda=1.0)
    raise ValueError(f"no advantage estimator is named {algorithm!r}")


def build_rollout(
    episodes: Episodes,
    scores: torch.Tensor,
    logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    values: torch.Tensor,
    config: PPOConfig,
    *,
    kl_coef: float,
    algorithm: str = "ppo",
) -> Rollout:
    """The rollout whole: scores become token rewards, advantages and returns.

    1. final scores (clip, penalties)  2. rewards per token, with the KL penalty unless its place is the loss
    3. optionally whitened rewards  4. advantages on real tokens  5. returns, before whitening
    6. optionally whitened advantages.
    """
    mask = episodes.tokens.response_mask
    final = final_scores(
        scores,
        episodes.ended,
        mask.sum(1),
        missing_eos_penalty=config.missing_eos_penalty,
        length_penalty=config.length_penalty,
        clip=config.score_clip,
    )
    in_reward = kl_coef if config.kl_place == "reward" else 0.0
    rewards = token_rewards(final, logprobs, ref_logprobs, mask, kl_coef=in_reward)
    if algorithm == "ppo" and config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages = estimate_advantages(algorithm, rewards, values, mask, episodes.group, config)
    returns = returns_of(advantages, values, mask) if algorithm == "ppo" else torch.zeros_like(values)
    if algorithm == "reinforce++" or (algorithm in ("ppo", "rloo") and config.whiten_advantages):
        advantages = whiten(advantages, mask)
    return Rollout(
        tokens=episodes.tokens,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        rewards=rewards,
        advantages=advantages,
        returns=returns,
        scores=scores,
        ended=episodes.ended,
        group=episodes.group,
    )
