"""CUDA's out-of-memory, raised by hand: forwards are halved, gradients stay, and one line says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import tiny
from offline import offline_checks
from rl.checks import make_trainer

from humanward.config import LoraConfig, RewardConfig
from humanward.errors import InputError
from humanward.models import states
from humanward.models.tokens import Tokens
from humanward.preferences import group_by_prompt
from humanward.records import Preference, Prompt
from humanward.reward.training import TrainingStep, train_reward_model


def no_more_than(rows: int, patch: pytest.MonkeyPatch) -> list[int]:
    """A device that holds the activations of ``rows`` rows; returns the rows of every forward with gradients."""
    real: Callable[..., torch.Tensor] = states.hidden_states
    seen: list[int] = []

    def hidden_states(model: Any, tokens: Tokens) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(len(tokens))
            if len(tokens) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, tokens)

    patch.setattr(states, "hidden_states", hidden_states)
    return seen


def gradients(rows: int | None) -> tuple[list[torch.Tensor], list[str], list[int]]:
    """(the gradients of a first minibatch, the notices, the rows of each forward)."""
    trainer, _ = make_trainer(rollout_size=8, minibatch_size=8, micro_batch_size=8, epochs=1)
    notices: list[str] = []
    trainer.micro_batches._on_halve = notices.append
    held: list[torch.Tensor] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: held.extend(p.grad.clone() for p in trainer.parameters if p.grad is not None)
    )
    with pytest.MonkeyPatch.context() as patch:
        seen = [] if rows is None else no_more_than(rows, patch)
        trainer.step()
    return held, notices, seen


def test_a_step_goes_on_with_half_the_rows_and_the_same_gradient() -> None:
    whole, _, _ = gradients(None)
    halved, notices, seen = gradients(2)
    assert seen == [8, 4, 2, 2, 2, 2]
    assert len(whole) == len(halved) > 0
    for one, other in zip(whole, halved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert len(notices) == 2  # once for each halving, not for each forward
    assert "at most 2 episodes" in notices[-1]
    assert "ppo.micro_batch_size = 2" in notices[-1]


def test_an_episode_that_does_not_fit_alone_is_refused() -> None:
    with pytest.raises(InputError, match="does not hold one episode's forward and backward pass"):
        gradients(0)


def offline_gradients(rows: int | None) -> tuple[list[torch.Tensor], list[str]]:
    trainer, *_ = offline_checks.make_trainer("dpo")
    notices: list[str] = []
    trainer._budget._on_halve = notices.append
    trainer.judge_reference()
    held: list[torch.Tensor] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: held.extend(p.grad.clone() for p in trainer.parameters if p.grad is not None)
    )
    with pytest.MonkeyPatch.context() as patch:
        if rows is not None:
            no_more_than(rows, patch)
        trainer.step()
    return held, notices


def test_offline_training_halves_its_chunks() -> None:
    whole, _ = offline_gradients(None)
    halved, notices = offline_gradients(4)
    assert notices
    assert "padded tokens" in notices[0]
    for one, other in zip(whole, halved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    with pytest.raises(InputError, match="forward and backward pass of one prompt's texts"):
        offline_gradients(1)


def reward_losses(rows: int | None, notices: list[str]) -> list[float]:
    pairs = [
        Preference(f"p{i}", "a", "b", Prompt(f"p{i}", f"w{i} w3"), f"w{i + 1} w2 w4", f"w{i + 2}") for i in range(8)
    ]
    steps: list[TrainingStep] = []
    config = RewardConfig(epochs=2, batch_size=8, rank=4, max_tokens_trained=32)
    with pytest.MonkeyPatch.context() as patch:
        if rows is not None:
            no_more_than(rows, patch)
        train_reward_model(
            tiny.shared_base(), group_by_prompt(pairs), config, LoraConfig(rank=4), seed=0, on_step=steps.append,
            on_notice=notices.append,
        )  # fmt: skip
    return [step.loss for step in steps]


def test_reward_training_halves_its_chunks() -> None:
    notices: list[str] = []
    whole, halved = reward_losses(None, []), reward_losses(4, notices)
    assert halved == pytest.approx(whole, rel=1e-4)
    # Sixteen texts, eight, four; the second epoch begins with what the first has learnt.
    assert len(notices) == 2
    with pytest.raises(InputError, match="one prompt's texts"):
        reward_losses(1, [])
