"""The exact gate on tables: the shipped trainer reaches the closed-form optimum, and misses it with a planted bug.

Measured numbers: docs/gate.md. Seeds are fixed; the bars hold over other seeds too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from gate import mutants
from gate.optimum import RESPONSES, response_logprobs, total_variation
from gate.tabular import (
    GRPO,
    GRPO_PLAIN,
    K3_IN_THE_LOSS,
    LAMBDA_1,
    MANY_EPOCHS,
    PENALTIES,
    PPO,
    REINFORCE,
    RLOO,
    SETUPS,
    WARM,
    Setup,
)

from humanward.rl import trainer as trainer_module

pytestmark = pytest.mark.gate


@dataclass(frozen=True)
class Mutant:
    """A bug: its name, how it is planted, and the setup that must miss its bar with it."""

    name: str
    plant: mutants.Patch
    setup: Setup = PPO


RAGGED = dataclasses.replace(REINFORCE, options={**REINFORCE.options, "micro_batch_size": 64})

MUTANTS = [
    Mutant("gamma .95", mutants.gamma_below_one),
    Mutant("padding leaks into GAE", mutants.padding_leaks),
    Mutant("reward whitening", mutants.whitened_rewards),
    Mutant("score one token early", mutants.score_one_token_early),
    Mutant("score in the last column", mutants.score_in_the_last_column),
    Mutant("score doubled", mutants.score_doubled),
    Mutant("scores in another order", mutants.scores_in_another_order),
    Mutant("k3 in the reward", mutants.k3_in_the_reward),
    Mutant("k2 in the reward", mutants.k2_in_the_reward),
    Mutant("no KL on the last token", mutants.no_kl_on_the_last_token),
    Mutant("KL flipped", mutants.kl_flipped),
    Mutant("KL without its coefficient", mutants.kl_without_coefficient),
    Mutant("KL averaged over tokens", mutants.kl_averaged_over_tokens),
    Mutant("sequence KL on every token", mutants.sequence_kl_on_every_token),
    Mutant("lambda on the next value", mutants.lambda_on_the_next_value),
    Mutant("bootstrap where cut off", mutants.bootstrap_where_cut_off),
    Mutant("no credit for later rewards", mutants.no_credit_for_later_rewards),
    Mutant("value of the next state", mutants.value_of_the_next_state),
    Mutant("returns without values", mutants.returns_without_values),
    Mutant("returns of whitened advantages", mutants.returns_of_whitened_advantages),
    Mutant("loss flipped", mutants.loss_flipped),
    Mutant("last token left out of the loss", mutants.last_token_left_out),
    Mutant("advantages one token late", mutants.advantages_one_token_late),
    Mutant("gradients pile up", mutants.gradients_pile_up),
    Mutant("reference follows the policy", mutants.let_the_reference_follow),
    Mutant("judged under the reference", mutants.judge_under_the_reference),
    Mutant("sampled with top-p .9", mutants.sample_with_a_filter),
    Mutant("mask read off the ids", mutants.mask_read_off_the_ids),
    Mutant("penalty for the ended", mutants.penalise_the_ended, PENALTIES),
    Mutant("temperature forgotten in the reference", mutants.forget_temperature_in_reference, WARM),
    Mutant("temperature forgotten when learning", mutants.forget_temperature_when_learning, WARM),
    Mutant("clip on the wrong side", mutants.optimistic_clip, MANY_EPOCHS),
    Mutant("no clip", mutants.no_clip, MANY_EPOCHS),
    Mutant("micro-batches by length, each normalised alone", mutants.normalise_each_micro_batch, RAGGED),
    Mutant("whitening over padding", mutants.whiten_over_padding, REINFORCE),
]

ELSEWHERE = [
    Mutant("sampled from the reference", mutants.sample_from_the_reference, K3_IN_THE_LOSS),
    Mutant("gains never learnt", mutants.gains_never_learnt, K3_IN_THE_LOSS),
    Mutant("tokens averaged by response", mutants.tokens_averaged_by_response, K3_IN_THE_LOSS),
    Mutant("k3 the other way round", mutants.k3_the_other_way_round, K3_IN_THE_LOSS),
]
"""Bugs that k3 in the loss shows by its own point: where KL is in the reward, advantages vanish at the optimum, and
whatever only weighs or repeats them leaves the optimum where it is."""


def named(thing: Setup | Mutant) -> str:
    return thing.name


def test_the_problem_is_what_its_numbers_say() -> None:
    """15 responses, TV .300 and gap .262 at the start, mean length 1.919 at the optimum; two ways to each number."""
    problem = PPO.problem()
    assert len(RESPONSES) == len(set(RESPONSES)) == 15
    start = problem.distance(response_logprobs(problem.reference))
    assert (round(start.tv, 3), round(start.gap, 3)) == (0.300, 0.262)
    best = problem.distance(problem.optimum())
    assert best.tv == 0
    assert abs(best.gap) < 1e-15
    assert round(best.length, 3) == 1.919
    assert abs(float(problem.optimum().exp().sum()) - 1) < 1e-12
    torch.testing.assert_close(response_logprobs(problem.policy()), problem.optimum(), rtol=0, atol=1e-12)
    # No policy nearby is better: the objective's loss is beta KL(pi || pi*), so a step of either sign costs.
    noise = torch.randn(15, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 10
    for sign in (1, -1):
        other = (problem.optimum() + sign * noise).log_softmax(0)
        kl_to_best = float((other.exp() * (other - problem.optimum())).sum())
        assert abs(problem.value() - problem.objective(other) - problem.beta * kl_to_best) < 1e-12


@pytest.mark.parametrize("setup", SETUPS, ids=named)
def test_the_shipped_trainer_reaches_the_optimum(setup: Setup) -> None:
    distance = setup.distance()
    print(f"\n{setup.name}: {distance}")
    assert distance.tv < setup.tv, distance
    assert distance.gap < setup.gap, distance


@pytest.mark.parametrize("setup", [PPO, LAMBDA_1, WARM, PENALTIES, RLOO, GRPO_PLAIN, GRPO], ids=named)
def test_at_the_optimum_nothing_is_left_to_learn(setup: Setup) -> None:
    """Policy pi* and critic V*: along every response the rewards that are left sum to V*, so all advantages are 0."""
    problem = setup.problem()
    trainer = setup.trainer(policy=problem.policy() * setup.temperature)
    if trainer.value_head is not None:
        with torch.no_grad():
            trainer.value_head.linear.weight.copy_(problem.values()[None])
    real, seen = trainer_module.build_rollout, []
    with mock.patch.object(trainer_module, "build_rollout", lambda *a, **o: seen.append(real(*a, **o)) or seen[-1]):
        trainer.step()
    mask = seen[0].tokens.response_mask
    assert len({tuple(row) for row in (seen[0].tokens.response_ids + mask.long()).tolist()}) > 10
    assert float(seen[0].advantages.abs().max()) < (1e-10 if setup is GRPO else 1e-13)
    torch.testing.assert_close(seen[0].rewards.sum(1), torch.full_like(seen[0].scores, problem.value()))
    if trainer.value_head is not None:
        torch.testing.assert_close(seen[0].returns, seen[0].values)


@pytest.mark.parametrize("mutant", MUTANTS, ids=named)
def test_a_planted_bug_misses_the_optimum(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """By twice the bar at least, in total variation and in the objective."""
    mutant.plant(monkeypatch)
    distance = mutant.setup.distance()
    print(f"\n{mutant.name}: {distance}")
    assert distance.tv > 2 * mutant.setup.tv, distance
    assert distance.gap > 2 * mutant.setup.gap, distance


def k3_distance() -> float:
    """TV from where training with k3 in the loss ends to the point where it must."""
    return total_variation(K3_IN_THE_LOSS.train(), K3_IN_THE_LOSS.problem().point_of_k3_in_the_loss())


def test_k3_in_the_loss_reaches_a_point_of_its_own() -> None:
    """TV .361 away from the optimum: as a loss on the policy's samples k3 pulls like KL(reference || policy)."""
    problem = K3_IN_THE_LOSS.problem()
    away = problem.distance(problem.point_of_k3_in_the_loss())
    assert round(away.tv, 3) == 0.361
    distance = k3_distance()
    print(f"\n{K3_IN_THE_LOSS.name}: TV {distance:.1e} from its point, {away} from the optimum")
    assert distance < K3_IN_THE_LOSS.tv


@pytest.mark.parametrize("mutant", ELSEWHERE, ids=named)
def test_a_planted_bug_misses_the_point_of_k3_in_the_loss(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.plant(monkeypatch)
    distance = k3_distance()
    print(f"\n{mutant.name}: TV {distance:.1e}")
    assert distance > 2 * K3_IN_THE_LOSS.tv
