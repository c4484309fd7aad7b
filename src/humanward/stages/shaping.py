"""What the policy learns from: the reward's anchored scores, bounded, and weighed against a constraint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from humanward.models.tokens import Tokens
from humanward.records import Prompt
from humanward.reward.combined import Anchor, CombinedReward, Part, anchor_on
from humanward.reward.sources import in_detail
from humanward.reward_config import SourceConfig
from humanward.rl.lagrangian import Multiplier, constrained
from humanward.rl.rewards import bounded
from humanward.rl.rollouts import respond
from humanward.stages.context import REFERENCE_SEED, SAMPLE_SEED, Run
from humanward.stages.scoring import RewardScorer, build_source, reference_samples


class ShapedScorer:
    """The trainer's scorer around another: sigmoid(score - reference), then (score - lambda cost) / (1 + lambda).

    Either step is left out where the configuration does not ask for it. ``metrics()`` tells the plain scores of the
    last call, and learns lambda from its costs: call it once a step.
    """

    def __init__(self, run: Run, scorer: RewardScorer, prompts: Sequence[Prompt]) -> None:
        self.run, self.scorer, self.kind = run, scorer, run.config.ppo.bounded
        self._references: dict[str, torch.Tensor] = {}
        self._mean = self._mean_reference(prompts) if self.kind == "mean" else torch.zeros(1)
        config = run.config.constraint
        self.constraint = anchored_sources(run, config.sources, "constraint") if config.sources else None
        self.multiplier = Multiplier(config.start, config.rate, config.largest)
        self._scores = self._second = torch.zeros(0)

    def __call__(self, asked: Sequence[Prompt], texts: Sequence[str], tokens: Tokens) -> torch.Tensor:
        """(B,) what the policy learns from."""
        scores = self.scorer(asked, texts, tokens)
        self._scores = scores
        if self.kind == "mean":
            scores = bounded(scores, self._mean.to(scores))
        elif self.kind == "prompt":
            scores = bounded(scores, self._references_of(asked).to(scores))
        if self.constraint is not None:
            self._second = self.constraint.score(asked, texts).to(scores)
            costs = self.run.config.constraint.at_least - self._second
            scores = constrained(scores, costs, self.multiplier.value)
        return scores

    def metrics(self) -> dict[str, float]:
        """The reward's own metrics and plain scores; of a constraint its mean, violation and the step's lambda."""
        found = self.scorer.metrics()
        found |= {
            "ppo/score_mean": float(self._scores.mean()),
            "ppo/score_std": float(self._scores.std(correction=0)),
        }
        if self.constraint is not None:
            mean = float(self._second.mean())
            violation = self.run.config.constraint.at_least - mean
            found |= {
                "ppo/constraint/mean": mean,
                "ppo/constraint/violation": violation,
                "ppo/constraint/lambda": self.multiplier.value,
            }
            self.multiplier.update(violation)
        return found

    def _mean_reference(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """(1,) the mean score of reference samples."""
        asked, texts = reference_samples(self.run, prompts, seed=self.run.seed(SAMPLE_SEED))
        return self.scorer.anchor(self.scorer.source.score(asked, texts)).mean()[None]

    def _references_of(self, asked: Sequence[Prompt]) -> torch.Tensor:
        """(B, M) scores of the reference's answers to the same prompts, drawn when a prompt first comes."""
        new = {prompt.id: prompt for prompt in asked if prompt.id not in self._references}
        if new:
            count, base = self.run.config.ppo.reference_samples, self.run.base()
            prompts = [prompt for prompt in new.values() for _ in range(count)]
            with base.role("reference"):
                episodes, texts = respond(
                    base, prompts, self.run.config.sampling, seed=self.run.seed(REFERENCE_SEED), step=0
                )
            parts = self.scorer.parts
            scores = self.scorer(prompts, texts, episodes.tokens).cpu()
            self.scorer.parts = parts  # metrics() tells of the policy's answers
            for prompt_id, own in zip(new, scores.split(count), strict=True):
                self._references[prompt_id] = own
        return torch.stack([self._references[prompt.id] for prompt in asked])


def anchored_sources(run: Run, sources: Sequence[SourceConfig], use: str) -> CombinedReward:
    """The weighted sum of ``sources``, each anchored on reference samples if it asks for it, and the sum too.

    The sum's anchor makes its unit the reference's standard deviation and its origin the reference's mean. InputError
    where it cannot be anchored.
    """
    prompts, texts = reference_samples(run, run.prompts("train"), seed=SAMPLE_SEED)
    parts, scored = [], []
    for source in sources:
        name = source.name or source.kind
        part = Part(name, build_source(run, source, use), source.weight)
        scored.append(in_detail(part.source, prompts, texts))
        if source.anchor:
            part = replace(
                part, anchor=anchor_on(scored[-1].scores, f"{use}.sources: {name}", "set its anchor = false")
            )
        parts.append(part)
    total = anchor_on(
        CombinedReward(parts).combine(scored).scores, f"{use}.sources", "name a reward that tells answers apart"
    )
    # (sum - shift) / scale is a sum with other weights and one shift more, which the first part takes.
    first, *rest = [replace(part, weight=part.weight / total.scale) for part in parts]
    shifted = Anchor(first.anchor.shift + first.anchor.scale * total.shift / parts[0].weight, first.anchor.scale)
    return CombinedReward([replace(first, anchor=shifted), *rest])
