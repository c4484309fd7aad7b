"""The real trainer learns a preference whose right answer is known, and learns nothing from coin tosses."""

from __future__ import annotations

import pytest
from models import tiny
from offline.offline_checks import groups_of
from reward.test_reward_model import preferences

from humanward.algorithm_config import OfflineConfig
from humanward.models.sampling import sample
from humanward.offline.trainer import OfflineTrainer
from humanward.records import Prompt

WANTED = 5
"""Preferred texts hold the word w5, the others do not; otherwise they are alike."""
ASKED = 300


def train(algorithm: str, *, shuffled: bool = False) -> OfflineTrainer:
    """160 pairs to learn from, 150 held out."""
    made, held_out = (preferences(count, seed=seed, shuffled=shuffled) for count, seed in ((160, 1), (150, 2)))
    trainer = OfflineTrainer(
        tiny.with_policy(tiny.shared_base()),
        algorithm,
        OfflineConfig(epochs=3, learning_rate=0.01, max_tokens=32, beta=1.0 if algorithm == "orpo" else 0.1),
        groups_of(algorithm, made),
        groups_of(algorithm, held_out),
        seed=0,
    )
    trainer.judge_reference()
    trainer.start()
    for _ in range(trainer.steps):
        trainer.step()
    return trainer


def share_with_the_word(trainer: OfflineTrainer, role: str) -> float:
    """Share of 300 sampled responses that hold the wanted word; both roles get the same random numbers."""
    base = trainer.base
    prompts = [base.prompt_ids(Prompt(str(i), f"w{6 + i % 14} w{6 + i % 11}")) for i in range(ASKED)]
    with base.role(role):
        responses = sample(base, prompts, [f"test {i}" for i in range(ASKED)], tiny.sampling(), seed=9)
    return sum(WANTED in response.ids for response in responses) / ASKED


@pytest.mark.parametrize("algorithm", ["dpo", "ipo", "orpo", "kto"])
def test_what_is_preferred_becomes_common(algorithm: str) -> None:
    """Held-out pairs are told apart, and the word comes into answers: of 300 paired ones the standard error is .03.

    KTO's accuracy compares responses to different prompts, whose likelihoods differ for other reasons too.
    """
    trainer = train(algorithm)
    first, last = trainer.history[0], trainer.history[-1]
    assert last["offline/validation_accuracy"] > (0.8 if algorithm == "kto" else 0.9)
    assert last["offline/validation_loss"] < first["offline/validation_loss"]
    assert last["offline/validation_margin"] > first["offline/validation_margin"]
    assert share_with_the_word(trainer, "policy") > share_with_the_word(trainer, "reference") + 0.15


def test_demonstrations_are_imitated() -> None:
    trainer = train("sft")
    first, last = trainer.history[0], trainer.history[-1]
    assert last["offline/validation_loss"] < first["offline/validation_loss"] - 0.5
    assert last["offline/validation_chosen_logprob"] == pytest.approx(-last["offline/validation_loss"], rel=1e-5)
    assert share_with_the_word(trainer, "policy") > share_with_the_word(trainer, "reference") + 0.15


@pytest.mark.parametrize("algorithm", ["dpo", "ipo", "kto"])
def test_from_coin_tosses_nothing_is_learnt(algorithm: str) -> None:
    """The control: 150 held-out coin tosses, whose accuracy leaves .5 +- .2 by chance with probability 1e-6."""
    trainer = train(algorithm, shuffled=True)
    last = trainer.history[-1]
    assert abs(last["offline/validation_accuracy"] - 0.5) < 0.2
    assert abs(share_with_the_word(trainer, "policy") - share_with_the_word(trainer, "reference")) < 0.15
