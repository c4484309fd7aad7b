"""Trains a reward model on preferences, all pairs of a prompt together and each completion encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from humanward.config import LoraConfig, RewardConfig
from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead
from humanward.preferences import PromptPairs
from humanward.reward.loss import pairwise_loss
from humanward.reward.model import ROLE, RewardModel

CHUNK_TOKENS = 4096
"""Padded tokens in one forward: texts of very unequal length are grouped by it, which changes no result."""


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
    on_step: Callable[[TrainingStep], None] = lambda step: None,
) -> RewardModel:
    """A reward model trained on ``groups``, anchored to mean 0 and standard deviation 1 on their completions."""
    if not groups:
        raise ValueError("there are no preferences to train on")
    base.add_role(ROLE, lora.model_copy(update={"rank": config.rank, "alpha": 2.0 * config.rank}), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    model = RewardModel(base, ScoreHead(base.width, generator), limit=config.max_tokens_trained)
    parameters = [*base.role_parameters(ROLE), *model.head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    batches = -(-len(groups) // config.batch_size)
    steps = batches * config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_then_linear(step, steps))
    with base.role(ROLE):
        for step in range(steps):
            if step % batches == 0:
                order = torch.randperm(len(groups), generator=generator).tolist()
            rows = order[step % batches * config.batch_size :][: config.batch_size]
            loss, accuracy = _pair_loss(model, [groups[i] for i in rows])
            if not bool(torch.isfinite(loss)):
                raise RuntimeError(
                    f"the reward model's loss is not finite at step {step + 1}; lower reward.learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            on_step(TrainingStep(step + 1, steps, float(loss.detach()), accuracy))
    for parameter in base.role_parameters(ROLE):
        parameter.requires_grad_(False)
    model.head.requires_grad_(False)
    prompts = [group.prompt for group in groups for _ in group.texts]
    model.head.anchor(model.score(prompts, [text for group in groups for text in group.texts]))
    return model


def _warm_then_linear(step: int, steps: int) -> float:
    """Learning-rate factor: up over the first tenth, then linearly to 0."""
    warm = max(1, steps // 10)
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def length_chunks(lengths: torch.Tensor, budget: int = CHUNK_TOKENS) -> list[torch.Tensor]:
    """Row numbers, in groups of like length whose padded size (rows x longest) is at most ``budget`` tokens.

    A single row longer than that is a group of its own. Rows that all fit into the budget together stay together.
    """
    chunks: list[list[int]] = [[]]
    for row in lengths.argsort(stable=True).tolist():
        if chunks[-1] and (len(chunks[-1]) + 1) * int(lengths[row]) > budget:
            chunks.append([])
        chunks[-1].append(row)
    if len(chunks) == 1:
        return [torch.arange(len(lengths), device=lengths.device)]
    return [torch.tensor(chunk, device=lengths.device) for chunk in chunks]


def _pair_loss(model: RewardModel, groups: Sequence[PromptPairs]) -> tuple[torch.Tensor, float]:
    prompts = [group.prompt for group in groups for _ in group.texts]
    texts = [text for group in groups for text in group.texts]
    tokens = model.base.encode(prompts, texts, limit=model.limit)
    chunks = length_chunks(tokens.prompt_mask.sum(1) + tokens.response_mask.sum(1))
    scores = torch.cat([model.forward(tokens[rows].trimmed()) for rows in chunks])[torch.cat(chunks).argsort()]
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
    strict = ~tie
    right = float((above > below)[strict].float().mean()) if bool(strict.any()) else float("nan")
    return loss, right
