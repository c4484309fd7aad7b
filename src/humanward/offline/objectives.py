"""One objective an algorithm: the sum of its losses over some groups, and what its metrics are made of.

A batch is judged in chunks. So an objective gives sums and single numbers (``Judged``), and the trainer divides by the
total of the whole batch: how the batch was cut changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from humanward.algorithm_config import OfflineConfig
from humanward.offline.data import Demonstrations, Group, Labelled, Pairs
from humanward.offline.losses import dpo_loss, ipo_loss, kto_loss, log_odds, orpo_loss, sft_loss

NAMES = ("accuracy", "chosen_reward", "rejected_reward", "margin", "chosen_logprob")
"""What an objective measures besides its loss; NaN where it has no such thing."""


@dataclass(frozen=True)
class Scored:
    """N responses of some groups, in their order: summed log-probabilities under policy and reference, and lengths.

    ``ref_logprobs`` is None for objectives without a reference; ``reference_point`` is KTO's, of the whole batch.
    """

    logprobs: torch.Tensor
    lengths: torch.Tensor
    ref_logprobs: torch.Tensor | None = None
    reference_point: torch.Tensor | None = None

    def means(self) -> torch.Tensor:
        """(N,) log-probability a token."""
        return self.logprobs / self.lengths

    def log_ratios(self) -> torch.Tensor:
        """(N,) log p/q, nats a response."""
        assert self.ref_logprobs is not None
        return self.logprobs - self.ref_logprobs


@dataclass(frozen=True)
class Judged:
    """The sum of the losses (scalar, with gradient), and (M, columns) detached numbers of which metrics are made."""

    loss: torch.Tensor
    items: torch.Tensor


class Objective(Protocol):
    """What the trainer minimises: sum of ``judge(...).loss`` over all chunks / ``total``."""

    needs_reference: bool

    def total(self, groups: Sequence[Group], lengths: Sequence[Sequence[int]]) -> float:
        """What the batch's summed loss is divided by; ``lengths`` in tokens, by group and response."""
        ...

    def judge(self, groups: Sequence[Group], scored: Scored) -> Judged:
        """The summed loss of a chunk, and its items."""
        ...

    def describe(self, items: torch.Tensor) -> dict[str, float]:
        """The metrics of ``NAMES`` from the items of all chunks."""
        ...


class Imitation:
    """sft: mean negative log-likelihood a token, each response weighing as its prompt gives it."""

    needs_reference = False

    def total(self, groups: Sequence[Group], lengths: Sequence[Sequence[int]]) -> float:
        """Weighted tokens."""
        return sum(w * n for g, row in zip(groups, lengths, strict=True) for w, n in zip(_weights(g), row, strict=True))

    def judge(self, groups: Sequence[Group], scored: Scored) -> Judged:
        """Items: weighted log-probabilities and weighted tokens."""
        weights = scored.logprobs.new_tensor([w for group in groups for w in _weights(group)])
        loss = (weights * sft_loss(scored.logprobs)).sum()
        return Judged(loss, torch.stack([weights * scored.logprobs, weights * scored.lengths], 1).detach())

    def describe(self, items: torch.Tensor) -> dict[str, float]:
        """The log-probability alone; imitation compares nothing."""
        logprobs, tokens = items.sum(0).tolist()
        return {**dict.fromkeys(NAMES, float("nan")), "chosen_logprob": logprobs / tokens}


class Comparison:
    """dpo, ipo, orpo: the weighted mean over strict pairs. Subclasses say what a pair's loss and rewards are."""

    needs_reference = True

    def __init__(self, config: OfflineConfig) -> None:
        self.config = config

    def losses(self, scored: Scored, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        """(pairs,) losses; ``chosen`` and ``rejected`` index the scored responses."""
        raise NotImplementedError

    def rewards(self, scored: Scored) -> torch.Tensor:
        """(N,) implicit rewards beta log p/q."""
        return self.config.beta * scored.log_ratios()

    def total(self, groups: Sequence[Group], lengths: Sequence[Sequence[int]]) -> float:
        """The pairs' weights."""
        return sum(weight for group in groups for weight in _pairs(group).weights)

    def judge(self, groups: Sequence[Group], scored: Scored) -> Judged:
        """Items: weight, whether the chosen has the larger reward (ties one half), both rewards, the chosen's mean."""
        starts = torch.tensor([0, *(len(group.texts) for group in groups)]).cumsum(0).tolist()
        numbers = [(start, _pairs(group)) for start, group in zip(starts, groups, strict=False)]
        device = scored.logprobs.device
        chosen = torch.tensor([start + i for start, group in numbers for i in group.chosen], device=device)
        rejected = torch.tensor([start + i for start, group in numbers for i in group.rejected], device=device)
        weights = scored.logprobs.new_tensor([weight for _, group in numbers for weight in group.weights])
        loss = (weights * self.losses(scored, chosen, rejected)).sum()
        rewards = self.rewards(scored).detach()
        above, below = rewards[chosen], rewards[rejected]
        right = ((above > below).float() + (above >= below).float()) / 2
        columns = [weights, right, above, below, scored.means().detach()[chosen]]
        return Judged(loss, torch.stack(columns, 1))

    def describe(self, items: torch.Tensor) -> dict[str, float]:
        """Weighted means over pairs."""
        weights = items[:, :1]
        right, above, below, logprob = ((weights * items[:, 1:]).sum(0) / weights.sum()).tolist()
        return dict(zip(NAMES, (right, above, below, above - below, logprob), strict=True))


class DPO(Comparison):
    """Direct preference optimisation, with label smoothing."""

    def losses(self, scored: Scored, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        """See ``dpo_loss``."""
        config = self.config
        return dpo_loss(*_four(scored, chosen, rejected), beta=config.beta, label_smoothing=config.label_smoothing)


class IPO(Comparison):
    """Identity preference optimisation, of whole responses."""

    def losses(self, scored: Scored, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        """See ``ipo_loss``."""
        return ipo_loss(*_four(scored, chosen, rejected), beta=self.config.beta)


class ORPO(Comparison):
    """Odds-ratio preference optimisation: imitation of the chosen and the odds ratio, without a reference."""

    needs_reference = False

    def losses(self, scored: Scored, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        """See ``orpo_loss``."""
        means = scored.means()
        return orpo_loss(means[chosen], means[rejected], beta=self.config.beta)

    def rewards(self, scored: Scored) -> torch.Tensor:
        """(N,) beta times the log odds."""
        return self.config.beta * log_odds(scored.means())


class KTO:
    """Kahneman-Tversky optimisation: the mean over labelled responses, measured from a common reference point."""

    needs_reference = True

    def __init__(self, config: OfflineConfig) -> None:
        self.config = config

    def total(self, groups: Sequence[Group], lengths: Sequence[Sequence[int]]) -> float:
        """The responses."""
        return float(sum(len(group.texts) for group in groups))

    def judge(self, groups: Sequence[Group], scored: Scored) -> Judged:
        """Items: whether desirable, reward, log-probability a token."""
        assert scored.ref_logprobs is not None
        assert scored.reference_point is not None
        kinds = [kind for group in groups for kind in _labelled(group).desirable]
        desirable = torch.tensor(kinds, device=scored.logprobs.device)
        losses = kto_loss(
            scored.logprobs,
            scored.ref_logprobs,
            desirable,
            scored.reference_point,
            beta=self.config.beta,
            desirable_weight=self.config.desirable_weight,
            undesirable_weight=self.config.undesirable_weight,
        )
        rewards = self.config.beta * scored.log_ratios()
        return Judged(losses.sum(), torch.stack([desirable.to(rewards), rewards, scored.means()], 1).detach())

    def describe(self, items: torch.Tensor) -> dict[str, float]:
        """Means over the desirable and the others; accuracy over all couples of the two, ties one half."""
        desirable = items[:, 0] > 0
        above, below = items[desirable, 1], items[~desirable, 1]
        differences = above[:, None] - below[None, :]
        right = ((differences > 0).float() + (differences >= 0).float()) / 2
        chosen, rejected = float(above.mean()), float(below.mean())
        means = float(right.mean()), chosen, rejected, chosen - rejected, float(items[desirable, 2].mean())
        return dict(zip(NAMES, means, strict=True))


OBJECTIVES: dict[str, Callable[[OfflineConfig], Objective]] = {
    "sft": lambda config: Imitation(),
    "dpo": DPO,
    "ipo": IPO,
    "orpo": ORPO,
    "kto": KTO,
}
"""The objective of each algorithm, made from its options."""


def _four(scored: Scored, chosen: torch.Tensor, rejected: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Log-probabilities of chosen and rejected under the policy, and of both under the reference."""
    assert scored.ref_logprobs is not None
    both = scored.logprobs, scored.ref_logprobs
    return tuple(logprobs[side] for logprobs in both for side in (chosen, rejected))


def _weights(group: Group) -> tuple[float, ...]:
    assert isinstance(group, Demonstrations)
    return group.weights


def _pairs(group: Group) -> Pairs:
    assert isinstance(group, Pairs)
    return group


def _labelled(group: Group) -> Labelled:
    assert isinstance(group, Labelled)
    return group
