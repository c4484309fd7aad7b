"""Planted bugs. Each is a patch of the shipped code, applied by a test and undone after it; none is in the product."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from gate.optimum import END

from humanward.models import states
from humanward.models.base import SharedBase
from humanward.models.heads import ValueHead
from humanward.rl import kl, ops, rewards, rollouts
from humanward.rl import trainer as trainer_module
from humanward.rl.trainer import OnPolicyTrainer

Patch = Callable[[pytest.MonkeyPatch], None]


def instead_of(owner: Any, name: str) -> Callable[[Callable[..., Any]], Patch]:
    """Makes of ``change(real, ...)`` the patch that puts it in the place of ``owner.name``."""

    def make(change: Callable[..., Any]) -> Patch:
        def plant(patch: pytest.MonkeyPatch) -> None:
            real = getattr(owner, name)
            patch.setattr(owner, name, lambda *args, **options: change(real, *args, **options))

        return plant

    return make


def last_token(mask: torch.Tensor) -> torch.Tensor:
    """(B, R) True on each row's last real token."""
    return torch.zeros_like(mask).scatter(1, (mask.sum(1) - 1)[:, None], True)


# --- rewards: p and q are the log-probabilities under policy and reference ---------------------------------------

token_rewards = instead_of(rollouts, "token_rewards")


def place_score(real, scores, p, q, mask, column, kl_coef):
    penalty = real(torch.zeros_like(scores), p, q, mask, kl_coef=kl_coef)
    return penalty.scatter_add(1, column[:, None], scores.to(penalty)[:, None])


@token_rewards
def score_one_token_early(real, scores, p, q, mask, *, kl_coef):
    return place_score(real, scores, p, q, mask, (mask.sum(1) - 2).clamp_min(0), kl_coef)


@token_rewards
def score_in_the_last_column(real, scores, p, q, mask, *, kl_coef):
    """Of the batch, where shorter responses have padding."""
    return place_score(real, scores, p, q, mask, torch.full_like(mask.sum(1), mask.shape[1] - 1), kl_coef)


@token_rewards
def score_doubled(real, scores, p, q, mask, *, kl_coef):
    return real(2 * scores, p, q, mask, kl_coef=kl_coef)


@token_rewards
def scores_in_another_order(real, scores, p, q, mask, *, kl_coef):
    """Sorted by length for scoring, and not put back."""
    return real(scores[mask.sum(1).argsort(stable=True)], p, q, mask, kl_coef=kl_coef)


@token_rewards
def no_kl_on_the_last_token(real, scores, p, q, mask, *, kl_coef):
    return real(scores, torch.where(last_token(mask), q, p), q, mask, kl_coef=kl_coef)


@token_rewards
def kl_flipped(real, scores, p, q, mask, *, kl_coef):
    return real(scores, q, p, mask, kl_coef=kl_coef)


@token_rewards
def kl_without_coefficient(real, scores, p, q, mask, *, kl_coef):
    return real(scores, p, q, mask, kl_coef=1.0)


@token_rewards
def kl_averaged_over_tokens(real, scores, p, q, mask, *, kl_coef):
    lengths = mask.sum(1, keepdim=True)
    return real(scores, p / lengths, q / lengths, mask, kl_coef=kl_coef)


@token_rewards
def sequence_kl_on_every_token(real, scores, p, q, mask, *, kl_coef):
    whole = torch.where(mask, (p - q).sum(1, keepdim=True), 0.0)
    return real(scores, whole, torch.zeros_like(q), mask, kl_coef=kl_coef)


@token_rewards
def whitened_rewards(real, scores, p, q, mask, *, kl_coef):
    return ops.whiten(real(scores, p, q, mask, kl_coef=kl_coef), mask, shift_mean=False)


@instead_of(rollouts, "final_scores")
def penalise_the_ended(real, scores, ended, *args, **options):
    return real(scores, ~ended, *args, **options)


@instead_of(rewards, "k1")
def k3_in_the_reward(real, p, q):
    return kl.k3(p, q)


@instead_of(rewards, "k1")
def k2_in_the_reward(real, p, q):
    return (p - q) ** 2 / 2


# --- advantages: r rewards, v values, d discounts ----------------------------------------------------------------

advantages = instead_of(rollouts, "generalized_advantages")


@advantages
def gamma_below_one(real, r, v, d, mask, **options):
    return real(r, v, 0.95 * d, mask, **options)


@advantages
def lambda_on_the_next_value(real, r, v, d, mask, *, gae_lambda):
    return real(r, v, d * gae_lambda, mask, gae_lambda=1.0)


@advantages
def bootstrap_where_cut_off(real, r, v, d, mask, **options):
    """As PPO does at a time limit; here the end of the budget is the end of the episode."""
    last = v.gather(1, (mask.sum(1) - 1)[:, None]).squeeze(1)
    return real(r, v, d, mask, bootstrap=torch.where(mask[:, -1], last, 0.0), **options)


@advantages
def no_credit_for_later_rewards(real, r, v, d, mask, **options):
    return torch.where(mask, r - v, 0.0)


@advantages
def returns_of_whitened_advantages(real, r, v, d, mask, **options):
    return ops.whiten(real(r, v, d, mask, **options), mask)


@instead_of(rollouts, "returns_of")
def returns_without_values(real, found, values, mask):
    return found


@instead_of(rollouts, "whiten")
def whiten_over_padding(real, x, mask, **options):
    return real(x, torch.ones_like(mask), **options)


@instead_of(ValueHead, "forward")
def value_of_the_next_state(real, self, hidden):
    return real(self, torch.cat([hidden[:, 1:], hidden[:, -1:]], 1))


def padding_leaks(patch: pytest.MonkeyPatch) -> None:
    """Values of padded columns are kept, and the recursion runs over them."""

    @instead_of(trainer_module, "judge_tokens")
    def keep_values(real, base, tokens, value_head, **options):
        logprobs, entropies, values = real(base, tokens, value_head, **options)
        if value_head is not None:
            values = value_head(base.states(tokens)[:, :-1]).detach()
        return logprobs, entropies, values

    @advantages
    def ignore_the_mask(real, r, v, d, mask, **options):
        return torch.where(mask, real(r, v, d, torch.ones_like(mask), **options), 0.0)

    keep_values(patch)
    ignore_the_mask(patch)


# --- losses and updates: a advantages ----------------------------------------------------------------------------

policy_loss = instead_of(trainer_module, "policy_loss_sum")


@policy_loss
def loss_flipped(real, new, old, a, mask, **options):
    return real(new, old, -a, mask, **options)


@policy_loss
def last_token_left_out(real, new, old, a, mask, **options):
    """The end among them, but for a response of one token."""
    longer = mask.sum(1, keepdim=True) > 1
    return real(new, old, a, mask & ~(last_token(mask) & longer), **options)


@policy_loss
def advantages_one_token_late(real, new, old, a, mask, **options):
    return real(new, old, torch.where(mask, a.roll(1, 1), 0.0), mask, **options)


@policy_loss
def gains_never_learnt(real, new, old, a, mask, **options):
    """The clip's gate is on the wrong side: tokens with positive advantages get no gradient."""
    return real(torch.where(a > 0, new.detach(), new), old, a, mask, **options)


@policy_loss
def optimistic_clip(real, new, old, a, mask, *, clip_range):
    """The larger of the two surrogates instead of the smaller: nothing holds the ratio back."""
    ratio = (new - old).exp()
    loss = torch.minimum(-a * ratio, -a * ratio.clamp(1 - clip_range, 1 + clip_range))
    return torch.where(mask, loss, 0.0).sum(), mask.sum() * 0


@policy_loss
def no_clip(real, new, old, a, mask, **options):
    return real(new, old, a, mask, clip_range=1e9)


@policy_loss
def tokens_averaged_by_response(real, new, old, a, mask, **options):
    """Each response's tokens are averaged before responses are, so that long ones weigh less a token."""
    return real(new, old, a / mask.sum(1, keepdim=True), mask, **options)


@instead_of(trainer_module, "k3")
def k3_the_other_way_round(real, p, q):
    return real(q, p)


def normalise_each_micro_batch(patch: pytest.MonkeyPatch) -> None:
    """Micro-batches of similar lengths, a mean over each one's tokens, and the mean of these means."""
    counts = {}

    @instead_of(OnPolicyTrainer, "_losses")
    def mean(real, self, micro, **options):
        loss, *rest = real(self, micro, **options)
        share = self.config.micro_batch_size / self.config.minibatch_size
        return loss * share * counts["all"] / int(micro.tokens.response_mask.sum()), *rest

    @instead_of(OnPolicyTrainer, "_update")
    def by_length(real, self, batch, **options):
        lengths = batch.tokens.response_mask.sum(1)
        counts["all"] = int(lengths.sum())
        return real(self, batch[lengths.argsort(stable=True)], **options)

    mean(patch)
    by_length(patch)


@instead_of(torch.optim.Adam, "zero_grad")
def gradients_pile_up(real, self, set_to_none=True):
    return None


# --- rollouts, roles and masks -----------------------------------------------------------------------------------

judge = instead_of(trainer_module, "judge_tokens")
sampled = instead_of(rollouts, "sample")


@instead_of(SharedBase, "role")
@contextmanager
def let_the_reference_follow(real, self, name):
    with real(self, "policy" if name == "reference" else name):
        yield self


@judge
def judge_under_the_reference(real, base, tokens, value_head, **options):
    """The log-probabilities at collection are the reference's: KL 0, and ratios against the wrong model."""
    logprobs, entropies, values = real(base, tokens, value_head, **options)
    if value_head is not None:
        with base.role("reference"):
            logprobs = real(base, tokens, None, **options)[0]
    return logprobs, entropies, values


@judge
def forget_temperature_in_reference(real, base, tokens, value_head, *, temperature, **options):
    if base._role == "reference":
        temperature = 1.0
    return real(base, tokens, value_head, temperature=temperature, **options)


@instead_of(OnPolicyTrainer, "_losses")
def forget_temperature_when_learning(real, self, micro, **options):
    kept, self.sampling = self.sampling, self.sampling.model_copy(update={"temperature": 1.0})
    try:
        return real(self, micro, **options)
    finally:
        self.sampling = kept


@sampled
def sample_from_the_reference(real, base, *args, **options):
    with base.role("reference"):
        return real(base, *args, **options)


@sampled
def sample_with_a_filter(real, base, ids, keys, config, **options):
    return real(base, ids, keys, config.model_copy(update={"top_p": 0.9}), **options)


@sampled
def sample_without_temperature(real, base, ids, keys, config, **options):
    return real(base, ids, keys, config.model_copy(update={"temperature": 1.0}), **options)


@instead_of(trainer_module, "respond")
def mask_read_off_the_ids(real, *args, **options):
    """Padding has the end's id, so a mask that is read off the ids drops the end (all but a lone one)."""
    episodes, texts = real(*args, **options)
    mask = episodes.tokens.response_mask & (episodes.tokens.response_ids != END)
    mask[:, 0] = True
    return dataclasses.replace(episodes, tokens=dataclasses.replace(episodes.tokens, response_mask=mask)), texts


# --- what only a network shows -----------------------------------------------------------------------------------


@instead_of(states, "positions")
def count_positions_over_padding(real, mask):
    return torch.arange(mask.shape[1]).expand(mask.shape)


@instead_of(states, "causal_inputs")
def attend_to_padding(real, tokens):
    inputs = real(tokens)
    return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}


@instead_of(SharedBase, "add_role")
def leave_dropout_on(real, self, *args, **options):
    real(self, *args, **options)
    self.model.train()


@instead_of(states, "hidden_states")
def states_one_token_late(real, model, tokens):
    """The state after each token judges it, which has seen it."""
    hidden = real(model, tokens)
    return torch.cat([hidden[:, 1:], hidden[:, -1:]], 1)
