"""Trains a reward model on preferences, all pairs of a prompt together and each completion encoded once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from humanward.config import LoraConfig, RewardConfig
from humanward.models.base import SharedBase
from humanward.models.chunks import ChunkBudget, extent, length_chunks
from humanward.models.heads import ScoreHead
from humanward.preferences import PromptPairs
from humanward.reward.loss import pairwise_loss
from humanward.reward.model import ROLE, RewardModel

ANCHOR_SAMPLES = 1024
"""Completions, at most, whose scores decide the anchor: enough to fix a mean and a deviation to a thirtieth."""


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step: its number, how many there will be, loss (nats a pair) and accuracy on its own pairs."""

    step: int
    steps: int
    loss: float
    accuracy: float


def train_reward_model(
    base: SharedBase,
    groups: Sequence[PromptPairs],
    config: RewardConfig,
    lora: LoraConfig,
    *,
    seed: int,
    role: str = ROLE,
    on_step: Callable[[TrainingStep], None] = lambda step: None,
    on_notice: Callable[[str], None] = lambda line: None,
) -> RewardModel:
    """A reward model trained on ``groups`` as ``role`` of the base, anchored to mean 0, standard deviation 1 on their
    completions. ``seed`` decides its first weights and the order of the prompts."""
    if not groups:
        raise ValueError("there are no preferences to train on")
    base.add_role(role, lora.model_copy(update={"rank": config.rank, "alpha": 2.0 * config.rank}), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    model = RewardModel(base, ScoreHead(base.width, generator), limit=config.max_tokens_trained, role=role)
    parameters = [*base.role_parameters(role), *model.head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    batches = -(-len(groups) // config.batch_size)
    steps = batches * config.epochs
    extents = [_extent(model, group) for group in groups]
    budget = ChunkBudget(on_notice)

    def learn(rows: Sequence[int]) -> tuple[float, float]:
        """The rows' gradient, from zero; (loss, accuracy)."""
        optimizer.zero_grad(set_to_none=True)
        return _learn(model, [groups[i] for i in rows], [extents[i] for i in rows], *budget.arguments)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_then_linear(step, steps))
    with base.role(role):
        for step in range(steps):
            if step % batches == 0:
                order = torch.randperm(len(groups), generator=generator).tolist()
            rows = order[step % batches * config.batch_size :][: config.batch_size]
            loss, accuracy = budget.retry(lambda rows=rows: learn(rows), [extents[i] for i in rows])  # type: ignore[misc]
            if not math.isfinite(loss):
                raise RuntimeError(
                    f"the reward model's loss is not finite at step {step + 1}; lower reward.learning_rate"
                )
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            on_step(TrainingStep(step + 1, steps, loss, accuracy))
    for parameter in base.role_parameters(role):
        parameter.requires_grad_(False)
    model.head.requires_grad_(False)
    samples = [(group.prompt, text) for group in groups for text in group.texts]
    samples = samples[:: -(-len(samples) // ANCHOR_SAMPLES)]
    model.head.anchor(model.score([prompt for prompt, _ in samples], [text for _, text in samples]))
    return model


def _warm_then_linear(step: int, steps: int) -> float:
    """Learning-rate factor: up over the first tenth, then linearly to 0."""
    warm = max(1, steps // 10)
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def _extent(model: RewardModel, group: PromptPairs) -> tuple[int, int]:
    """(number of texts, tokens of the longest with its prompt)."""
    return extent(model.base.encode([group.prompt] * len(group.texts), group.texts, limit=model.limit))


def _learn(
    model: RewardModel, groups: Sequence[PromptPairs], extents: Sequence[tuple[int, int]], *budget: int
) -> tuple[float, float]:
    """(loss, accuracy) over all pairs of ``groups``, whose gradient is added up chunk by chunk.

    The loss is the weighted mean over all pairs, so the chunks change neither it nor the gradient.
    """
    total = sum(pair.weight for group in groups for pair in group.pairs)
    loss, outcomes = 0.0, []
    for numbers in length_chunks(extents, *budget):
        members = [groups[i] for i in numbers]
        weight = sum(pair.weight for group in members for pair in group.pairs)
        if weight == 0:
            continue
        part, right = _pair_loss(model, members)
        share = part * (weight / total)
        share.backward()
        loss += float(share.detach())
        outcomes.append(right)
    rights = torch.cat(outcomes)
    return loss, float(rights.float().mean()) if len(rights) else float("nan")


def _pair_loss(model: RewardModel, groups: Sequence[PromptPairs]) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted mean loss, whether each strict pair is right)."""
    prompts = [group.prompt for group in groups for _ in group.texts]
    texts = [text for group in groups for text in group.texts]
    scores = model.forward(model.base.encode(prompts, texts, limit=model.limit))
    chosen, rejected, weights, ties = [], [], [], []
    offset = 0
    for group in groups:
        for pair in group.pairs:
            chosen.append(offset + pair.chosen)
            rejected.append(offset + pair.rejected)
            weights.append(pair.weight)
            ties.append(pair.tie)
        offset += len(group.texts)
    device = scores.device
    tie = torch.tensor(ties, device=device)
    above, below = scores[torch.tensor(chosen, device=device)], scores[torch.tensor(rejected, device=device)]
    loss = pairwise_loss(above, below, tie, torch.tensor(weights, device=device))
    return loss, (above > below)[~tie].detach()
