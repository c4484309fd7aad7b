"""A reward model: an adapter and a score head on the shared base; an ensemble of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from humanward.config import ModelConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.chunks import CHUNK_TOKENS
from humanward.models.heads import ScoreHead
from humanward.models.loading import load_model
from humanward.models.micro_batches import MicroBatches
from humanward.models.provenance import tokenizer_sha256
from humanward.models.states import last_state
from humanward.models.tokens import Tokens
from humanward.records import Prompt
from humanward.reward.criteria import CriterionHead
from humanward.reward.sources import Scored

ROLE = "reward"
FACTS, HEAD = "reward_model.json", "score_head.safetensors"


def role_of(member: int) -> str:
    """The base's role of an ensemble's member, counted from 1: reward, reward-2, reward-3 ..."""
    return ROLE if member == 1 else f"{ROLE}-{member}"


class RewardModel:
    """Scores a response by the state after its last token, under an adapter of the base: its ``role``.

    With a CriterionHead every criterion has a score of its own, and the score is their combination. ``temperature`` is
    what makes sigmoid(difference / temperature) the probability that people prefer the first of two answers; None where
    it was never fitted.
    """

    def __init__(
        self,
        base: SharedBase,
        head: ScoreHead | CriterionHead,
        *,
        limit: int,
        name: str = "trained reward model",
        role: str = ROLE,
        temperature: float | None = None,
    ) -> None:
        self.base, self.limit, self.name, self.role = base, limit, name, role
        self.head: Any = head.to(base.device)
        self.temperature = temperature
        self.tie_model: tuple[str, float | None] = ("half", None)

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that have a head of their own; empty where one head scores."""
        return self.head.criteria if isinstance(self.head, CriterionHead) else ()

    def forward(self, tokens: Tokens) -> torch.Tensor:
        """(B, C) scores of the criteria, or (B, 1) of the only head, with gradients; the caller is in the role."""
        states = last_state(self.base.states(tokens), tokens.response_mask)
        return self.head.by_criterion(states) if self.criteria else self.head(states)[..., None]

    @torch.no_grad()
    def criterion_scores_of_tokens(self, tokens: Tokens, batch_size: int = 32) -> torch.Tensor:
        """(B, C) anchored scores of responses given as tokens; C = 1 where one head scores."""
        parts = MicroBatches(batch_size, CHUNK_TOKENS)
        with self.base.role(self.role):
            # In batches of like length: a batch is as long as its longest.
            scored = [(rows, self.forward(tokens[rows].trimmed()).float().cpu()) for rows in parts.split(tokens)]
        scores = torch.empty(len(tokens), scored[0][1].shape[1])
        for rows, found in scored:
            scores[rows.cpu()] = found
        return scores

    def score_tokens(self, tokens: Tokens, batch_size: int = 32) -> torch.Tensor:
        """(B,) anchored scores of responses given as tokens."""
        return self._combined(self.criterion_scores_of_tokens(tokens, batch_size))

    def _combined(self, scores: torch.Tensor) -> torch.Tensor:
        if not self.criteria:
            return scores[:, 0]
        with torch.no_grad():
            return self.head.combine(scores.to(self.head.weights.device)).cpu()

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        ended: Sequence[bool] | None = None,
        batch_size: int = 32,
    ) -> torch.Tensor:
        """(B,) anchored scores of responses given as text; each is closed by the end token unless ``ended`` says no."""
        return self._combined(self.criterion_scores(prompts, responses, ended, batch_size))

    def criterion_scores(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        ended: Sequence[bool] | None = None,
        batch_size: int = 32,
    ) -> torch.Tensor:
        """(B, C) the same before they are combined; C = 1 where one head scores."""
        order = sorted(range(len(responses)), key=lambda i: len(prompts[i].text) + len(responses[i]))
        scores = torch.empty(len(responses), len(self.criteria) or 1)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            closed = None if ended is None else [ended[i] for i in batch]
            tokens = self.base.encode(
                [prompts[i] for i in batch], [responses[i] for i in batch], ended=closed, limit=self.limit
            )
            scores[batch] = self.criterion_scores_of_tokens(tokens, batch_size)
        return scores

    def detail_tokens(self, tokens: Tokens, batch_size: int = 32) -> Scored:
        """The scores of responses given as tokens; their parts are the criteria's."""
        return self._detail(self.criterion_scores_of_tokens(tokens, batch_size))

    def detail(
        self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool] | None = None
    ) -> Scored:
        """The scores of responses given as text; their parts are the criteria's."""
        return self._detail(self.criterion_scores(prompts, responses, ended))

    def _detail(self, scores: torch.Tensor) -> Scored:
        parts = dict(zip(self.criteria, scores.unbind(1), strict=True)) if self.criteria else {}
        return Scored(self._combined(scores), parts)

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Adapter (PEFT) or whole model (transformers), head (safetensors) and facts (JSON) into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.base.save_role(self.role, folder)
        save_file({k: v.contiguous().cpu() for k, v in self.head.state_dict().items()}, folder / HEAD)
        facts = {**facts, "base": self.base.name, "limit": self.limit, "width": self.base.width}
        facts["train"] = "adapter" if (folder / "adapter_config.json").exists() else "full"
        facts["dtype"] = str(self.base.compute_dtype).removeprefix("torch.")
        facts["quantization"] = "nf4" if self.base.precision["base"].startswith("nf4") else "none"
        facts["system_prompt"] = self.base.system_prompt
        facts["temperature"] = self.temperature
        facts["ties"] = dict(zip(("model", "parameter"), self.tie_model, strict=True))
        if self.criteria:
            facts["criteria"] = dict(zip(self.criteria, self.head.weights.tolist(), strict=True))
        facts["tokenizer_sha256"] = tokenizer_sha256(self.base.tokenizer)
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


class RewardEnsemble:
    """Reward models on one base that score together, by ``combine``: mean, min, or mean-std.

    mean-std is mean - ``penalty`` * deviation. The deviation over the members, with their number as divisor, is the
    part ``disagreement``; every member's own scores are parts too. Source: Coste et al. 2023 (arXiv 2310.02743), who
    call mean and worst case what is mean and min here, and their uncertainty-weighted score takes the variance.
    """

    def __init__(self, members: Sequence[RewardModel], combine: str = "mean", penalty: float = 1.0) -> None:
        self.members, self.combine, self.penalty = list(members), combine, penalty
        self.temperature: float | None = None
        self.name = f"ensemble of {len(self.members)} trained reward models"

    @property
    def base(self) -> SharedBase:
        """The base that all members share."""
        return self.members[0].base

    def score_tokens(self, tokens: Tokens, batch_size: int = 32) -> torch.Tensor:
        """(B,) combined scores of responses given as tokens."""
        return self.detail_tokens(tokens, batch_size).scores

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool] | None = None
    ) -> torch.Tensor:
        """(B,) combined scores of responses given as text."""
        return self.detail(prompts, responses, ended).scores

    def detail_tokens(self, tokens: Tokens, batch_size: int = 32) -> Scored:
        """The combined scores of responses given as tokens, with their parts."""
        return self._combined([member.score_tokens(tokens, batch_size) for member in self.members])

    def detail(
        self, prompts: Sequence[Prompt], responses: Sequence[str], ended: Sequence[bool] | None = None
    ) -> Scored:
        """The combined scores of responses given as text, with their parts."""
        return self._combined([member.score(prompts, responses, ended) for member in self.members])

    def _combined(self, scores: Sequence[torch.Tensor]) -> Scored:
        each = torch.stack(list(scores))
        deviation = each.std(0, correction=0)
        total = {
            "mean": each.mean(0),
            "min": each.min(0).values,
            "mean-std": each.mean(0) - self.penalty * deviation,
        }[self.combine]
        parts = {f"member-{number}": one for number, one in enumerate(each, 1)}
        return Scored(total, {**parts, "disagreement": deviation})

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """The first member into ``folder`` and the others below it, each as a reward model by itself."""
        own = {"combine": self.combine, "lambda": self.penalty, "temperature": self.temperature}
        self.members[0].save(folder, {**facts, "members": len(self.members), "ensemble": own})
        for number, member in enumerate(self.members[1:], 2):
            member.save(folder / f"member-{number}", facts)


def load_reward_model(base: SharedBase, folder: Path, role: str = ROLE) -> RewardModel:
    """A reward model that ``save`` wrote, as ``role`` of ``base``."""
    facts = read_facts(folder)
    if facts["base"] != base.name or facts["width"] != base.width:
        raise InputError(
            f"{folder}: is a reward model on {facts['base']} (width {facts['width']}), the policy is {base.name} "
            f"(width {base.width}); train one on this base, or use reward.source = 'classifier'"
        )
    if facts.get("tokenizer_sha256", tokenizer_sha256(base.tokenizer)) != tokenizer_sha256(base.tokenizer):
        raise InputError(
            f"{folder}: was trained with another tokenizer than {base.name} has now, so its tokens mean other texts; "
            "bring that tokenizer back, train a reward model again, or use reward.source = 'classifier'"
        )
    criteria, temperature = facts.get("criteria"), facts.get("temperature")
    head: ScoreHead | CriterionHead = CriterionHead(base.width, criteria) if criteria else ScoreHead(base.width)
    head.load_state_dict(load_file(folder / HEAD))
    if facts.get("train", "adapter") == "full":
        base, role = _whole(base, folder), "reference"
    else:
        base.load_role(role, folder)
    return RewardModel(base, head, limit=int(facts["limit"]), role=role, temperature=temperature)


def _whole(base: SharedBase, folder: Path) -> SharedBase:
    """The whole model in ``folder`` as a base of its own, on the device of ``base``; its ``reference`` role scores."""
    dtype = str(base.compute_dtype).removeprefix("torch.")
    config = ModelConfig(policy=str(folder), device=str(base.device), dtype=dtype)  # type: ignore[arg-type]
    return SharedBase(load_model(config), system_prompt=base.system_prompt)


def load_reward_models(
    base: SharedBase, folders: Sequence[Path], combine: str = "mean", penalty: float = 1.0
) -> RewardModel | RewardEnsemble:
    """What ``folders`` hold, each a reward model or an ensemble: one reward model, or the ensemble of all."""
    places = [place for folder in folders for place in member_folders(folder)]
    members = [load_reward_model(base, place, role_of(number)) for number, place in enumerate(places, 1)]
    if len(members) == 1:
        return members[0]
    ensemble = RewardEnsemble(members, combine, penalty)
    own = read_facts(folders[0]).get("ensemble", {}) if len(folders) == 1 else {}
    # A temperature belongs to the way of combining that it was fitted for.
    if (own.get("combine"), own.get("lambda")) == (combine, penalty):
        ensemble.temperature = own["temperature"]
    return ensemble


def member_folders(folder: Path) -> list[Path]:
    """The folder of every member of what was saved in ``folder``."""
    count = int(read_facts(folder).get("members", 1))
    return [folder, *(folder / f"member-{number}" for number in range(2, count + 1))]


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of a saved reward model's reward_model.json; InputError where there is none."""
    if not (folder / FACTS).exists() or not (folder / HEAD).exists():
        raise InputError(f"{folder}: holds no {FACTS} and {HEAD}; name a trained reward model's folder")
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))
