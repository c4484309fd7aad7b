"""The real trainer on tiny models: invariants of a step. The checks that have mutants are in checks.py."""

from __future__ import annotations

import math

import pytest
import torch
from models import tiny
from rl import checks
from rl.checks import make_trainer, presence, step

from humanward.models.base import SharedBase
from humanward.models.loading import finish_loading
from humanward.rl import trainer as trainer_module
from humanward.rl.rollouts import build_rollout
from humanward.rl.trainer import NonFiniteError, OnPolicyTrainer


@pytest.mark.parametrize(
    "check",
    [
        checks.check_kl_starts_at_zero,
        checks.check_forwards_repeat,
        checks.check_score_stands_on_the_end,
        checks.check_rewards_sum_to_score_less_kl,
        checks.check_micro_batches_add_up,
        checks.check_one_optimizer_step_a_minibatch,
        checks.check_warmup_trains_the_head_alone,
        checks.check_kl_is_measured_against_the_start,
        checks.check_first_gradient_is_the_policy_gradient,
    ],
    ids=lambda check: check.__name__,
)
def test_check(check) -> None:
    check()


def freeze(trainer: OnPolicyTrainer) -> None:
    """A learning rate of 0, which a configuration does not allow."""
    trainer.schedule.base_lrs = [0.0, 0.0]
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0


@pytest.mark.parametrize("micro", [4, 1])
def test_at_learning_rate_zero_the_ratio_stays_one(micro: int) -> None:
    trainer, alarms = make_trainer(moved=0.2, micro_batch_size=micro)
    freeze(trainer)
    before = tiny.weights(trainer.parameters)
    for _ in range(3):
        metrics, _ = step(trainer)
        # k3 = d^2 / 2: below 1e-10 the log-ratio is below 1.5e-5, rounding of another packing
        assert 0 <= metrics["ppo/update_kl"] < 1e-10
        assert metrics["ppo/clip_fraction"] == 0
    assert tiny.same(trainer.parameters, before)
    assert "ratio_at_start" not in {alarm.name for alarm in alarms}


def test_the_critic_starts_at_zero() -> None:
    trainer, _ = make_trainer()
    assert not trainer.value_head.linear.weight.detach().any()
    assert not trainer.value_head.linear.bias.detach().any()
    metrics, rollout = step(trainer)
    assert not bool(rollout.values.any())
    assert metrics["ppo/explained_variance"] == pytest.approx(0, abs=1e-6)


def test_a_warmed_critic_explains_variance_before_the_policy_moves() -> None:
    """The score is +1 or -1 by prompt alone, so the head can read it off the state before the only token."""

    def by_prompt(prompts, _texts, _tokens):
        return torch.tensor([1.0 if int(p.id[1:]) % 2 else -1.0 for p in prompts])

    trainer, _ = make_trainer(
        by_prompt,
        critic_warmup_steps=5,
        steps=6,
        rollout_size=48,
        minibatch_size=12,
        micro_batch_size=12,
        epochs=4,
        value_clip_range=10.0,
        critic_learning_rate=0.05,
        missing_eos_penalty=0.0,
        sampling={"max_new_tokens": 1},
    )
    policy = tiny.weights(trainer.policy_parameters)
    explained = [step(trainer)[0]["ppo/explained_variance"] for _ in range(5)]
    assert tiny.same(trainer.policy_parameters, policy)
    assert explained[0] == pytest.approx(0, abs=1e-6)
    assert explained[-1] > 0.5, explained


def test_everything_is_zero_on_padding() -> None:
    trainer, _ = make_trainer(checks.numbers, moved=0.3, sampling={"temperature": 3.0, "max_new_tokens": 12})
    step(trainer)
    _, rollout = step(trainer)
    padding = ~rollout.tokens.response_mask
    assert bool(padding.any())
    for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"):
        assert not bool(getattr(rollout, name)[padding].any()), name


def test_the_missing_end_penalty_honours_every_stop_token() -> None:
    """Ends by the tokenizer's EOS or by a second stop token (5) cost nothing, a cut off response exactly 2.5."""
    model = tiny.model("llama")
    model.generation_config.eos_token_id = [5, tiny.EOS]
    base = tiny.with_policy(SharedBase(finish_loading(model, tiny.word_tokenizer(), "two ends")))
    trainer, _ = make_trainer(
        checks.numbers,
        base=base,
        kl_coef=0.0,
        missing_eos_penalty=2.5,
        rollout_size=32,
        sampling={"temperature": 30.0, "max_new_tokens": 12},
    )
    _, rollout = step(trainer)
    kinds = set()
    for row in range(32):
        last = int(rollout.tokens.response_ids[row][rollout.tokens.response_mask[row]][-1])
        kinds.add(last if last in (5, tiny.EOS) else None)
        paid = 0.0 if last in (5, tiny.EOS) else 2.5
        assert float(rollout.rewards[row].sum()) == (row + 1) / 2 - paid
    assert kinds == {5, tiny.EOS, None}


def test_the_learning_rate_falls_linearly_to_zero() -> None:
    trainer, _ = make_trainer(steps=3, learning_rate=0.003, critic_learning_rate=0.3)
    used = [step(trainer)[0]["ppo/learning_rate"] for _ in range(3)]
    assert used == pytest.approx([0.003, 0.002, 0.001], rel=1e-9)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0, 0]


def test_a_constant_learning_rate_stays() -> None:
    trainer, _ = make_trainer(steps=3, learning_rate=0.003, schedule="constant")
    assert [step(trainer)[0]["ppo/learning_rate"] for _ in range(3)] == [0.003] * 3


def test_a_huge_learning_rate_stops_the_epochs_early() -> None:
    """Two minibatches an epoch. The second one already sees a policy far away, so epochs 2 to 4 are skipped."""
    trainer, _ = make_trainer(learning_rate=5.0, epochs=4, target_update_kl=0.02)
    metrics, _ = step(trainer)
    assert metrics["ppo/update_kl"] > 0.03
    assert metrics["ppo/optimizer_steps"] == 2
    patient, _ = make_trainer(learning_rate=5.0, epochs=4)
    assert step(patient)[0]["ppo/optimizer_steps"] == 8


@pytest.mark.parametrize("whiten", [True, False])
def test_a_score_that_is_not_finite_changes_no_weight(whiten: bool) -> None:
    """Also when the first minibatches do not hold it: the error comes before any of them is learnt from."""
    asked: list[str] = []

    def broken(prompts, texts, tokens):
        asked[:] = [p.id for p in prompts]
        scores = presence(prompts, texts, tokens)
        scores[5] = float("nan")
        return scores

    trainer, _ = make_trainer(broken, minibatch_size=1, micro_batch_size=1, whiten_advantages=whiten)
    before = tiny.weights(trainer.parameters)
    with pytest.raises(NonFiniteError) as caught:
        trainer.step()
    assert tiny.same(trainer.parameters, before)
    assert f"a score is not finite at step 1 (prompts {asked[5]})" in str(caught.value)
    assert trainer.base._role == "reference"


def test_a_gradient_that_is_not_finite_changes_no_weight() -> None:
    trainer, _ = make_trainer()
    before = tiny.weights(trainer.parameters)
    with trainer.base.role("policy"):
        trainer.policy_parameters[0].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match=r"the gradient is not finite at step 1 \(prompts p"):
        trainer.step()
    assert tiny.same(trainer.parameters, before)


def test_a_loss_that_is_not_finite_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    real = trainer_module.policy_loss_sum

    def broken(*args, **options):
        loss, clipped = real(*args, **options)
        return loss * float("nan"), clipped

    monkeypatch.setattr(trainer_module, "policy_loss_sum", broken)
    trainer, _ = make_trainer()
    before = tiny.weights(trainer.parameters)
    with pytest.raises(NonFiniteError, match=r"the loss is not finite at step 1 \(prompts p"):
        trainer.step()
    assert tiny.same(trainer.parameters, before)


def run(seed: int = 0, **options) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    trainer, _ = make_trainer(seed=seed, learning_rate=0.01, **options)
    rows = [step(trainer)[0] for _ in range(3)]
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
    return rows, tiny.weights(trainer.parameters)


def test_the_same_seed_gives_the_same_run_bitwise_and_another_seed_another() -> None:
    rows, weights = run()
    again, weights_again = run()
    assert rows == again
    assert tiny.same(weights, weights_again)
    other, weights_other = run(seed=1)
    assert rows != other
    assert not tiny.same(weights, weights_other)


def test_the_temperature_divides_policy_and_reference_alike() -> None:
    """Log-probabilities of the rollout are those of logits / T by the model's own forward; entropy too."""
    trainer, _ = make_trainer(sampling={"temperature": 0.5}, moved=0.2, name="gpt2")
    metrics, rollout = step(trainer)
    fresh, _ = make_trainer(moved=0.2, name="gpt2")
    tokens = rollout.tokens
    entropies = []
    for role, found in (("policy", rollout.logprobs), ("reference", rollout.ref_logprobs)):
        for row in range(8):
            prompt = tokens.prompt_ids[row][tokens.prompt_mask[row]]
            response = tokens.response_ids[row][tokens.response_mask[row]]
            with torch.no_grad(), fresh.base.role(role):
                logits = fresh.base.model(input_ids=torch.cat([prompt, response])[None]).logits[0] / 0.5
            table = logits[len(prompt) - 1 : -1].log_softmax(-1)
            torch.testing.assert_close(
                found[row][: len(response)], table.gather(1, response[:, None])[:, 0], rtol=1e-4, atol=1e-5
            )
            if role == "policy":
                entropies += (-(table.exp() * table).sum(-1)).tolist()
    assert metrics["ppo/entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)


def test_scores_shifted_by_what_the_critic_knows_change_nothing() -> None:
    """Shift scores and values by 5 (gamma 1): the same advantages."""
    trainer, _ = make_trainer(missing_eos_penalty=0.0)
    _, rollout = step(trainer)
    mask = rollout.tokens.response_mask
    values = torch.where(mask, torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)), 0.0)
    episodes = trainer_module.respond.__globals__["Episodes"](rollout.tokens, rollout.ended, rollout.group)
    plain, shifted = (
        build_rollout(
            episodes,
            rollout.scores + shift,
            rollout.logprobs,
            rollout.ref_logprobs,
            torch.where(mask, values + shift, 0.0),
            trainer.config,
            kl_coef=0.05,
        )
        for shift in (0.0, 5.0)
    )
    torch.testing.assert_close(plain.advantages, shifted.advantages, rtol=1e-4, atol=1e-4)


def test_the_adaptive_coefficient_follows_the_step_and_is_used_by_the_next() -> None:
    trainer, _ = make_trainer(kl_controller="adaptive", kl_coef=0.1, kl_target=1e-3, kl_horizon=100, moved=0.3)
    first, rollout = step(trainer)
    assert first["ppo/kl_coef"] == 0.1
    kl = first["ppo/sequence_kl"]
    assert kl == pytest.approx(float((rollout.logprobs - rollout.ref_logprobs).sum(1).mean()), rel=1e-5)
    error = min(max(kl / 1e-3 - 1, -0.2), 0.2)
    second, _ = step(trainer)
    assert second["ppo/kl_coef"] == pytest.approx(0.1 * (1 + error * 8 / 100), rel=1e-9)


def test_every_prompt_is_used_once_before_any_is_used_twice() -> None:
    seen: list[str] = []

    def watching(prompts, texts, tokens):
        seen.extend(p.id for p in prompts)
        return presence(prompts, texts, tokens)

    trainer, _ = make_trainer(watching, rollout_size=4, steps=6)
    for _ in range(6):
        trainer.step()
    assert sorted(seen[:12]) == sorted(seen[12:]) == sorted(p.id for p in trainer.prompts)
    assert seen[:12] != seen[12:]


def test_no_prompts_are_refused() -> None:
    trainer, _ = make_trainer()
    with pytest.raises(ValueError, match="no prompts"):
        OnPolicyTrainer(trainer.base, trainer.config, trainer.sampling, [], presence, seed=0)


def test_filters_of_the_sample_stage_do_not_reach_rollouts() -> None:
    """top_k = 1 would make every response of a prompt the same and the KL at the start large."""
    filtered, alarms = make_trainer(sampling={"top_k": 1, "top_p": 0.5})
    plain, _ = make_trainer()
    assert torch.equal(step(filtered)[1].tokens.response_ids, step(plain)[1].tokens.response_ids)
    assert "kl_at_start" not in {alarm.name for alarm in alarms}


def test_a_snapshot_brings_everything_trained_back() -> None:
    trainer, _ = make_trainer(learning_rate=0.1)
    before, snapshot = tiny.weights(trainer.parameters), trainer.snapshot()
    step(trainer)
    assert not tiny.same(trainer.parameters, before)
    trainer.restore(snapshot)
    assert tiny.same(trainer.parameters, before)


def test_metrics_by_hand() -> None:
    trainer, _ = make_trainer(checks.numbers, moved=0.2, kl_coef=0.5, sampling={"temperature": 3.0})
    metrics, rollout = step(trainer)
    mask, kl = rollout.tokens.response_mask, rollout.logprobs - rollout.ref_logprobs
    lengths = [sum(row) for row in mask.tolist()]
    assert metrics["ppo/step"] == 1
    assert metrics["ppo/score_mean"] == pytest.approx((0.5 + 4.0) / 2)  # .5, 1 ... 4
    assert metrics["ppo/score_std"] == pytest.approx(0.5 * math.sqrt((64 - 1) / 12), rel=1e-5)  # of 1 ... n, times .5
    assert metrics["ppo/response_length"] == pytest.approx(sum(lengths) / 8)
    assert metrics["ppo/ended"] == pytest.approx(sum(rollout.ended.tolist()) / 8)
    assert metrics["ppo/kl"] == pytest.approx(sum(sum(r) for r in kl.tolist()) / sum(lengths), rel=1e-5)
    assert metrics["ppo/sequence_kl"] == pytest.approx(sum(sum(r) for r in kl.tolist()) / 8, rel=1e-5)
    cut = 8 - sum(rollout.ended.tolist())
    reward = 2.25 - cut / 8 - 0.5 * metrics["ppo/sequence_kl"]
    assert metrics["ppo/reward_mean"] == pytest.approx(reward, rel=1e-4)
    assert metrics["ppo/optimizer_steps"] == 4


@pytest.mark.parametrize("name", ["gemma2", "t5-tied", "bart"])
def test_a_step_runs_on_other_architectures(name: str) -> None:
    trainer, alarms = make_trainer(name=name, learning_rate=0.01)
    metrics = [step(trainer)[0] for _ in range(2)]
    assert metrics[0]["ppo/sequence_kl"] == 0
    assert metrics[1]["ppo/sequence_kl"] != 0
    assert not checks.AT_START & {alarm.name for alarm in alarms}


def test_a_bfloat16_base_trains_float32_adapters_without_alarms() -> None:
    base = tiny.shared_base(dtype="bfloat16")
    tiny.with_policy(base)
    trainer, alarms = make_trainer(base=base, micro_batch_size=2, learning_rate=0.01)
    assert {p.dtype for p in trainer.parameters} == {torch.float32}
    rows = [step(trainer)[0] for _ in range(2)]
    assert rows[0]["ppo/sequence_kl"] == 0
    assert rows[1]["ppo/sequence_kl"] != 0
    assert not checks.AT_START & {alarm.name for alarm in alarms}
