"""What is not finite stops the step before it spreads: nothing that a step may change has changed, bitwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from rl import checks
from rl.checks import make_trainer, numbers, step

from humanward.models.base import SharedBase
from humanward.models.tokens import Tokens
from humanward.rl import trainer as trainer_module
from humanward.rl.trainer import NonFiniteError, OnPolicyTrainer


def in_judging(column: int, reference: bool) -> Callable[..., None]:
    """A fault in row 5 of what the forward passes give: column 0 is log-probabilities, 2 is values."""

    def plant(patch: pytest.MonkeyPatch, trainer: OnPolicyTrainer, bad: float) -> None:
        real = trainer_module.judge_tokens

        def judge(base: SharedBase, tokens: Tokens, head: Any, **options: Any):
            parts = real(base, tokens, head, **options)
            if reference == (head is None):
                parts[column][5, 0] = bad
            return parts

        patch.setattr(trainer_module, "judge_tokens", judge)

    return plant


def in_score(patch: pytest.MonkeyPatch, trainer: OnPolicyTrainer, bad: float) -> None:
    real = trainer.scorer

    def scorer(*args: Any) -> torch.Tensor:
        scores = real(*args)
        scores[5] = bad
        return scores

    patch.setattr(trainer, "scorer", scorer)


def in_loss(name: str) -> Callable[..., None]:
    """A fault in the loss of the second micro-batch, when the first has left its gradient."""

    def plant(patch: pytest.MonkeyPatch, trainer: OnPolicyTrainer, bad: float) -> None:
        real, calls = getattr(trainer_module, name), []

        def broken(*args: Any, **options: Any):
            loss, clipped = real(*args, **options)
            calls.append(1)
            return loss + (bad if len(calls) == 2 else 0.0), clipped

        patch.setattr(trainer_module, name, broken)

    return plant


def in_gradient(index: int) -> Callable[..., None]:
    """A fault in one element of one gradient; ``index`` of the trained parameters (-1: the critic's)."""

    def plant(patch: pytest.MonkeyPatch, trainer: OnPolicyTrainer, bad: float) -> None:
        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            spoilt = gradient.clone()
            spoilt.view(-1)[0] = bad
            return spoilt

        parameter = trainer.parameters[index]
        was = parameter.requires_grad
        handle = parameter.requires_grad_(True).register_hook(spoil)
        parameter.requires_grad_(was)
        patch.setattr(trainer, "_spoiler", handle, raising=False)

    return plant


FAULTS = {
    "score": in_score,
    "log-probability": in_judging(0, reference=False),
    "reference log-probability": in_judging(0, reference=True),
    "value": in_judging(2, reference=False),
    "policy loss": in_loss("policy_loss_sum"),
    "value loss": in_loss("value_loss_sum"),
    "gradient of the policy": in_gradient(1),
    "gradient of the critic": in_gradient(-1),
}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=["nan", "inf"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_finite_changes_nothing_at_all(fault: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second step, when Adam has moments: weights, moments, rates, coefficient and step count stay bitwise."""
    asked: list[str] = []

    def scorer(prompts: Sequence[Any], *rest: Any) -> torch.Tensor:
        asked[:] = [prompt.id for prompt in prompts]
        return numbers(prompts, *rest)

    trainer, _ = make_trainer(
        scorer, moved=0.1, minibatch_size=8, micro_batch_size=4, kl_controller="adaptive", whiten_advantages=False
    )
    step(trainer)
    before = checks.everything(trainer)
    assert before["optimizer"]["state"]
    with monkeypatch.context() as patch:
        FAULTS[fault](patch, trainer, bad)
        with pytest.raises(NonFiniteError) as caught:
            trainer.step()
        if handle := getattr(trainer, "_spoiler", None):
            handle.remove()
    checks.assert_same(checks.everything(trainer), before)
    message = str(caught.value)
    assert "not finite at step 2 (prompts " in message
    thing = next(word for word in ("gradient", "loss", fault) if word in fault)
    assert f" {thing} is not finite" in message
    if thing == fault:
        assert f"(prompts {asked[5]})" in message, "the fault stands in one episode, and its prompt is named"
    else:
        named = set(message.split("(prompts ")[1].split(")")[0].split(", "))
        assert named < set(asked) if thing == "loss" else named == set(asked), "a loss names its micro-batch alone"
    assert trainer.base._role == "reference"
    trainer.step()
    assert all(bool(torch.isfinite(p).all()) for p in trainer.parameters)
    assert trainer.steps_done == 2
