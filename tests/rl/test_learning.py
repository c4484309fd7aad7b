"""The real trainer learns what is rewarded, and a large KL penalty holds it back."""

from __future__ import annotations

from rl import checks
from rl.checks import make_trainer

from humanward.models.sampling import sample
from humanward.rl.trainer import OnPolicyTrainer

ASKED = 400


def share_with_the_word(trainer: OnPolicyTrainer, role: str) -> float:
    """Share of 400 responses that hold the wanted word, on random numbers that training never used."""
    base = trainer.base
    prompts = [base.prompt_ids(trainer.prompts[i % len(trainer.prompts)]) for i in range(ASKED)]
    with base.role(role):
        responses = sample(base, prompts, [f"test {i}" for i in range(ASKED)], trainer.sampling, seed=99)
    return sum(checks.WANTED in response.ids for response in responses) / ASKED


def train(kl_coef: float) -> tuple[OnPolicyTrainer, list[dict[str, float]]]:
    trainer, _ = make_trainer(
        steps=12,
        rollout_size=64,
        minibatch_size=32,
        micro_batch_size=32,
        epochs=4,
        learning_rate=0.01,
        critic_warmup_steps=1,
        target_update_kl=0.05,
        missing_eos_penalty=0.0,
        kl_coef=kl_coef,
        sampling={"temperature": 2.0},
    )
    return trainer, [trainer.step() for _ in range(12)]


def test_a_rewarded_word_becomes_common() -> None:
    """The two shares are of 400 paired samples each: standard errors are below .025, so a rise of .3 is 8 of them."""
    trainer, metrics = train(kl_coef=0.01)
    before, after = share_with_the_word(trainer, "reference"), share_with_the_word(trainer, "policy")
    assert before < 0.4
    assert after > before + 0.3
    assert metrics[-1]["ppo/score_mean"] > metrics[0]["ppo/score_mean"] + 0.3
    assert metrics[-1]["ppo/sequence_kl"] > 1


def test_a_large_kl_penalty_holds_the_policy_at_the_reference() -> None:
    """The control: the same reward and steps; the word does not become common, and KL stays near 0."""
    trainer, metrics = train(kl_coef=20.0)
    before, after = share_with_the_word(trainer, "reference"), share_with_the_word(trainer, "policy")
    assert abs(after - before) < 0.1
    assert max(abs(row["ppo/sequence_kl"]) for row in metrics) < 0.25
