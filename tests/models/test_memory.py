"""The prediction's arithmetic by hand, on sizes that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from humanward.config import RunConfig, parse_config
from humanward.models.memory import (
    HEAP_SHARE,
    LEARNING,
    REWARD,
    SAMPLING,
    SAVING,
    SCORING,
    UPDATING,
    Batch,
    ClassifierSize,
    Line,
    batches_of,
    changed,
    choices,
    predict,
    remedies,
)

CLASSIFIER: dict[str, Any] = {"source": "classifier", "classifier": "a/b"}


class Round:
    """A base of 1000 weights in 2 bytes; adapters of 10 weights a rank; working memory in round numbers a row."""

    weights, tokenizer = 1000, 7

    def base(self, *, quantized: bool) -> int:
        return 600 if quantized else 2000

    def dequantized(self) -> int:
        return 50

    def adapter(self, lora: Any) -> int:
        return 30 if lora is None else 10 * lora.rank

    def adapter_itemsize(self, dtype: str) -> int:
        return 4 if dtype == "float32" else 2

    def learn(self, batch: Batch, *, checkpointing: bool, logits: bool) -> int:
        return batch.rows * (100 if checkpointing else 1000) + (5 * batch.rows if logits else 0)

    def judge(self, batch: Batch, *, logits: bool) -> int:
        return batch.rows * (20 if logits else 2)

    def sample(self, batch: Batch) -> tuple[int, int]:
        return batch.rows * 3, batch.rows * 4

    def reward_models(self) -> int:
        return 11

    def classifiers(self) -> list[ClassifierSize]:
        return [ClassifierSize("judge", 70, 9, "cpu"), ClassifierSize("reward", 80, 500, "cuda")]


def config(**changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "lora": {"rank": 2},
        "reward": CLASSIFIER,
        "feedback": {"source": "none"},
        "sampling": {"batch_size": 5, "max_new_tokens": 4},
        "model": {"max_prompt_tokens": 6},
        "ppo": {"micro_batch_size": 8, "minibatch_size": 8, "rollout_size": 8, "micro_batch_tokens": 45},
    }
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
    return parse_config(values)


def sizes(lines: tuple[Line, ...]) -> dict[tuple[str, str], int]:
    return {(line.role, line.thing): line.bytes for line in lines}


def test_every_line_of_ppo_on_one_base() -> None:
    found = predict(config(), Round(), "cuda", overhead=33)
    # 45 tokens hold 4 rows of 6 + 4; an adapter of rank 2 has 20 weights of 4 bytes.
    assert found.batches[LEARNING] == Batch(4, 6, 4)
    assert sizes(found.lines) == {
        ("process", "libraries"): 33,
        ("process", "tokenizers"): 7,
        ("base", "frozen weights"): 2000,
        ("policy", "adapter"): 80,
        ("policy", "gradients"): 80,
        ("policy", "Adam's two moments"): 160,
        ("policy", "kept copies"): 160,
        ("policy", "cache of keys and values"): 15,
        ("policy", "a step of sampling"): 5,
        ("policy", "forward without gradients"): 80,
        ("policy", "activations"): 4000,
        ("policy", "logits"): 20,
        ("judge classifier", "weights"): 70,
        ("reward classifier", "weights"): 80,
        ("judge classifier", "forward"): 9,
        ("process", "heap"): 1,  # 15 % of 9
        ("reward classifier", "forward"): 500,
    }
    fixed = 2000 + 80 + 80 + 160 + 160 + 80
    assert found.moments("cuda") == {
        SAMPLING: fixed + 20,
        SCORING: fixed + 500,
        "judging": fixed + 80,
        LEARNING: fixed + 4020,
        UPDATING: fixed,
    }
    assert found.peak("cuda") == (LEARNING, 6580)
    assert found.peak("cpu") == (SCORING, 33 + 7 + 70 + 9 + 1)


def test_the_reference_costs_nothing_unless_it_is_an_adapter_or_the_policy_a_whole_copy() -> None:
    started = sizes(predict(config(model={"adapter": "sft"}), Round()).lines)
    assert (started["reference", "adapter"], started["policy", "adapter"]) == (120, 120)
    whole = predict(config(model={"train": "full"}), Round())
    held = sizes(whole.lines)
    assert held["policy", "float32 copy of the base"] == held["policy", "gradients"] == 4000
    assert held["policy", "Adam's two moments"] == held["policy", "kept copies"] == 8000
    moments = whole.moments("cpu")
    assert moments[SAVING] - moments[UPDATING] == 4000 * (1 + HEAP_SHARE)  # the copy that is cast
    assert not any(line.role == "reference" for line in whole.lines)


def test_a_critic_of_its_own_is_trained_like_the_policy() -> None:
    held = sizes(predict(config(ppo={"critic": "adapter"}), Round()).lines)
    assert [held["critic", thing] for thing in ("adapter", "gradients", "Adam's two moments")] == [80, 80, 160]
    assert not any(role == "critic" for role, _ in sizes(predict(config(), Round()).lines))


def test_a_reward_model_is_trained_before_and_scores_after() -> None:
    trained = config(
        reward={"source": "trained", "rank": 3, "ensemble": 2}, feedback={"source": "simulated"}, lora={"dtype": "base"}
    )
    found = predict(trained, Round())
    held = sizes(found.lines)
    assert held["reward model", "adapters"] == 2 * 30 * 2
    assert held["reward model", "gradients"] == 60
    assert found.batches[REWARD] == Batch(64, 6, 4)  # 16 prompts x 4 completions; 4096 // 10 would be more
    assert held["reward model", "activations"] == 64_000
    assert held["reward model", "forward"] == 2 * 32
    assert found.peak("cpu")[0] == REWARD


def test_quantised_and_checkpointed() -> None:
    held = sizes(predict(config(model={"quantization": "nf4", "gradient_checkpointing": True}), Round()).lines)
    assert held["base", "frozen weights"] == 600
    assert held["base", "one layer unpacked"] == 50
    assert held["policy", "activations"] == 400


def test_offline_training_learns_from_chunks() -> None:
    dpo = parse_config({"algorithm": "dpo", "feedback": {"source": "preferences", "path": "x.jsonl"}})
    found = predict(dpo, Round())
    assert found.batches[LEARNING] == Batch(8, 256, 256)  # 4096 // offline.max_tokens = 512
    assert not any(line.thing == "kept copies" for line in found.lines)
    assert REWARD not in batches_of(dpo)


def fits(limit: int) -> Any:
    return lambda changed_config: predict(changed_config, Round()).peak("cpu")[1] <= limit


def test_the_mildest_of_each_option_that_suffices_alone() -> None:
    small = config(ppo={"micro_batch_tokens": 1000})
    assert predict(small, Round()).batches[LEARNING].rows == 8
    # 2000 + 480 + 77 = 2557, and 8 x 1005 x 1.15; the classifier on the GPU is not in it.
    assert predict(small, Round()).peak("cpu") == (LEARNING, 2557 + 9246)
    found = remedies(small, fits(7400))
    assert found == [{"model.gradient_checkpointing": True}, {"ppo.micro_batch_size": 4}]


def test_options_together_where_none_suffices_alone() -> None:
    small = config(ppo={"micro_batch_tokens": 1000})
    # Checkpointed: 8 rows of 105, with 15 %, are 966; 2 rows 242, 1 row 121.
    assert remedies(small, fits(2810)) == [{"model.gradient_checkpointing": True, "ppo.micro_batch_size": 2}]
    assert remedies(small, fits(1500)) == [
        {
            "model.gradient_checkpointing": True,
            "ppo.micro_batch_size": 1,
            "sampling.batch_size": 1,
            "model.quantization": "nf4",
        }
    ]
    assert remedies(small, fits(100)) == []


def test_what_is_not_to_be_had_is_not_proposed() -> None:
    whole = config(model={"train": "full", "gradient_checkpointing": True})
    keys = [key for values in choices(whole) for key in values[0]]
    assert keys == ["ppo.micro_batch_size", "sampling.batch_size", "model.train"]
    rows = [values["ppo.micro_batch_size"] for values in choices(config(ppo={"minibatch_size": 8}))[1]]
    assert rows == [2, 1]  # below the 4 that fit, divisors of 8


def test_changed_options_reach_their_sections() -> None:
    after = changed(config(), {"model.quantization": "nf4", "ppo.micro_batch_size": 1})
    assert (after.model.quantization, after.ppo.micro_batch_size, after.lora.rank) == ("nf4", 1, 2)


@pytest.mark.parametrize("algorithm", ["grpo", "best-of-n", "sft"])
def test_other_algorithms_have_no_critic(algorithm: str) -> None:
    values: dict[str, Any] = {"algorithm": algorithm, "feedback": {"source": "simulated"}}
    found = predict(parse_config(values), Round())
    assert not any(line.role == "critic" for line in found.lines)
    assert (LEARNING in found.moments("cpu")) == (algorithm != "best-of-n")
