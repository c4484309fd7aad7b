"""A critic with an adapter of its own: it learns without moving the policy, and the policy without moving it."""

from __future__ import annotations

import pytest
import torch
from models import tiny
from rl.checks import make_trainer, numbers

from humanward.config import LoraConfig
from humanward.models.heads import ScoreHead, ValueHead
from humanward.rl.trainer import OnPolicyTrainer


def with_critic(**ppo: object) -> OnPolicyTrainer:
    base = tiny.with_policy(tiny.shared_base())
    base.add_role("critic", LoraConfig(rank=2), seed=3)
    trainer, _ = make_trainer(numbers, base=base, critic="adapter", **ppo)
    return trainer


def test_warm_up_moves_the_critic_and_not_the_policy() -> None:
    trainer = with_critic(critic_warmup_steps=1)
    policy = tiny.weights(trainer.policy_parameters)
    critic = tiny.weights(trainer.critic_parameters)
    trainer.step()
    assert tiny.same(tiny.weights(trainer.policy_parameters), policy)
    assert not tiny.same(tiny.weights(trainer.critic_parameters), critic)
    trainer.step()
    assert not tiny.same(tiny.weights(trainer.policy_parameters), policy)


def test_its_loss_has_no_gradient_for_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value coefficient changes the critic's gradient alone; on the trunk it changes the policy's too."""
    policy, critic = {}, {}
    for coefficient in (0.1, 5.0):
        for kind in ("adapter", "trunk"):
            base = tiny.with_policy(tiny.shared_base(), moved=0.1)
            base.add_role("critic", LoraConfig(rank=2), seed=3)
            options = {"critic": kind, "value_coef": coefficient, "epochs": 1, "minibatch_size": 8}
            trainer, _ = make_trainer(numbers, base=base, max_gradient_norm=1e9, **options)
            with torch.no_grad():
                trainer.value_head.linear.weight.fill_(0.1)
            trainer.step()
            policy[kind, coefficient] = [p.grad.clone() for p in trainer.policy_parameters]
            critic[kind, coefficient] = [p.grad.clone() for p in trainer.critic_parameters]
    assert tiny.same(policy["adapter", 0.1], policy["adapter", 5.0])
    assert not tiny.same(policy["trunk", 0.1], policy["trunk", 5.0])
    for small, large in zip(critic["adapter", 0.1], critic["adapter", 5.0], strict=True):
        torch.testing.assert_close(50 * small, large, rtol=1e-4, atol=1e-6)


def test_its_values_are_those_of_its_adapter() -> None:
    trainer = with_critic()
    with torch.no_grad():
        trainer.value_head.linear.weight.fill_(0.1)
        for parameter in trainer.base.role_parameters("critic"):
            parameter.add_(0.2)
    seen = []
    from humanward.rl import trainer as module

    real = module.build_rollout
    module.build_rollout = lambda *a, **o: seen.append(real(*a, **o)) or seen[-1]
    try:
        trainer.step()
    finally:
        module.build_rollout = real
    (rollout,) = seen
    fresh = with_critic()
    with torch.no_grad():
        for parameter in fresh.base.role_parameters("critic"):
            parameter.add_(0.2)
        with fresh.base.role("critic"):
            expected = fresh.base.states(rollout.tokens)[:, :-1].sum(-1) * 0.1
    mask = rollout.tokens.response_mask
    torch.testing.assert_close(rollout.values[mask], expected[mask], rtol=1e-4, atol=1e-5)
    assert not bool(rollout.values[~mask].any())


def test_micro_batches_change_no_gradient() -> None:
    gradients = []
    for size in (8, 2):
        trainer = with_critic(minibatch_size=8, micro_batch_size=size, epochs=1, max_gradient_norm=1e9)
        trainer.step()
        gradients.append([p.grad for p in trainer.parameters])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_value_head_begins_by_saying_what_the_anchored_reward_says() -> None:
    """Weight 2, bias 1, shift 3, scale 4: (2 x + 1 - 3) / 4 at x = 5 is 2."""
    head = ScoreHead(1)
    with torch.no_grad():
        head.linear.weight.fill_(2.0)
        head.linear.bias.fill_(1.0)
        head.shift.fill_(3.0)
        head.scale.fill_(4.0)
    assert ValueHead.from_score_head(head)(torch.tensor([[5.0]])).tolist() == [2.0]


def test_two_seeds_of_one_trainer_repeat_bitwise() -> None:
    weights = []
    for _ in range(2):
        trainer = with_critic()
        for _ in range(2):
            trainer.step()
        weights.append(tiny.weights(trainer.parameters))
    assert tiny.same(*weights)
