"""Ensembles of reward adapters on one base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import tiny
from reward.test_reward_model import LORA, preferences

from humanward.config import RewardConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead
from humanward.preferences import group_by_prompt
from humanward.reward.model import (
    RewardEnsemble,
    RewardModel,
    load_reward_model,
    load_reward_models,
    member_folders,
    role_of,
)
from humanward.reward.training import train_reward_model

PAIRS = preferences(24, seed=1)
PROMPTS, TEXTS = [p.prompt for p in PAIRS], [p.chosen for p in PAIRS]


def trained(base: SharedBase, number: int, seed: int) -> RewardModel:
    config = RewardConfig(epochs=1, batch_size=8, learning_rate=0.01, rank=4, max_tokens_trained=32)
    return train_reward_model(base, group_by_prompt(PAIRS), config, LORA, seed=seed, role=role_of(number))


@pytest.fixture(scope="module")
def members() -> list[RewardModel]:
    base = tiny.with_policy(tiny.shared_base(), moved=0.1)
    return [trained(base, number, seed=10 * number) for number in (1, 2, 3)]


def test_the_scores_of_three_are_combined_as_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """(1, 4), (2, 4), (6, 4): means 3 and 4, least 1 and 4, deviations sqrt((4 + 1 + 9) / 3) and 0."""
    base = tiny.shared_base()
    fixed = []
    for scores in ([1.0, 4.0], [2.0, 4.0], [6.0, 4.0]):
        one = RewardModel(base, ScoreHead(base.width), limit=32)
        monkeypatch.setattr(one, "score", lambda prompts, texts, ended=None, s=scores: torch.tensor(s))
        monkeypatch.setattr(one, "score_tokens", lambda tokens, batch_size=32, s=scores: torch.tensor(s))
        fixed.append(one)
    deviation = (14 / 3) ** 0.5
    wanted = {"mean": [3, 4], "min": [1, 4], "mean-std": [3 - 0.5 * deviation, 4]}
    for combine, scores in wanted.items():
        ensemble = RewardEnsemble(fixed, combine, 0.5)
        found = ensemble.detail(PROMPTS[:2], TEXTS[:2])
        assert found.scores.tolist() == pytest.approx(scores)
        assert found.parts["disagreement"].tolist() == pytest.approx([deviation, 0])
        assert found.parts["member-3"].tolist() == [6, 4]
        assert list(found.parts) == ["member-1", "member-2", "member-3", "disagreement"]
        tokens = base.encode(PROMPTS[:2], TEXTS[:2])
        assert ensemble.score_tokens(tokens).tolist() == pytest.approx(scores)


def test_members_share_the_base_and_each_has_its_adapter(members: list[RewardModel]) -> None:
    base = members[0].base
    assert all(member.base is base for member in members)
    assert {"policy", "reward", "reward-2", "reward-3"} <= set(base.roles)
    sizes = [{id(p) for p in base.role_parameters(role_of(number))} for number in (1, 2, 3)]
    assert all(sizes)
    assert not sizes[0] & sizes[1]
    assert not sizes[1] & sizes[2]
    first, second, _ = (member.score(PROMPTS, TEXTS) for member in members)
    assert float((first - second).abs().max()) > 1e-3


def test_training_a_member_moves_no_other_role(members: list[RewardModel]) -> None:
    base = members[0].base
    others = [p for name in ("policy", "reward", "reward-2", "reward-3") for p in base.role_parameters(name)]
    others += [p for name, p in base.model.named_parameters() if "lora_" not in name]
    heads = [p for member in members for p in member.head.parameters()]
    before, scores = tiny.weights([*others, *heads]), [member.score(PROMPTS, TEXTS) for member in members]
    trained(base, 4, seed=99)
    assert tiny.same([*others, *heads], before)
    assert all(torch.equal(one, member.score(PROMPTS, TEXTS)) for one, member in zip(scores, members, strict=True))


def test_text_and_tokens_score_alike(members: list[RewardModel]) -> None:
    ensemble = RewardEnsemble(members, "mean-std", 1.0)
    tokens = ensemble.base.encode(PROMPTS, TEXTS, limit=32)
    by_text, by_tokens = ensemble.detail(PROMPTS, TEXTS), ensemble.detail_tokens(tokens)
    torch.testing.assert_close(by_text.scores, by_tokens.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_text.parts["disagreement"], by_tokens.parts["disagreement"], rtol=1e-3, atol=1e-5)


def test_an_ensemble_comes_back_from_its_folder(members: list[RewardModel], tmp_path: Path) -> None:
    ensemble = RewardEnsemble(members, "min")
    ensemble.save(tmp_path / "one", {})
    assert json.loads((tmp_path / "one" / "reward_model.json").read_text())["members"] == 3
    assert member_folders(tmp_path / "one") == [tmp_path / "one" / name for name in ("", "member-2", "member-3")]
    again = load_reward_models(tiny.shared_base(), [tmp_path / "one"], "min")
    assert torch.equal(again.score(PROMPTS, TEXTS), ensemble.score(PROMPTS, TEXTS))
    # The folder is its first member's too, and those of several make one ensemble.
    first = load_reward_model(tiny.shared_base(), tmp_path / "one")
    assert torch.equal(first.score(PROMPTS, TEXTS), members[0].score(PROMPTS, TEXTS))
    two = load_reward_models(tiny.shared_base(), [tmp_path / "one" / "member-2", tmp_path / "one" / "member-3"])
    assert isinstance(two, RewardEnsemble)
    assert torch.equal(two.detail(PROMPTS, TEXTS).parts["member-2"], members[2].score(PROMPTS, TEXTS))
    single = load_reward_models(tiny.shared_base(), [tmp_path / "one" / "member-2"])
    assert isinstance(single, RewardModel)
    assert torch.equal(single.score(PROMPTS, TEXTS), members[1].score(PROMPTS, TEXTS))


def test_a_member_that_is_missing_is_named(members: list[RewardModel], tmp_path: Path) -> None:
    RewardEnsemble(members[:2]).save(tmp_path, {})
    (tmp_path / "member-2" / "score_head.safetensors").unlink()
    with pytest.raises(InputError, match=r"member-2: holds no reward_model\.json and score_head\.safetensors"):
        load_reward_models(tiny.shared_base(), [tmp_path])
