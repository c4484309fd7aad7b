"""What scores the policy's responses while it is trained, and what the report calls it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from humanward.config import OFF_POLICY, RunConfig
from humanward.models.base import SharedBase
from humanward.models.tokens import Tokens
from humanward.records import Completion, Prompt, read_jsonl
from humanward.rl.rollouts import Scorer, respond
from humanward.stages.context import SAMPLE_SEED, Run


def reward_name(config: RunConfig) -> str:
    """What the report calls the reward."""
    if config.reward.source == "classifier":
        return config.reward.classifier
    return config.reward.model or "reward model trained on the rankings"


def measures_reward(run: Run) -> bool:
    """Whether evaluation records a reward: off-policy runs have one only where a model or classifier lies ready."""
    reward = run.config.reward
    return (
        run.config.algorithm not in OFF_POLICY
        or reward.source == "classifier"
        or reward.model is not None
        or run.folder.file("reward_model").exists()
    )


def build_scorer(run: Run, prompts: Sequence[Prompt]) -> Scorer:
    """The configured reward as the trainer's scorer; a classifier's is anchored on reference samples first."""
    if run.config.reward.source == "trained":
        model = run.reward_model()

        def score_tokens(_prompts: Sequence[Prompt], _texts: Sequence[str], tokens: Tokens) -> torch.Tensor:
            return model.score_tokens(tokens).to(tokens.response_ids.device)

        def score_cut(asked: Sequence[Prompt], texts: Sequence[str], tokens: Tokens) -> torch.Tensor:
            scores = model.score(asked, texts, ended=_ended(run.base(), texts, tokens))
            return scores.to(tokens.response_ids.device)

        # The tokens still hold the stop text; the reward model learned from texts cut before it.
        return score_cut if run.config.sampling.stop else score_tokens
    source = run.classifier("reward")
    shift, scale = 0.0, 1.0
    if run.config.ppo.anchor_scores:
        present = source.score(*_reference_samples(run, prompts))
        shift, scale = float(present.mean()), max(float(present.std(correction=0)), 1e-6)

    def score_texts(asked: Sequence[Prompt], texts: Sequence[str], tokens: Tokens) -> torch.Tensor:
        return ((source.score(asked, texts) - shift) / scale).to(tokens.response_ids.device)

    return score_texts


def _ended(base: SharedBase, texts: Sequence[str], tokens: Tokens) -> list[bool]:
    """Whether each response ended, by an end token or a stop text: then ``texts`` holds less than its tokens say."""
    found = []
    for text, ids, mask in zip(texts, tokens.response_ids, tokens.response_mask, strict=True):
        written = ids[mask].tolist()
        found.append(written[-1] in base.stop_ids or base.response_text(written) != text)
    return found


def _reference_samples(run: Run, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
    """Prompts with one answer each of the reference: those of the sample stage, or new ones."""
    file = run.folder.file("completions.jsonl")
    if "sample" in run.folder.stages() and file.exists():
        by_id = {p.id: p for p in prompts}
        found = [(by_id[c.prompt_id], c.text) for c in read_jsonl(file, Completion) if c.prompt_id in by_id]
        return [p for p, _ in found], [text for _, text in found]
    some = list(prompts[:256])
    with run.base().role("reference"):
        _, texts = respond(run.base(), some, run.config.sampling, seed=run.seed(SAMPLE_SEED), step=0)
    return some, texts
