"""A reward model: an adapter and a score head on the shared base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead
from humanward.models.states import last_state
from humanward.models.tokens import Tokens
from humanward.records import Prompt

ROLE = "reward"


class RewardModel:
    """Scores a response by the state after its last token, under the base's ``reward`` adapter."""

    def __init__(self, base: SharedBase, head: ScoreHead, *, limit: int, name: str = "trained reward model") -> None:
        self.base, self.head, self.limit, self.name = base, head.to(base.device), limit, name

    def forward(self, tokens: Tokens) -> torch.Tensor:
        """(B,) scores with gradients; the caller is in the reward role."""
        return self.head(last_state(self.base.states(tokens), tokens.response_mask))

    @torch.no_grad()
    def score_tokens(self, tokens: Tokens, batch_size: int = 32) -> torch.Tensor:
        """(B,) anchored scores of responses given as tokens."""
        with self.base.role(ROLE):
            parts = [self.forward(tokens[i : i + batch_size].trimmed()) for i in range(0, len(tokens), batch_size)]
        return torch.cat(parts).float().cpu()

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        ended: Sequence[bool] | None = None,
        batch_size: int = 32,
    ) -> torch.Tensor:
        """(B,) anchored scores of responses given as text; each is closed by the end token unless ``ended`` says no."""
        order = sorted(range(len(responses)), key=lambda i: len(prompts[i].text) + len(responses[i]))
        scores = torch.empty(len(responses))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            closed = None if ended is None else [ended[i] for i in batch]
            tokens = self.base.encode(
                [prompts[i] for i in batch], [responses[i] for i in batch], ended=closed, limit=self.limit
            )
            scores[batch] = self.score_tokens(tokens, batch_size)
        return scores

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Adapter (PEFT), head (safetensors) and facts (JSON) into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.base.save_role(ROLE, folder)
        save_file(
            {k: v.contiguous().cpu() for k, v in self.head.state_dict().items()}, folder / "score_head.safetensors"
        )
        facts = {**facts, "base": self.base.name, "limit": self.limit, "width": self.base.width}
        (folder / "reward_model.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_reward_model(base: SharedBase, folder: Path) -> RewardModel:
    """A reward model that ``save`` wrote, as the ``reward`` role of ``base``."""
    facts_file, head_file = folder / "reward_model.json", folder / "score_head.safetensors"
    if not facts_file.exists() or not head_file.exists():
        raise InputError(
            f"{folder}: holds no reward_model.json and score_head.safetensors; name a trained reward model's folder"
        )
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    if facts["base"] != base.name or facts["width"] != base.width:
        raise InputError(
            f"{folder}: is a reward model on {facts['base']} (width {facts['width']}), the policy is {base.name} "
            f"(width {base.width}); train one on this base, or use reward.source = 'classifier'"
        )
    base.load_role(ROLE, folder)
    head = ScoreHead(base.width)
    head.load_state_dict(load_file(head_file))
    return RewardModel(base, head, limit=int(facts["limit"]))
