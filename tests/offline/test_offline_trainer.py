"""The off-policy trainer on tiny models: what it computes, what it leaves alone, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch
from models import tiny
from offline import offline_checks as checks
from offline.offline_checks import ALGORITHMS, make_trainer, preferences

from humanward.algorithm_config import OfflineConfig
from humanward.config import LoraConfig
from humanward.offline import data
from humanward.offline.trainer import NonFiniteError, OfflineTrainer
from humanward.records import Preference, Prompt


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("sft", {}),
        ("dpo", {"beta": 0.3}),
        ("dpo", {"label_smoothing": 0.2}),
        ("ipo", {"beta": 0.4}),
        ("orpo", {"beta": 0.5}),
        ("kto", {"desirable_weight": 1.5, "undesirable_weight": 0.75}),
    ],
)
def test_the_loss_is_that_of_the_papers_on_hugging_faces_own(algorithm: str, options: dict[str, float]) -> None:
    checks.check_loss_by_hand(algorithm, **options)


def test_responses_that_were_cut_off_get_no_end_token() -> None:
    checks.check_unfinished_responses_get_no_end_token()


def test_policy_and_reference_agree_at_the_start() -> None:
    checks.check_start()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_chunks_change_neither_loss_nor_gradient(algorithm: str) -> None:
    checks.check_chunks_change_nothing(algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_learns_what_was_preferred(algorithm: str) -> None:
    checks.check_learns_what_was_preferred(algorithm)


def test_the_reference_is_judged_once_and_stays() -> None:
    checks.check_the_reference_stays()


def test_swapping_chosen_and_rejected_flips_the_gradient() -> None:
    checks.check_swapping_flips_the_gradient()


def test_the_reference_point_is_not_learnt_from() -> None:
    checks.check_the_reference_point_is_not_learnt_from()


def test_one_optimizer_step_a_batch_on_the_schedule() -> None:
    checks.check_one_step_a_batch()


@pytest.mark.parametrize("algorithm", ["sft", "orpo"])
def test_sft_and_orpo_need_no_reference(algorithm: str) -> None:
    """They train without its log-probabilities, and their loss never looks at it."""
    trainer, _ = make_trainer(algorithm, judged=False, moved=0.2)
    asked: list[str] = []
    real = trainer.base.role
    with mock.patch.object(trainer.base, "role", lambda name: asked.append(name) or real(name)):
        trainer.judge_reference()
        for _ in range(trainer.steps):
            trainer.step()
    assert set(asked) == {"policy"}
    assert all(held.ref_logprobs is None for held in trainer.training)


@pytest.mark.parametrize("algorithm", ["dpo", "ipo", "kto"])
def test_the_others_refuse_to_train_without_it(algorithm: str) -> None:
    trainer, _ = make_trainer(algorithm, judged=False)
    with pytest.raises(RuntimeError, match="call judge_reference first"):
        trainer.step()


def test_each_response_is_encoded_once_with_all_pairs_of_its_prompt() -> None:
    """Three answers with three pairs: one forward of three rows, not of six."""
    trainer, _ = make_trainer("dpo", preferences(1))
    rows: list[int] = []
    real = trainer.base.logprobs
    with mock.patch.object(trainer.base, "logprobs", lambda tokens: rows.append(len(tokens)) or real(tokens)):
        trainer.step()
    assert rows == [3]


def test_two_trainings_with_one_seed_are_bitwise_equal() -> None:
    ends = []
    for seed in (3, 3, 4):
        trainer, _ = make_trainer("kto", epochs=2, batch_size=2, seed=seed)
        for _ in range(trainer.steps):
            trainer.step()
        ends.append(tiny.weights(trainer.parameters))
    assert tiny.same(ends[0], ends[1])
    assert not tiny.same(ends[0], ends[2])


def test_only_the_policy_moves() -> None:
    base = tiny.with_policy(tiny.shared_base())
    base.add_role("reward", LoraConfig(rank=4), seed=2)
    ours = {id(p) for p in base.role_parameters("policy")}
    others = [p for p in base.model.parameters() if id(p) not in ours]
    before, policy = tiny.weights(others), tiny.weights(base.role_parameters("policy"))
    trainer, _ = make_trainer("dpo", base=base, held_out=preferences(3, seed=5))
    trainer.start()
    for _ in range(trainer.steps):
        trainer.step()
    assert tiny.same(others, before)
    assert not tiny.same(base.role_parameters("policy"), policy)
    assert base._role == "reference"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_held_out_prompts_are_measured_and_not_learnt_from(algorithm: str) -> None:
    """With and without them the weights end bitwise alike; they are looked at before, some times between, and last."""
    held_out = preferences(4, seed=5)
    ends = []
    for given in ((), held_out):
        trainer, _ = make_trainer(algorithm, held_out=given, batch_size=1, epochs=2)
        rows = [trainer.start(), *(trainer.step() for _ in range(trainer.steps))]
        ends.append(tiny.weights(trainer.parameters))
    assert tiny.same(*ends)
    looked = [int(row["offline/step"]) for row in rows if math.isfinite(row["offline/validation_loss"])]
    assert looked == [0, 3, 6, 9, 12]
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_a_reference_that_is_not_the_start_is_named() -> None:
    trainer, sounded = make_trainer("dpo", moved=0.3)
    trainer.start()
    assert trainer.kl_at_start > 0.1
    assert [alarm.name for alarm in sounded] == ["kl_at_start"]


def test_an_adapter_to_start_from_is_the_reference(tmp_path) -> None:
    """DPO from an SFT adapter: KL 0 at the start against that adapter, which is not the bare base."""
    first, _ = make_trainer("sft", epochs=2, learning_rate=0.02)
    for _ in range(first.steps):
        first.step()
    first.base.save_role("policy", tmp_path / "adapter")
    base = tiny.shared_base()
    base.start_from(tmp_path / "adapter")
    trainer, sounded = make_trainer("dpo", base=base)
    trainer.start()
    assert trainer.kl_at_start == 0
    assert sounded == []
    held = trainer._batch(0)[0]
    plain, _ = checks.plain_logprob(tiny.shared_base(), "reference", held.group.prompt, held.group.texts[0])
    assert abs(float(held.ref_logprobs[0]) - plain) > 0.01
    before = tiny.weights(base.role_parameters("reference"))
    for _ in range(trainer.steps):
        trainer.step()
    assert tiny.same(base.role_parameters("reference"), before)


# --- what is not finite ------------------------------------------------------------------------------------------


def test_a_log_probability_that_is_not_finite_changes_no_weight_and_names_its_prompt() -> None:
    trainer, _ = make_trainer("dpo", batch_size=6)
    before = tiny.weights(trainer.parameters)
    real = trainer._logprobs

    def broken(chunk):
        logprobs = real(chunk)
        start = 0
        for held in chunk:
            if held.group.prompt.id == "p3":
                logprobs = logprobs.index_fill(0, torch.tensor([start]), float("nan"))
            start += len(held.lengths)
        return logprobs

    with (
        mock.patch.object(trainer, "_logprobs", broken),
        pytest.raises(NonFiniteError, match=r"a log-probability is not finite at step 1 \(prompts p3\); this step"),
    ):
        trainer.step()
    assert tiny.same(trainer.parameters, before)
    assert trainer.optimizer.state == {}


def test_a_gradient_that_is_not_finite_changes_no_weight_and_names_the_batch() -> None:
    trainer, _ = make_trainer("dpo", batch_size=2)
    trainer.step()
    before = tiny.weights(trainer.parameters)
    ids = ", ".join(held.group.prompt.id for held in trainer._batch(1))
    with trainer.base.role("policy"):
        hook = trainer.parameters[0].register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        NonFiniteError, match=rf"a gradient is not finite at step 2 \(prompts {ids}\); .* lower offline\.learning_rate"
    ):
        trainer.step()
    hook.remove()
    assert tiny.same(trainer.parameters, before)
    assert all(p.grad is None for p in trainer.parameters)
    assert math.isfinite(trainer.step()["offline/loss"])


def test_a_reference_that_is_not_finite_is_refused() -> None:
    trainer, _ = make_trainer("dpo", judged=False)
    with (
        mock.patch.object(
            trainer, "_logprobs", lambda chunk: torch.full((sum(len(c.lengths) for c in chunk),), -math.inf)
        ),
        pytest.raises(NonFiniteError, match=r"a reference log-probability is not finite .*look at the model's weights"),
    ):
        trainer.judge_reference()


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        OfflineTrainer(tiny.with_policy(tiny.shared_base()), "dpo", OfflineConfig(), [], seed=0)


# --- odd sizes and texts -----------------------------------------------------------------------------------------


def test_long_responses_are_cut_and_counted() -> None:
    """Eight tokens: a response of nine words and its end keeps seven; one of two words keeps its prompt's end."""
    prompt = Prompt("p", "w1 w2 w3 w4 w5 w6 w7 w8 w9")
    long = " ".join(f"w{i}" for i in range(5, 14))
    trainer, _ = make_trainer("dpo", [Preference("p", "a", "b", prompt, long, "w1 w2")], max_tokens=8)
    assert trainer.cut == 1
    assert trainer.training[0].lengths == [7, 3]
    assert trainer.training[0].extent == (2, 8)
    assert math.isclose(trainer.step()["offline/loss"], math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "t5-tied"])
def test_other_architectures_train(name: str, algorithm: str) -> None:
    base = tiny.with_policy(tiny.shared_base(name))
    trainer, sounded = make_trainer(algorithm, preferences(3), base=base)
    trainer.start()
    assert trainer.kl_at_start == 0
    assert math.isfinite(trainer.step()["offline/loss"])
    assert sounded == []


def test_an_empty_answer_is_an_answer() -> None:
    """Its one token is the end."""
    prompt = Prompt("p", "w1")
    made = [Preference("p", "a", "b", prompt, "w2 w3", "")]
    for algorithm in ("dpo", "orpo"):
        trainer, _ = make_trainer(algorithm, made)
        assert trainer.training[0].lengths == [3, 1]
        assert math.isfinite(trainer.step()["offline/loss"])
    assert data.pairs(made, {("p", "")})[0].ended == (True, True)


def test_weights_of_pairs_are_weights() -> None:
    """A pair of weight 0 is not there; one of weight 2 is there twice."""
    prompts = [Prompt("p", "w1 w2"), Prompt("q", "w3")]
    one = Preference("p", "a", "b", prompts[0], "w5", "w6 w7")
    two = Preference("q", "c", "d", prompts[1], "w8 w9", "w10")

    def loss(*made: Preference) -> float:
        trainer, _ = make_trainer("dpo", made, moved=0.3)
        return trainer.step()["offline/loss"]

    first, second = loss(one), loss(two)
    assert abs(first - second) > 1e-3
    assert math.isclose(loss(one, dataclasses.replace(two, weight=0.0)), first, rel_tol=1e-5)
    assert math.isclose(loss(one, dataclasses.replace(two, weight=2.0)), (first + 2 * second) / 3, rel_tol=1e-5)
