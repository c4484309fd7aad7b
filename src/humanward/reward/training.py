"""Trains a reward model on preferences, all pairs of a prompt together and each completion encoded once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import torch
from torch import nn

from humanward.config import LoraConfig, RewardConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.chunks import ChunkBudget, extent, length_chunks
from humanward.models.heads import ScoreHead
from humanward.preferences import Pair, PromptPairs
from humanward.reward.checkpoint import Checkpoint
from humanward.reward.criteria import CriterionHead
from humanward.reward.loss import MODELLED, pairwise_loss, parameter_of_share
from humanward.reward.model import ROLE, RewardModel

ANCHOR_SAMPLES = 1024
"""Completions, at most, whose scores decide the anchor: enough to fix a mean and a deviation to a thirtieth."""


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step: its number, how many there will be, loss (nats a pair) and accuracy on its own pairs; where
    ties are modelled their parameter before it."""

    step: int
    steps: int
    loss: float
    accuracy: float
    tie_parameter: float | None = None


class PairLoss(nn.Module):
    """The configured loss over pairs; ``log_parameter`` is the logarithm of the ties' parameter, learned or given."""

    def __init__(self, config: RewardConfig, groups: Sequence[PromptPairs], criteria: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.heads = {criterion: place for place, criterion in enumerate(criteria)}
        pairs = [pair for group in groups for pair in group.pairs]
        ties = sum(pair.weight for pair in pairs if pair.tie)
        # Without ties there is nothing to model, and strict pairs are Bradley-Terry's.
        self.ties = config.ties if ties > 0 or config.ties not in MODELLED else "half"
        start = 1.0
        if self.ties in MODELLED:
            share = ties / sum(pair.weight for pair in pairs)
            start = config.tie_parameter or parameter_of_share(share, self.ties)
        self.log_parameter = nn.Parameter(torch.tensor(math.log(start)), requires_grad=self.learns)

    @property
    def learns(self) -> bool:
        """Whether the ties' parameter is learned."""
        return self.ties in MODELLED and self.config.tie_parameter is None

    @property
    def parameter(self) -> float | None:
        """The ties' parameter as it is now; None where ties are not modelled."""
        return float(self.log_parameter.detach().exp()) if self.ties in MODELLED else None

    def counts(self, pair: Pair) -> bool:
        """Whether a pair takes part."""
        return pair.weight > 0 and not (pair.tie and self.ties == "drop")

    def forward(self, scores: torch.Tensor, groups: Sequence[PromptPairs]) -> tuple[torch.Tensor, torch.Tensor]:
        """(weighted mean loss, whether each strict pair is right) of scores (texts of all groups, heads)."""
        first, second, head, weights, ties, margins = [], [], [], [], [], []
        offset = 0
        for group in groups:
            for pair in filter(self.counts, group.pairs):
                first.append(offset + pair.chosen)
                second.append(offset + pair.rejected)
                head.append(self.heads.get(pair.criterion, 0))
                weights.append(pair.weight)
                ties.append(pair.tie)
                margins.append(0.0 if pair.tie or not self.config.margin else self.config.margin * (pair.margin or 0.0))
            offset += len(group.texts)
        device = scores.device
        column = torch.tensor(head, device=device)
        above, below = (scores[torch.tensor(rows, device=device), column] for rows in (first, second))
        tie = torch.tensor(ties, device=device)
        loss = pairwise_loss(
            above,
            below,
            tie,
            torch.tensor(weights, device=device),
            torch.tensor(margins, device=device) if self.config.margin else None,
            ties=self.ties,
            parameter=self.log_parameter.exp() if self.ties in MODELLED else None,
            label_smoothing=self.config.label_smoothing,
        )
        return loss, (above > below)[~tie].detach()


def train_reward_model(
    base: SharedBase,
    groups: Sequence[PromptPairs],
    config: RewardConfig,
    lora: LoraConfig,
    *,
    seed: int,
    role: str = ROLE,
    checkpoint: Path | None = None,
    on_step: Callable[[TrainingStep], None] = lambda step: None,
    on_notice: Callable[[str], None] = lambda line: None,
) -> RewardModel:
    """A reward model trained on ``groups`` as ``role`` of the base, anchored to mean 0, standard deviation 1 on their
    completions. ``seed`` decides its first weights and the order of the prompts.

    ``checkpoint`` is a folder where training writes how far it is, and from where the same training goes on; steps made
    before are told to ``on_step`` again. InputError for a criterion without pairs, or pairs without margins where the
    loss needs them.
    """
    check_pairs(groups, config)
    generator = torch.Generator().manual_seed(seed)
    if config.train == "full":
        base.add_whole_role(role)
    else:
        base.add_role(role, lora.model_copy(update={"rank": config.rank, "alpha": 2.0 * config.rank}), seed=seed)
    head = (
        CriterionHead(base.width, config.criteria, generator) if config.criteria else ScoreHead(base.width, generator)
    )
    model = RewardModel(base, head, limit=config.max_tokens_trained, role=role)
    objective = PairLoss(config, groups, model.criteria).to(base.device)
    groups = [group for group in groups if any(map(objective.counts, group.pairs))]
    parameters = [*base.role_parameters(role), *model.head.parameters()]
    decayed = [{"params": parameters}]
    if objective.learns:
        decayed.append({"params": [objective.log_parameter], "weight_decay": 0.0})  # type: ignore[dict-item]
    optimizer = torch.optim.AdamW(decayed, lr=config.learning_rate, weight_decay=config.weight_decay)
    trained = [parameter for part in optimizer.param_groups for parameter in part["params"]]
    batches = -(-len(groups) // config.batch_size)
    steps = batches * config.epochs
    extents = [_extent(model, group) for group in groups]
    budget = ChunkBudget(on_notice)
    kept = None
    order: list[int] = []
    history: list[TrainingStep] = []
    if checkpoint is not None:
        identity = _identity(base, groups, config, lora, seed, role)
        kept = Checkpoint(checkpoint, identity, config.checkpoint_seconds)
        order, told = kept.load(trained, optimizer, generator)
        history = [TrainingStep(*step) for step in told]
        for past in history:
            on_step(past)

    def learn(rows: Sequence[int]) -> tuple[float, float]:
        """The rows' gradient, from zero; (loss, accuracy)."""
        optimizer.zero_grad(set_to_none=True)
        return _learn(model, objective, [groups[i] for i in rows], [extents[i] for i in rows], *budget.arguments)

    with base.role(role):
        for step in range(len(history), steps):
            if step % batches == 0:
                order = torch.randperm(len(groups), generator=generator).tolist()
            rows = order[step % batches * config.batch_size :][: config.batch_size]
            parameter = objective.parameter
            loss, accuracy = budget.retry(lambda rows=rows: learn(rows), [extents[i] for i in rows])  # type: ignore[misc]
            if not math.isfinite(loss):
                raise RuntimeError(
                    f"the reward model's loss is not finite at step {step + 1}; lower reward.learning_rate"
                )
            nn.utils.clip_grad_norm_(trained, 1.0)
            for part in optimizer.param_groups:
                part["lr"] = config.learning_rate * _warm_then_linear(step, steps)
            optimizer.step()
            history.append(TrainingStep(step + 1, steps, loss, accuracy, parameter))
            on_step(history[-1])
            if kept is not None and kept.due(last=step + 1 == steps):
                kept.save(trained, optimizer, generator, order, [astuple(one) for one in history])
    for weight in base.role_parameters(role):
        weight.requires_grad_(False)
    model.head.requires_grad_(False)
    model.tie_model = (objective.ties, objective.parameter)
    samples = [(group.prompt, text) for group in groups for text in group.texts]
    samples = samples[:: -(-len(samples) // ANCHOR_SAMPLES)]
    scores = model.criterion_scores([prompt for prompt, _ in samples], [text for _, text in samples])
    model.head.anchor(scores.to(base.device) if model.criteria else scores[:, 0])
    return model


def check_pairs(groups: Sequence[PromptPairs], config: RewardConfig) -> None:
    """Raise InputError where the pairs lack what the configuration wants to learn from them."""
    if not groups:
        raise ValueError("there are no preferences to train on")
    check_criteria(groups, config)
    pairs = [pair for group in groups for pair in group.pairs]
    without = sum(pair.margin is None and not pair.tie and pair.weight > 0 for pair in pairs)
    if config.margin and without:
        strict = sum(not pair.tie and pair.weight > 0 for pair in pairs)
        raise InputError(
            f"reward.margin = {config.margin:g}: {without} of {strict} strict pairs have no margin; give them one, or "
            "set reward.margin = 0"
        )


def check_criteria(groups: Sequence[PromptPairs], config: RewardConfig) -> None:
    """Raise InputError for a criterion of the configuration without strict pairs."""
    pairs = [pair for group in groups for pair in group.pairs]
    strict: dict[str, int] = {pair.criterion: 0 for pair in pairs}
    for pair in pairs:
        strict[pair.criterion] += not pair.tie and pair.weight > 0
    found = ", ".join(f"{name} ({count} strict)" for name, count in sorted(strict.items()))
    for name in config.criteria:
        if not strict.get(name):
            raise InputError(
                f"reward.criteria: {name!r} has no strict pairs to train on; the pairs are of {found}: rank answers by "
                f"it, or leave {name} out"
            )


def _identity(
    base: SharedBase, groups: Sequence[PromptPairs], config: RewardConfig, lora: LoraConfig, seed: int, role: str
) -> str:
    """A digest of all that decides the result: another one is another training."""
    settings = config.model_dump(mode="json", exclude={"checkpoint_seconds"})
    content = [base.name, base.precision, base.system_prompt, settings, lora.model_dump(mode="json"), seed, role]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for group in groups:
        digest.update(json.dumps(asdict(group), sort_keys=True).encode())
    return digest.hexdigest()


def _warm_then_linear(step: int, steps: int) -> float:
    """Learning-rate factor: up over the first tenth, then linearly to 0."""
    warm = max(1, steps // 10)
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def _extent(model: RewardModel, group: PromptPairs) -> tuple[int, int]:
    """(number of texts, tokens of the longest with its prompt)."""
    return extent(model.base.encode([group.prompt] * len(group.texts), group.texts, limit=model.limit))


def _learn(
    model: RewardModel,
    objective: PairLoss,
    groups: Sequence[PromptPairs],
    extents: Sequence[tuple[int, int]],
    *budget: int,
) -> tuple[float, float]:
    """(loss, accuracy) over all pairs of ``groups``, whose gradient is added up chunk by chunk.

    The loss is the weighted mean over all pairs, so the chunks change neither it nor the gradient.
    """

    def weight_of(members: Sequence[PromptPairs]) -> float:
        return sum(pair.weight for group in members for pair in group.pairs if objective.counts(pair))

    total = weight_of(groups)
    loss, outcomes = 0.0, []
    for numbers in length_chunks(extents, *budget):
        members = [groups[i] for i in numbers]
        prompts = [group.prompt for group in members for _ in group.texts]
        texts = [text for group in members for text in group.texts]
        scores = model.forward(model.base.encode(prompts, texts, limit=model.limit))
        part, right = objective(scores, members)
        share = part * (weight_of(members) / total)
        share.backward()
        loss += float(share.detach())
        outcomes.append(right)
    rights = torch.cat(outcomes)
    return loss, float(rights.float().mean()) if len(rights) else float("nan")
