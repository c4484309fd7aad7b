"""Critic-free advantage estimators against numbers worked by hand, and the trainer that uses them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rl.checks import WANTED, make_trainer, numbers, step

from humanward.algorithm_config import PPOConfig
from humanward.rl.advantages import group_relative_advantages, leave_one_out_advantages
from humanward.rl.rollouts import estimate_advantages

# Two prompts with three and two responses, in mixed order. Sums: 1, 4, 2, 6, 3; prompt 0 has 1, 2, 6, prompt 1 4, 3.
REWARDS = torch.tensor([[1.0, 0, 0], [1, 3, 0], [0, 0, 2], [2, 4, 0], [3, 0, 0]]).double()
MASK = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
GROUP = torch.tensor([0, 1, 0, 0, 1])


def spread(rows: list[float]) -> torch.Tensor:
    return torch.where(MASK, torch.tensor(rows).double()[:, None], 0.0)


def test_leave_one_out_by_hand() -> None:
    # 1 - (2 + 6) / 2 = -3;  4 - 3 = 1;  2 - (1 + 6) / 2 = -1.5;  6 - (1 + 2) / 2 = 4.5;  3 - 4 = -1.
    expected = spread([-3.0, 1.0, -1.5, 4.5, -1.0])
    torch.testing.assert_close(leave_one_out_advantages(REWARDS, MASK, GROUP), expected, rtol=1e-6, atol=0)


def test_group_relative_by_hand() -> None:
    # Prompt 0: mean 3, differences -2, -1, 3, squares 4 + 1 + 9 = 14, deviation sqrt(14 / 2) = 2.6457513.
    # Prompt 1: mean 3.5, differences .5, -.5, deviation sqrt(.5 / 1) = .7071068.
    one, two = math.sqrt(7) + 1e-4, math.sqrt(0.5) + 1e-4
    expected = spread([-2 / one, 0.5 / two, -1 / one, 3 / one, -0.5 / two])
    torch.testing.assert_close(group_relative_advantages(REWARDS, MASK, GROUP, scale=True), expected, rtol=1e-6, atol=0)
    plain = spread([-2.0, 0.5, -1.0, 3.0, -0.5])
    torch.testing.assert_close(group_relative_advantages(REWARDS, MASK, GROUP, scale=False), plain, rtol=1e-6, atol=0)


def test_leave_one_out_is_the_difference_to_the_mean_stretched() -> None:
    """r - mean of the others = n / (n - 1) * (r - mean of all), an identity of the two definitions."""
    rewards, group = torch.randn(12, 4).double(), torch.arange(12) // 4
    mask = torch.ones(12, 4).bool()
    left = leave_one_out_advantages(rewards, mask, group)
    torch.testing.assert_close(left, 4 / 3 * group_relative_advantages(rewards, mask, group, scale=False))


def test_equal_responses_have_no_advantage() -> None:
    same = torch.where(MASK, 1.0, 0.0).double() / MASK.sum(1)[:, None]
    assert not group_relative_advantages(same, MASK, GROUP, scale=True).abs().max() > 1e-9
    assert not leave_one_out_advantages(same, MASK, GROUP).abs().max() > 1e-9


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_a_prompt_with_one_response_is_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match="nothing to compare it with"):
        estimate_advantages(algorithm, REWARDS, REWARDS, MASK, torch.tensor([0, 1, 0, 0, 2]), PPOConfig())


def test_reinforce_plus_plus_sums_what_follows() -> None:
    """gamma .5, row 3: 2 + .5 * 4 = 4, then 4; row 2: .25 * 2 = .5, .5 * 2 = 1, 2; values are not looked at."""
    found = estimate_advantages("reinforce++", REWARDS, REWARDS + 7, MASK, GROUP, PPOConfig(gamma=0.5))
    assert found[3].tolist() == [4.0, 4.0, 0.0]
    assert found[2].tolist() == [0.5, 1.0, 2.0]


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="'trpo'"):
        estimate_advantages("trpo", REWARDS, REWARDS, MASK, GROUP, PPOConfig())


FAMILY: list[tuple[str, dict[str, Any]]] = [
    ("rloo", {"samples_per_prompt": 4, "whiten_advantages": False}),
    ("grpo", {"samples_per_prompt": 4}),
    ("grpo", {"samples_per_prompt": 4, "kl_place": "loss", "scale_by_deviation": False}),
    ("reinforce++", {}),
]


@pytest.mark.parametrize(("algorithm", "options"), FAMILY)
def test_a_step_has_no_critic_and_repeats_bitwise(algorithm: str, options: dict[str, Any]) -> None:
    first, second = (make_trainer(numbers, algorithm=algorithm, seed=3, **options)[0] for _ in range(2))
    for trainer in (first, second):
        assert trainer.value_head is None
    for _ in range(2):
        (one, rollout), (two, _) = step(first), step(second)
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in two.items() if "seconds" not in k
        }
    assert not rollout.values.any()
    assert not rollout.returns.any()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, second.parameters, strict=True))
    assert any(bool(p.any()) for p in first.parameters)


def test_the_responses_to_a_prompt_stay_together_and_differ() -> None:
    trainer, _ = make_trainer(algorithm="rloo", samples_per_prompt=4, sampling={"temperature": 3.0})
    _, rollout = step(trainer)
    assert rollout.group.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len({tuple(row) for row in rollout.tokens.response_ids[:4].tolist()}) > 1


def test_the_penalty_in_the_loss_leaves_the_rewards_alone() -> None:
    trainer, _ = make_trainer(
        numbers,
        algorithm="grpo",
        samples_per_prompt=2,
        kl_place="loss",
        kl_coef=0.5,
        moved=0.3,
        missing_eos_penalty=0.0,
    )
    metrics, rollout = step(trainer)
    torch.testing.assert_close(rollout.rewards.sum(1), torch.arange(1, 9) / 2)
    assert metrics["ppo/kl_loss"] > 0


def test_the_penalty_in_the_loss_pulls_to_the_reference() -> None:
    """With equal scores there is nothing to gain, so the k3 in the loss must bring a moved policy back.

    Of 64 responses' mean KL a token, measured over the last four of twelve steps; without the penalty it stays.
    """
    kl = {}
    for coef in (1.0, 0.0):
        trainer, _ = make_trainer(
            lambda prompts, texts, tokens: torch.zeros(len(prompts)),
            algorithm="grpo",
            samples_per_prompt=2,
            kl_place="loss",
            kl_coef=coef,
            moved=0.3,
            missing_eos_penalty=0.0,
            learning_rate=0.01,
            steps=12,
            rollout_size=64,
            minibatch_size=32,
            micro_batch_size=32,
        )
        kl[coef] = [step(trainer)[0]["ppo/kl"] for _ in range(12)]
    assert kl[1.0][0] == kl[0.0][0]
    assert sum(kl[1.0][-4:]) / 4 < 0.7 * kl[1.0][0]
    assert sum(kl[0.0][-4:]) / 4 > 0.85 * kl[0.0][0]


@pytest.mark.parametrize(("algorithm", "options"), FAMILY)
def test_every_estimator_makes_a_rewarded_word_common(algorithm: str, options: dict[str, Any]) -> None:
    """Shares are of 64 responses: a standard error of .06 at most, so a rise of .3 is five of them."""
    trainer, _ = make_trainer(
        algorithm=algorithm,
        steps=12,
        rollout_size=64,
        minibatch_size=32,
        micro_batch_size=32,
        epochs=4,
        learning_rate=0.01,
        target_update_kl=0.05,
        missing_eos_penalty=0.0,
        kl_coef=0.01,
        sampling={"temperature": 2.0},
        **options,
    )
    scores = [trainer.step()["ppo/score_mean"] for _ in range(12)]
    assert WANTED == 3
    assert scores[-1] > scores[0] + 0.3
