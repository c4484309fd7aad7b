"""A head for each criterion on one adapter, and ties, margins, full fine-tuning and resuming in training."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny
from reward.test_reward_model import LORA, accuracy, preferences

from humanward.config import ModelConfig, RewardConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead, ValueHead
from humanward.models.loading import load_model
from humanward.preferences import group_by_prompt
from humanward.records import Preference, Prompt
from humanward.reward.criteria import CriterionHead
from humanward.reward.model import RewardModel, load_reward_model
from humanward.reward.training import PairLoss, TrainingStep, train_reward_model


def config(**changes) -> RewardConfig:
    return RewardConfig(
        **{"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "rank": 4, "max_tokens_trained": 32, **changes}
    )


def train(pairs: list[Preference], *, checkpoint: Path | None = None, on_step=lambda step: None, **changes):
    groups = group_by_prompt(pairs, criteria_together=True)
    return train_reward_model(
        tiny.shared_base(), groups, config(**changes), LORA, seed=0, checkpoint=checkpoint, on_step=on_step
    )


def by_criteria(count: int, seed: int) -> list[Preference]:
    """Of one pair a prompt "helpful" prefers the word w5, "harmless" the other answer."""
    pairs = preferences(count, seed)
    helpful = [dataclasses.replace(p, criterion="helpful") for p in pairs]
    turned = [
        dataclasses.replace(p, criterion="harmless", chosen=p.rejected, rejected=p.chosen, chosen_id="b") for p in pairs
    ]
    return [*helpful, *turned]


def test_a_head_with_two_criteria_by_hand() -> None:
    """Raw scores of states 1, 3: criterion a (weight 2 h) 2, 6; b (-h + 1) 0, -2. Anchored each is -1, 1 and 1, -1.

    Weights 3 and 1 give -3 + 1 = -2 and 2, anchored again -1 and 1.
    """
    head = CriterionHead(1, {"a": 3.0, "b": 1.0})
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        head.linear.bias.copy_(torch.tensor([0.0, 1.0]))
    states = torch.tensor([[1.0], [3.0]])
    for _ in range(2):
        head.anchor(head.by_criterion(states).detach())
        torch.testing.assert_close(head.by_criterion(states).detach(), torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))
        torch.testing.assert_close(head(states).detach(), torch.tensor([-1.0, 1.0]))
    weight, bias = head.folded()
    torch.testing.assert_close(states @ weight + bias, head(states).detach())
    critic = ValueHead.from_score_head(head)
    torch.testing.assert_close(critic(states).detach(), head(states).detach())


def test_the_proportions_of_the_weights_decide() -> None:
    states = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    scores = []
    for weights in ({"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 6.0}):
        head = CriterionHead(4, weights, torch.Generator().manual_seed(1))
        head.anchor(head.by_criterion(states).detach())
        scores.append(head(states).detach())
    torch.testing.assert_close(scores[0], scores[1])
    assert float(scores[0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(scores[0].std(correction=0)) == pytest.approx(1, rel=1e-5)


def test_one_criterion_is_a_plain_head() -> None:
    states = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    plain = ScoreHead(4, torch.Generator().manual_seed(1))
    single = CriterionHead(4, {"a": 0.5}, torch.Generator().manual_seed(1))
    plain.anchor(plain(states).detach())
    single.anchor(single.by_criterion(states).detach())
    torch.testing.assert_close(single(states), plain(states))


@pytest.fixture(scope="module")
def two() -> RewardModel:
    return train(by_criteria(160, seed=1), criteria={"helpful": 3.0, "harmless": 1.0})


def test_opposite_criteria_are_learned_side_by_side_on_one_adapter(two: RewardModel, tmp_path: Path) -> None:
    held_out = preferences(100, seed=2)
    prompts = [p.prompt for p in held_out]
    above = two.criterion_scores(prompts, [p.chosen for p in held_out])
    below = two.criterion_scores(prompts, [p.rejected for p in held_out])
    assert two.criteria == ("helpful", "harmless")
    assert [round(float(x), 1) for x in (above > below).float().mean(0)] == [1.0, 0.0]
    assert accuracy(two, held_out) > 0.9  # helpful weighs more
    detail = two.detail(prompts, [p.chosen for p in held_out])
    assert list(detail.parts) == ["helpful", "harmless"]
    torch.testing.assert_close(detail.parts["harmless"], above[:, 1])
    two.temperature = 0.7
    two.save(tmp_path, {})
    facts = json.loads((tmp_path / "reward_model.json").read_text())
    assert (facts["criteria"], facts["temperature"]) == ({"helpful": 3.0, "harmless": 1.0}, 0.7)
    again = load_reward_model(tiny.shared_base(), tmp_path)
    assert again.criteria == two.criteria
    assert again.temperature == 0.7
    assert torch.equal(again.score(prompts, [p.chosen for p in held_out]), detail.scores)
    tokens = two.base.encode(prompts, [p.chosen for p in held_out], limit=32)
    torch.testing.assert_close(two.detail_tokens(tokens).scores, detail.scores, rtol=1e-4, atol=1e-5)


def test_a_completion_ranked_by_two_criteria_is_encoded_once() -> None:
    (group,) = group_by_prompt(by_criteria(1, seed=1), criteria_together=True)
    assert len(group.texts) == 2
    assert [pair.criterion for pair in group.pairs] == ["helpful", "harmless"]
    assert group.criterion == ""
    apart = group_by_prompt(by_criteria(1, seed=1))
    assert [one.criterion for one in apart] == ["helpful", "harmless"]


def test_a_criterion_without_data_is_one_line() -> None:
    with pytest.raises(
        InputError, match=r"reward\.criteria: 'honest' has no strict pairs to train on; the pairs are of"
    ):
        train(by_criteria(4, seed=1), criteria={"helpful": 1.0, "honest": 1.0})


def test_pairs_without_margins_are_refused_where_margins_count() -> None:
    with pytest.raises(InputError, match=r"reward\.margin = 0\.5: 4 of 4 strict pairs have no margin"):
        train(preferences(4, seed=1), margin=0.5)


def test_a_margin_pushes_scores_further_apart() -> None:
    pairs = [dataclasses.replace(p, margin=1.0) for p in preferences(16, seed=1)]
    steps: dict[float, list[TrainingStep]] = {0.0: [], 2.0: []}
    for margin, told in steps.items():
        train(pairs, epochs=1, margin=margin, on_step=told.append)
    assert steps[2.0][0].loss > steps[0.0][0].loss + 0.3
    assert steps[2.0][0].loss == pytest.approx(  # at the first step differences are small: about log(1 + e^2)
        math.log1p(math.exp(2)), abs=0.8
    )


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_the_ties_parameter_is_learned_or_given(ties: str) -> None:
    pairs = [dataclasses.replace(p, tie=i % 3 == 0) for i, p in enumerate(preferences(48, seed=1))]
    learned, given = [], []
    model = train(pairs, ties=ties, epochs=2, on_step=learned.append)
    assert learned[0].tie_parameter == pytest.approx(1.0 if ties == "davidson" else math.log(2))
    assert learned[-1].tie_parameter != learned[0].tie_parameter
    assert model.tie_model[0] == ties
    train(pairs, ties=ties, tie_parameter=0.4, epochs=1, on_step=given.append)
    assert [step.tie_parameter for step in given] == pytest.approx([0.4] * len(given))


@pytest.mark.parametrize(("ties", "wanted"), [("davidson", 2 / 3), ("rao-kupper", 2 * math.atanh(0.25))])
def test_the_most_likely_parameter_is_the_share_of_ties(ties: str, wanted: float) -> None:
    """Of answers that all score alike a quarter tie: nu / (2 + nu) = 1/4 at nu = 2/3, tanh(eta / 2) = 1/4."""
    pairs = [dataclasses.replace(p, tie=i % 4 == 0) for i, p in enumerate(preferences(40, seed=1))]
    groups = group_by_prompt(pairs)
    objective = PairLoss(config(ties=ties), groups, ()).double()
    with torch.no_grad():
        objective.log_parameter.fill_(0.7)
    scores = torch.zeros(sum(len(g.texts) for g in groups), 1, dtype=torch.float64)
    optimizer = torch.optim.Adam([objective.log_parameter], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        objective(scores, groups)[0].backward()
        optimizer.step()
    assert objective.parameter == pytest.approx(wanted, rel=1e-3)


def test_without_ties_every_kind_of_tie_trains_the_same_model() -> None:
    pairs, held_out = preferences(32, seed=1), preferences(8, seed=2)
    prompts, texts = [p.prompt for p in held_out], [p.chosen for p in held_out]
    first, *others = (
        train(pairs, ties=ties, epochs=1).score(prompts, texts) for ties in ("half", "drop", "davidson", "rao-kupper")
    )
    assert all(torch.equal(first, other) for other in others)


def test_dropped_ties_teach_nothing() -> None:
    pairs = preferences(32, seed=1)
    tied = [dataclasses.replace(p, tie=True, prompt_id=f"t{i}") for i, p in enumerate(preferences(8, seed=3))]
    prompts, texts = [p.prompt for p in pairs], [p.chosen for p in pairs]
    without, dropped = train(pairs, epochs=1), train([*pairs, *tied], epochs=1, ties="drop")
    kept = train([*pairs, *tied], epochs=1)
    assert torch.equal(without.score(prompts, texts) > 0, dropped.score(prompts, texts) > 0)
    assert not torch.equal(kept.score(prompts, texts), dropped.score(prompts, texts))


def test_a_pair_of_weight_zero_teaches_nothing() -> None:
    pairs = preferences(32, seed=1)
    prompts, texts = [p.prompt for p in pairs], [p.chosen for p in pairs]
    noise = [dataclasses.replace(p, weight=0.0, chosen=p.rejected, rejected=p.chosen) for p in pairs]
    plain, noisy = train(pairs, epochs=1), train([*pairs, *noise], epochs=1)
    assert torch.equal(plain.score(prompts, texts), noisy.score(prompts, texts))


def test_full_fine_tuning_learns_and_comes_back(tmp_path: Path) -> None:
    model = train(preferences(160, seed=1), train="full", learning_rate=0.003)
    held_out = preferences(60, seed=2)
    assert accuracy(model, held_out) > 0.9
    model.save(tmp_path / "whole", {})
    assert json.loads((tmp_path / "whole" / "reward_model.json").read_text())["train"] == "full"
    assert (tmp_path / "whole" / "model.safetensors").exists()
    again = load_reward_model(tiny.shared_base(), tmp_path / "whole")
    prompts, texts = [p.prompt for p in held_out], [p.chosen for p in held_out]
    torch.testing.assert_close(again.score(prompts, texts), model.score(prompts, texts))


def test_on_four_bits_it_learns_and_comes_back(tmp_path: Path) -> None:
    """QLoRA: the base in NF4, adapter and head in float32; what it was trained on is recorded."""
    pytest.importorskip("bitsandbytes")
    wide = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    options = ModelConfig(policy=str(tiny.save(tmp_path / "base", **wide)), dtype="float32", quantization="nf4")
    base = SharedBase(load_model(options))
    groups = group_by_prompt(preferences(96, seed=1))
    steps: list[TrainingStep] = []
    model = train_reward_model(base, groups, config(epochs=4), LORA, seed=0, on_step=steps.append)
    held_out = preferences(60, seed=2)
    assert steps[-1].loss < 0.6 * steps[0].loss
    model.save(tmp_path / "reward", {})
    assert json.loads((tmp_path / "reward" / "reward_model.json").read_text())["quantization"] == "nf4"
    again = load_reward_model(SharedBase(load_model(options)), tmp_path / "reward")
    prompts, texts = [p.prompt for p in held_out], [p.chosen for p in held_out]
    assert torch.equal(again.score(prompts, texts), model.score(prompts, texts))


class StoppedError(Exception):
    """The power cut of the test."""


@pytest.mark.parametrize(
    "changes", [{}, {"criteria": {"helpful": 1.0, "harmless": 2.0}}, {"train": "full"}, {"ties": "davidson"}]
)
def test_training_goes_on_bitwise_where_it_stopped(tmp_path: Path, changes: dict) -> None:
    pairs = by_criteria(20, seed=1)
    pairs[0] = dataclasses.replace(pairs[0], tie=True)
    changes = {"epochs": 2, "batch_size": 8, "checkpoint_seconds": 0, **changes}
    whole: list[TrainingStep] = []
    wanted = train(pairs, on_step=whole.append, **changes)

    def cut(step: TrainingStep) -> None:
        if step.step == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(pairs, checkpoint=tmp_path / "at", on_step=cut, **changes)
    told: list[TrainingStep] = []
    resumed = train(pairs, checkpoint=tmp_path / "at", on_step=told.append, **changes)
    assert told == whole
    prompts, texts = [p.prompt for p in pairs], [p.chosen for p in pairs]
    assert torch.equal(resumed.score(prompts, texts), wanted.score(prompts, texts))


def test_a_checkpoint_of_another_training_is_left_alone(tmp_path: Path) -> None:
    pairs = preferences(16, seed=1)
    train(pairs, checkpoint=tmp_path, checkpoint_seconds=0, epochs=1)
    told: list[TrainingStep] = []
    train(pairs[:-1], checkpoint=tmp_path, checkpoint_seconds=0, epochs=1, on_step=told.append)
    fresh: list[TrainingStep] = []
    train(pairs[:-1], epochs=1, on_step=fresh.append)
    assert told == fresh


def test_scores_of_criteria_are_anchored(two: RewardModel) -> None:
    pairs = preferences(160, seed=1)
    prompts = [p.prompt for p in pairs for _ in range(2)]
    texts = [text for p in pairs for text in (p.chosen, p.rejected)]
    each = two.criterion_scores(prompts, texts)
    np.testing.assert_allclose(each.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(each.std(0, correction=0), 1, rtol=1e-3)
    total = two.score(prompts, texts)
    assert float(total.std(correction=0)) == pytest.approx(1, rel=1e-3)
    assert isinstance(prompts[0], Prompt)
