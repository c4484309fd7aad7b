"""Planted faults: every check must fail under the fault that it exists for, and pass without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from models import test_parity, test_sampling, test_states, tiny
from rl import (
    checks,
    test_advantages,
    test_goldens,
    test_invariants,
    test_kl,
    test_losses,
    test_ops,
    test_rewards,
    test_trainer,
)

from humanward.models import base as base_module
from humanward.models import engine, sampling, states
from humanward.models import tokens as tokens_module
from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead, ValueHead
from humanward.rl import advantages, kl, losses, ops, rewards, rollouts
from humanward.rl import trainer as trainer_module
from humanward.rl.trainer import OnPolicyTrainer

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A fault by its name, how it is planted, and the check that must find it."""

    name: str
    plant: Patch
    check: Callable[[], None]


def forget_temperature_in_reference(patch: pytest.MonkeyPatch) -> None:
    real = trainer_module.judge_tokens

    def judge(base, tokens, value_head, *, temperature, micro_batches):
        temperature = 1.0 if value_head is None else temperature
        return real(base, tokens, value_head, temperature=temperature, micro_batches=micro_batches)

    patch.setattr(trainer_module, "judge_tokens", judge)


def forget_temperature_when_learning(patch: pytest.MonkeyPatch) -> None:
    real = OnPolicyTrainer._losses

    def learn(self, micro, **options):
        kept, self.sampling = self.sampling, self.sampling.model_copy(update={"temperature": 1.0})
        try:
            return real(self, micro, **options)
        finally:
            self.sampling = kept

    patch.setattr(OnPolicyTrainer, "_losses", learn)


def leave_dropout_on(patch: pytest.MonkeyPatch) -> None:
    real = SharedBase.add_role

    def add(self, *args, **options):
        real(self, *args, **options)
        self.model.train()

    patch.setattr(SharedBase, "add_role", add)


def count_positions_over_padding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(states, "positions", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))


def score_one_token_early(patch: pytest.MonkeyPatch) -> None:
    def early(scores, logprobs, ref_logprobs, mask, *, kl_coef):
        given = torch.where(mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
        last = (mask.sum(1) - 2).clamp_min(0)
        return given.scatter_add(1, last[:, None], scores.to(given)[:, None])

    patch.setattr(rollouts, "token_rewards", early)


def put_the_end_outside_the_mask(patch: pytest.MonkeyPatch) -> None:
    real = trainer_module.respond

    def respond(*args, **options):
        episodes, texts = real(*args, **options)
        tokens = episodes.tokens
        mask = tokens.response_mask & (tokens.response_ids != tiny.EOS)
        mask[:, 0] = True
        return dataclasses.replace(episodes, tokens=dataclasses.replace(tokens, response_mask=mask)), texts

    patch.setattr(trainer_module, "respond", respond)


def penalise_with_k3(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rewards, "k1", kl.k3)


def double_the_score(patch: pytest.MonkeyPatch) -> None:
    real = rollouts.token_rewards
    patch.setattr(rollouts, "token_rewards", lambda scores, *args, **options: real(2 * scores, *args, **options))


def spare_the_last_token_the_kl(patch: pytest.MonkeyPatch) -> None:
    real = rollouts.token_rewards

    def spared(scores, logprobs, ref_logprobs, mask, *, kl_coef):
        last = torch.zeros_like(mask).scatter(1, (mask.sum(1) - 1)[:, None], True)
        return real(scores, torch.where(last, ref_logprobs, logprobs), ref_logprobs, mask, kl_coef=kl_coef)

    patch.setattr(rollouts, "token_rewards", spared)


def normalise_each_micro_batch(patch: pytest.MonkeyPatch) -> None:
    real = OnPolicyTrainer._losses

    def learn(self, micro, **options):
        loss, *rest = real(self, micro, **options)
        ours = int(micro.tokens.response_mask.sum())
        scale = self._global_count / ours / (self.config.minibatch_size / self.config.micro_batch_size)
        return loss * scale, *rest

    update = OnPolicyTrainer._update

    def counted(self, batch, **options):
        self._global_count = int(batch.tokens.response_mask.sum())
        return update(self, batch, **options)

    patch.setattr(OnPolicyTrainer, "_losses", learn)
    patch.setattr(OnPolicyTrainer, "_update", counted)


def update_once_an_epoch(patch: pytest.MonkeyPatch) -> None:
    real = OnPolicyTrainer._learn

    def learn(self, rollout):
        kept, self.config = self.config, self.config.model_copy(update={"minibatch_size": len(rollout)})
        try:
            return real(self, rollout)
        finally:
            self.config = kept

    patch.setattr(OnPolicyTrainer, "_learn", learn)


def warm_up_the_policy_too(patch: pytest.MonkeyPatch) -> None:
    real = OnPolicyTrainer._update
    patch.setattr(
        OnPolicyTrainer, "_update", lambda self, batch, *, warmup, first: real(self, batch, warmup=False, first=first)
    )


def let_the_reference_follow(patch: pytest.MonkeyPatch) -> None:
    real = SharedBase.role

    @contextmanager
    def role(self, name):
        with real(self, "policy" if name == "reference" else name):
            yield self

    patch.setattr(SharedBase, "role", role)


def flip_the_policy_gradient(patch: pytest.MonkeyPatch) -> None:
    real = trainer_module.policy_loss_sum
    patch.setattr(trainer_module, "policy_loss_sum", lambda n, o, a, m, **options: real(n, o, -a, m, **options))


def forget_the_value_coefficient(patch: pytest.MonkeyPatch) -> None:
    real = trainer_module.value_loss_sum

    def whole(*args, **options):
        loss, clipped = real(*args, **options)
        return 2 * loss, clipped

    patch.setattr(trainer_module, "value_loss_sum", whole)


def whiten_before_returns(patch: pytest.MonkeyPatch) -> None:
    real = rollouts.generalized_advantages

    def whitened(rewards, values, discounts, mask, **options):
        return ops.whiten(real(rewards, values, discounts, mask, **options), mask)

    patch.setattr(rollouts, "generalized_advantages", whitened)


def cache_positions_over_padding(patch: pytest.MonkeyPatch) -> None:
    real = sampling.pad_left

    def shifted(rows, pad):
        ids, mask = real(rows, pad)
        return ids, torch.ones_like(mask)

    patch.setattr(sampling, "pad_left", shifted)


def decode_at_the_next_position(patch: pytest.MonkeyPatch) -> None:
    """In the engine's steps, not in its reading of prompts; and the comparison at loading does not look."""
    real = engine.Trunk.__call__

    def late(self, ids, places, attend, kept=None):
        return real(self, ids, places + (kept is None), attend, kept)

    patch.setattr(engine, "why_not", lambda base: None)
    patch.setattr(engine.Trunk, "__call__", late)


def lose_the_last_column(patch: pytest.MonkeyPatch) -> None:
    real = engine.Cache._attend_token

    def attend(self, layer, q, k, v, scale):
        self.layers[layer].view(-1, self.size)[self._place - 1] = 0
        return real(self, layer, q, k, v, scale)

    patch.setattr(engine, "why_not", lambda base: None)
    patch.setattr(engine.Cache, "_attend_token", attend)


def forget_temperature_in_sampling(patch: pytest.MonkeyPatch) -> None:
    real = rollouts.sample

    def sample(base, prompts, keys, config, *, seed):
        return real(base, prompts, keys, config.model_copy(update={"temperature": 1.0}), seed=seed)

    patch.setattr(rollouts, "sample", sample)


def forget_temperature_in_entropy(patch: pytest.MonkeyPatch) -> None:
    real = base_module.token_statistics

    def statistics(*args, temperature, **options):
        return real(*args, temperature=temperature, **options)[0], real(*args, temperature=1.0, **options)[1]

    patch.setattr(base_module, "token_statistics", statistics)


def read_values_one_state_late(patch: pytest.MonkeyPatch) -> None:
    real = ValueHead.forward
    patch.setattr(ValueHead, "forward", lambda self, hidden: real(self, hidden.roll(-1, 1)))


def start_the_critic_at_random(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer_module, "ValueHead", ScoreHead)


def mask_by_padding_id(patch: pytest.MonkeyPatch) -> None:
    real = tokens_module.pad_right

    def pad_right(rows, pad):
        ids, mask = real(rows, pad)
        return ids, mask & (ids != pad)

    patch.setattr(tokens_module, "pad_right", pad_right)


def keep_gradients(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, set_to_none=True: None)


def use_the_usual_epsilon(patch: pytest.MonkeyPatch) -> None:
    real = torch.optim.Adam
    patch.setattr(torch.optim, "Adam", lambda parameters, eps, **options: real(parameters, **options))


def decay_weights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.optim, "Adam", torch.optim.AdamW)


def clip_no_gradient(patch: pytest.MonkeyPatch) -> None:
    real = torch.nn.utils.clip_grad_norm_
    patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, limit: real(parameters, 1e9))


def clip_values_like_ratios(patch: pytest.MonkeyPatch) -> None:
    real = trainer_module.value_loss_sum
    patch.setattr(trainer_module, "value_loss_sum", lambda *args, clip_range: real(*args, clip_range=0.15))


def measure_the_update_backwards(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer_module, "k3", lambda logprobs, new: kl.k3(new, logprobs))


def learn_from_half_the_episodes(patch: pytest.MonkeyPatch) -> None:
    real = torch.randperm
    patch.setattr(torch, "randperm", lambda n, generator: real(n, generator=generator) // 2)


def control_by_the_token(patch: pytest.MonkeyPatch) -> None:
    class ByToken(kl.AdaptiveKL):
        def update(self, sequence_kl: float, episodes: int) -> None:
            super().update(sequence_kl / 6, episodes)

    patch.setattr(trainer_module, "AdaptiveKL", ByToken)


def forget_the_discount(patch: pytest.MonkeyPatch) -> None:
    real = rollouts.generalized_advantages

    def undiscounted(rewards, values, discounts, mask, *, gae_lambda):
        return real(rewards, values, torch.ones_like(discounts), mask, gae_lambda=gae_lambda)

    patch.setattr(rollouts, "generalized_advantages", undiscounted)


def shift_whitened_rewards(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rollouts, "whiten", lambda values, mask, shift_mean=True: ops.whiten(values, mask))


def sample_variance_whiten(values, mask, *, shift_mean=True):
    real = values[mask]
    white = (values - real.mean()) * torch.rsqrt(real.var(correction=1) + 1e-8)
    return torch.where(mask, white if shift_mean else white + real.mean(), 0.0)


def leaking_advantages(rewards, values, discounts, mask, *, gae_lambda, bootstrap=None):
    return advantages.generalized_advantages(
        rewards.nan_to_num(), values.nan_to_num(), discounts, mask | True, gae_lambda=gae_lambda, bootstrap=bootstrap
    )


def lambda_on_delta(rewards, values, discounts, mask, *, gae_lambda, bootstrap=None):
    return advantages.generalized_advantages(
        rewards, values, discounts * gae_lambda, mask, gae_lambda=1.0, bootstrap=bootstrap
    )


def optimistic_policy_loss(new, old, adv, mask, *, clip_range):
    ratio = losses.log_ratio(new, old).exp()
    unclipped, clipped = -adv * ratio, -adv * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.where(mask, torch.minimum(unclipped, clipped), 0.0).sum(), ((clipped < unclipped) & mask).sum()


def unclipped_value_loss(new, values, returns, mask, *, clip_range):
    return losses.value_loss_sum(new, values, returns, mask, clip_range=1e9)


class UnclippedKL(kl.AdaptiveKL):
    def update(self, sequence_kl: float, episodes: int) -> None:
        self.coef *= 1 + (sequence_kl / self.target - 1) * episodes / self.horizon


def nothing(patch: pytest.MonkeyPatch) -> None:
    """The fault is in a function that is handed to the check."""


def left_padding() -> None:
    test_states.check_left_padding(tiny.shared_base("gpt2"))


def cached() -> None:
    test_sampling.check_cached_equals_full(tiny.with_policy(tiny.shared_base("gpt2"), moved=0.2))


def cached_by_the_library() -> None:
    base = tiny.with_policy(tiny.shared_base("gpt2"), moved=0.2)
    base.samples_by_engine = False
    test_sampling.check_cached_equals_full(base)


def rewards_by_hand() -> None:
    test_rewards.check_rewards(rewards.token_rewards)


def values_on_states() -> None:
    test_parity.test_values_equal_the_head_on_the_models_own_states(tiny.with_policy(tiny.shared_base("gpt2")))


def returns() -> None:
    test_rewards.check_returns_before_whitening()


PATCHED = [
    Mutant("temperature forgotten in the reference", forget_temperature_in_reference, checks.check_kl_starts_at_zero),
    Mutant("temperature forgotten when learning", forget_temperature_when_learning, checks.check_kl_starts_at_zero),
    Mutant("dropout left on", leave_dropout_on, checks.check_forwards_repeat),
    Mutant("dropout left on, KL", leave_dropout_on, checks.check_kl_starts_at_zero),
    Mutant("position ids over padding", count_positions_over_padding, left_padding),
    Mutant("cache positions over padding", cache_positions_over_padding, cached_by_the_library),
    Mutant("decoding one position late", decode_at_the_next_position, cached),
    Mutant("the cache's last column lost", lose_the_last_column, cached),
    Mutant("score one token early", score_one_token_early, checks.check_score_stands_on_the_end),
    Mutant("EOS outside the mask", put_the_end_outside_the_mask, checks.check_score_stands_on_the_end),
    Mutant("k3 in the reward", penalise_with_k3, checks.check_rewards_sum_to_score_less_kl),
    Mutant("k3 in the reward, golden", penalise_with_k3, rewards_by_hand),
    Mutant("score doubled", double_the_score, checks.check_rewards_sum_to_score_less_kl),
    Mutant("no KL on the last token", spare_the_last_token_the_kl, checks.check_rewards_sum_to_score_less_kl),
    Mutant("each micro-batch normalised alone", normalise_each_micro_batch, checks.check_micro_batches_add_up),
    Mutant("one update an epoch", update_once_an_epoch, checks.check_one_optimizer_step_a_minibatch),
    Mutant("warm-up moves the policy", warm_up_the_policy_too, checks.check_warmup_trains_the_head_alone),
    Mutant("reference follows the policy", let_the_reference_follow, checks.check_kl_is_measured_against_the_start),
    Mutant("gradient flipped", flip_the_policy_gradient, checks.check_first_gradient_is_the_policy_gradient),
    Mutant("value loss doubled", forget_the_value_coefficient, checks.check_first_gradient_is_the_policy_gradient),
    Mutant("returns after whitening", whiten_before_returns, returns),
    Mutant("temperature forgotten in sampling", forget_temperature_in_sampling, checks.check_a_cold_rollout_is_greedy),
    Mutant(
        "temperature forgotten in the entropy",
        forget_temperature_in_entropy,
        test_invariants.test_entropy_at_an_extreme_temperature_is_log_v,
    ),
    Mutant("values one state late", read_values_one_state_late, values_on_states),
    Mutant("critic starts at random", start_the_critic_at_random, test_trainer.test_the_critic_starts_at_zero),
    Mutant(
        "mask by the padding's id",
        mask_by_padding_id,
        test_invariants.test_the_end_is_learnt_where_padding_and_end_share_an_id,
    ),
    Mutant("gradients kept", keep_gradients, test_goldens.test_two_updates_by_hand),
    Mutant("Adam's usual epsilon", use_the_usual_epsilon, test_goldens.test_two_updates_by_hand),
    Mutant("weights decay", decay_weights, test_goldens.test_two_updates_by_hand),
    Mutant("gradient not clipped", clip_no_gradient, test_goldens.test_two_updates_by_hand),
    Mutant("values clipped like ratios", clip_values_like_ratios, test_goldens.test_two_updates_by_hand),
    Mutant("update measured backwards", measure_the_update_backwards, test_goldens.test_two_updates_by_hand),
    Mutant(
        "half of the episodes",
        learn_from_half_the_episodes,
        test_invariants.test_every_epoch_learns_from_every_episode_once_in_an_order_of_its_own,
    ),
    Mutant(
        "controller reads KL a token",
        control_by_the_token,
        test_invariants.test_the_coefficient_follows_the_sequence_kl_and_is_what_the_next_rewards_use,
    ),
    Mutant(
        "discount forgotten",
        forget_the_discount,
        test_goldens.test_gamma_and_lambda_of_the_settings_reach_the_advantages,
    ),
    Mutant(
        "whitened rewards shifted",
        shift_whitened_rewards,
        test_goldens.test_reward_whitening_keeps_the_mean_and_rewards_length,
    ),
]

HANDED = [
    ("sample variance", lambda: test_ops.check_whitening_golden(sample_variance_whiten)),
    ("padding leaks into GAE", lambda: test_advantages.check_padding_leaks_nothing(leaking_advantages)),
    ("lambda on the one-step error", lambda: test_advantages.check_table(0.7, lambda_on_delta)),
    ("optimistic clip", lambda: test_losses.check_policy_golden(optimistic_policy_loss)),
    ("value clip lost", lambda: test_losses.check_value_golden(unclipped_value_loss)),
    ("KL error not clipped", lambda: test_kl.check_adaptive_closed_form(UnclippedKL)),
]


@pytest.mark.parametrize("mutant", PATCHED, ids=lambda mutant: mutant.name)
def test_a_planted_fault_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.check()
    mutant.plant(monkeypatch)
    with pytest.raises(AssertionError):
        mutant.check()


@pytest.mark.parametrize("check", [check for _, check in HANDED], ids=[name for name, _ in HANDED])
def test_a_wrong_formula_is_found(check: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize(
    ("plant", "name"),
    [
        (forget_temperature_in_reference, "kl_at_start"),
        (leave_dropout_on, "kl_at_start"),
        (leave_dropout_on, "ratio_at_start"),
        (forget_temperature_when_learning, "ratio_at_start"),
    ],
    ids=["reference temperature", "dropout, KL", "dropout, ratio", "learning temperature"],
)
def test_an_alarm_names_the_fault(plant: Patch, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    trainer, alarms = checks.make_trainer(sampling={"temperature": 0.6}, name="gpt2")
    trainer.step()
    assert name in {alarm.name for alarm in alarms}
