"""Checks of the real trainer: each passes on the code as it is and must fail under its mutants (test_mutants.py)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from models import tiny

from humanward.algorithm_config import PPOConfig
from humanward.models.micro_batches import MicroBatches
from humanward.models.tokens import Tokens
from humanward.records import Prompt
from humanward.rl import trainer as trainer_module
from humanward.rl.alarms import Alarm
from humanward.rl.rollouts import Rollout, judge_tokens
from humanward.rl.trainer import OnPolicyTrainer

WANTED = 3
"""The token that rewards ask for: the word w3."""

AT_START = {"kl_at_start", "ratio_at_start"}
"""Alarms that only a fault raises: policy and reference, or two forwards of the policy, differ before any update."""


def presence(_prompts: Sequence[Prompt], _texts: Sequence[str], tokens: Tokens) -> torch.Tensor:
    """1 where the wanted token is in the response, else 0."""
    return ((tokens.response_ids == WANTED) & tokens.response_mask).any(1).float()


def numbers(prompts: Sequence[Prompt], _texts: Sequence[str], _tokens: Tokens) -> torch.Tensor:
    """Scores that are all different: .5, 1, 1.5 ..."""
    return torch.arange(1, len(prompts) + 1) / 2


def make_trainer(
    scorer: Callable[..., torch.Tensor] = presence,
    *,
    name: str = "llama",
    base: Any = None,
    moved: float = 0.0,
    sampling: dict[str, Any] | None = None,
    seed: int = 0,
    algorithm: str = "ppo",
    **ppo: Any,
) -> tuple[OnPolicyTrainer, list[Alarm]]:
    """(a trainer of a tiny random model, the list that its alarms go to)."""
    base = base or tiny.with_policy(tiny.shared_base(name), moved=moved)
    settings: dict[str, Any] = {
        "steps": 4,
        "rollout_size": 8,
        "minibatch_size": 4,
        "micro_batch_size": 4,
        "epochs": 2,
        "critic_warmup_steps": 0,
        "kl_controller": "fixed",
        "target_update_kl": 1e6,
    }
    alarms: list[Alarm] = []
    trainer = OnPolicyTrainer(
        base,
        PPOConfig(**{**settings, **ppo}),
        tiny.sampling(**(sampling or {})),
        tiny.prompts(12, words=4),
        scorer,
        seed=seed,
        algorithm=algorithm,
        on_alarm=alarms.append,
    )
    return trainer, alarms


def step(trainer: OnPolicyTrainer) -> tuple[dict[str, float], Rollout]:
    """One step's metrics, and the rollout that it learnt from."""
    seen: list[Rollout] = []
    real = trainer_module.build_rollout

    def build(*args: Any, **options: Any) -> Rollout:
        seen.append(real(*args, **options))
        return seen[-1]

    with mock.patch.object(trainer_module, "build_rollout", build):
        metrics = trainer.step()
    return metrics, seen[0]


def gradients(trainer: OnPolicyTrainer) -> list[torch.Tensor]:
    """What the last update left."""
    return [p.grad.clone() for p in trainer.parameters]


def everything(trainer: OnPolicyTrainer) -> dict[str, Any]:
    """All that a step may change, copied."""
    return copy.deepcopy(
        {
            "weights": {n: p.detach() for n, p in trainer.base.model.named_parameters()},
            "head": trainer.value_head.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "rates": [group["lr"] for group in trainer.optimizer.param_groups],
            "coef": trainer.kl.coef,
            "steps": trainer.steps_done,
        }
    )


def assert_same(left: Any, right: Any, path: str = "") -> None:
    """Bitwise equality of nested dictionaries, lists, tensors and numbers."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, list):
        assert len(left) == len(right), path
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{path}/{i}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), path
    else:
        assert left == right, path


def check_kl_starts_at_zero() -> None:
    """Before the first update policy and reference agree bitwise, at a temperature other than 1 too; nothing alarms."""
    for temperature in (1.0, 0.6):
        trainer, alarms = make_trainer(sampling={"temperature": temperature}, name="gpt2")
        metrics, rollout = step(trainer)
        assert torch.equal(rollout.logprobs, rollout.ref_logprobs), "policy and reference differ at the start"
        assert metrics["ppo/sequence_kl"] == 0
        assert metrics["ppo/kl"] == 0
        assert not AT_START & {alarm.name for alarm in alarms}


def check_forwards_repeat(base: Any = None) -> None:
    """Dropout is off: two forwards of the policy are bitwise equal."""
    if base is None:
        base = tiny.shared_base("gpt2", attn_pdrop=0.3, resid_pdrop=0.3, embd_pdrop=0.3)
        tiny.with_policy(base)
    with base.role("policy"):
        first, second = (
            judge_tokens(base, tiny.tokens(), None, temperature=1.0, micro_batches=MicroBatches(3))[0] for _ in range(2)
        )
    assert torch.equal(first, second)


def check_a_cold_rollout_is_greedy() -> None:
    """At temperature .001 every sampled token is the likeliest by the model's own forward."""
    trainer, _ = make_trainer(sampling={"temperature": 1e-3}, name="gpt2")
    _, rollout = step(trainer)
    for row in range(8):
        prompt = rollout.tokens.prompt_ids[row][rollout.tokens.prompt_mask[row]]
        response = rollout.tokens.response_ids[row][rollout.tokens.response_mask[row]]
        with torch.no_grad(), make_trainer(name="gpt2")[0].base.role("policy") as base:
            logits = base.model(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        assert torch.equal(logits.argmax(-1), response)


def check_score_stands_on_the_end(base: Any = None) -> None:
    """Without KL the only reward is the score (less the penalty of the cut off), on the last real token: the EOS."""
    trainer, _ = make_trainer(numbers, base=base, kl_coef=0.0, sampling={"temperature": 30.0, "max_new_tokens": 12})
    _, rollout = step(trainer)
    assert set(rollout.ended.tolist()) == {True, False}
    mask = rollout.tokens.response_mask
    for row in range(8):
        length = int(mask[row].sum())
        expected = torch.zeros(mask.shape[1])
        expected[length - 1] = (row + 1) / 2 - (0.0 if rollout.ended[row] else 1.0)
        assert torch.equal(rollout.rewards[row], expected)
        last = int(rollout.tokens.response_ids[row, length - 1])
        assert (last == tiny.EOS) == bool(rollout.ended[row]), "the end is not the last learnt token"


def check_rewards_sum_to_score_less_kl() -> None:
    """Per row: sum of rewards == score - beta * sum of (logprob - ref_logprob), with a policy that has moved."""
    trainer, _ = make_trainer(numbers, moved=0.3, kl_coef=0.3, missing_eos_penalty=0.0)
    _, rollout = step(trainer)
    k1 = (rollout.logprobs - rollout.ref_logprobs).sum(1)
    assert float(k1.abs().min()) > 1e-3
    torch.testing.assert_close(rollout.rewards.sum(1), torch.arange(1, 9) / 2 - 0.3 * k1, rtol=1e-5, atol=1e-5)


def check_micro_batches_add_up() -> None:
    """Ragged responses: eight micro-batches of one give the gradient of one micro-batch of eight (float32)."""
    left, right = (
        make_trainer(
            numbers,
            moved=0.2,
            minibatch_size=8,
            micro_batch_size=size,
            epochs=1,
            max_gradient_norm=1e9,
            sampling={"temperature": 3.0, "max_new_tokens": 12},
        )[0]
        for size in (8, 1)
    )
    (_, one), (_, many) = step(left), step(right)
    assert torch.equal(one.tokens.response_ids, many.tokens.response_ids)
    assert len(set(one.tokens.response_mask.sum(1).tolist())) > 2, "the responses are not ragged"
    for a, b in zip(gradients(left), gradients(right), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-6)
    assert max(float(g.abs().max()) for g in gradients(left)) > 1e-2


def check_one_optimizer_step_a_minibatch() -> None:
    """8 episodes in minibatches of 2, 3 epochs: 12 optimizer steps."""
    trainer, _ = make_trainer(minibatch_size=2, micro_batch_size=1, epochs=3)
    with mock.patch.object(trainer.optimizer, "step", wraps=trainer.optimizer.step) as counted:
        metrics, _ = step(trainer)
    assert counted.call_count == 12
    assert metrics["ppo/optimizer_steps"] == 12


def check_warmup_trains_the_head_alone() -> None:
    """During critic warm-up the policy is bitwise unchanged and the value head, 0 at the start, is not."""
    trainer, _ = make_trainer(critic_warmup_steps=2, steps=3)
    policy = tiny.weights(trainer.policy_parameters)
    for _ in range(2):
        step(trainer)
        assert tiny.same(trainer.policy_parameters, policy), "the policy moved during warm-up"
        assert float(trainer.value_head.linear.weight.detach().abs().max()) > 0
    step(trainer)
    assert not tiny.same(trainer.policy_parameters, policy)


def check_kl_is_measured_against_the_start() -> None:
    """A policy that trains moves away from the reference, which stays where it was: KL is no longer 0."""
    trainer, _ = make_trainer(learning_rate=0.02)
    reference = [p.clone() for n, p in trainer.base.model.named_parameters() if "lora_" not in n]
    for _ in range(3):
        metrics, rollout = step(trainer)
    assert not torch.equal(rollout.logprobs, rollout.ref_logprobs)
    assert metrics["ppo/sequence_kl"] != 0
    assert tiny.same([p for n, p in trainer.base.model.named_parameters() if "lora_" not in n], reference)


def check_first_gradient_is_the_policy_gradient() -> None:
    """At ratio 1 the gradient is that of -sum(A log p) / N, and the value head's bias gets value_coef * mean(V - R)."""
    trainer, _ = make_trainer(
        numbers, minibatch_size=8, micro_batch_size=8, epochs=1, max_gradient_norm=1e9, moved=0.2, value_coef=0.25
    )
    _, rollout = step(trainer)
    mask = rollout.tokens.response_mask
    count = int(mask.sum())
    bias = 0.25 * float((0.0 - rollout.returns[mask]).double().sum()) / count
    assert math.isclose(float(trainer.value_head.linear.bias.grad), bias, rel_tol=1e-4)
    again, _ = make_trainer(numbers, moved=0.2)
    with again.base.role("policy"):
        logprobs = again.base.logprobs(rollout.tokens)[0]
        (-(rollout.advantages * logprobs).sum() / count).backward()
    for ours, plain in zip(trainer.policy_parameters, again.policy_parameters, strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-3, atol=1e-5)
