"""Reward models on a toy whose right answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny

from humanward.config import LoraConfig, RewardConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead
from humanward.preferences import PromptPairs, group_by_prompt
from humanward.records import Preference, Prompt
from humanward.reward.model import ROLE, RewardModel, load_reward_model
from humanward.reward.training import TrainingStep, train_reward_model

LORA = LoraConfig(rank=4)


def preferences(count: int, seed: int, *, shuffled: bool = False) -> list[Preference]:
    """One pair a prompt: the better text holds the word w5, the other does not; ``shuffled`` tosses a coin instead."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        prompt = Prompt(f"q{seed}-{i}", " ".join(f"w{j}" for j in random.integers(6, 20, 2)))
        plain = [f"w{j}" for j in random.integers(6, 20, random.integers(2, 6))]
        with_word = list(plain)
        with_word[int(random.integers(len(plain)))] = "w5"
        better, worse = " ".join(with_word), " ".join(plain)
        if shuffled and random.random() < 0.5:
            better, worse = worse, better
        made.append(Preference(prompt.id, f"{i}a", f"{i}b", prompt, better, worse))
    return made


def train(pairs: list[Preference], **changes) -> tuple[RewardModel, list[TrainingStep]]:
    config = RewardConfig(
        **{"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "rank": 4, "max_tokens_trained": 32, **changes}
    )
    steps: list[TrainingStep] = []
    model = train_reward_model(tiny.shared_base(), group_by_prompt(pairs), config, LORA, seed=0, on_step=steps.append)
    return model, steps


def accuracy(model: RewardModel, pairs: list[Preference]) -> float:
    prompts = [p.prompt for p in pairs]
    above = model.score(prompts, [p.chosen for p in pairs])
    below = model.score(prompts, [p.rejected for p in pairs])
    return float((above > below).float().mean())


@pytest.fixture(scope="module")
def trained() -> tuple[RewardModel, list[TrainingStep]]:
    return train(preferences(160, seed=1))


def test_it_learns_what_is_preferred(trained) -> None:
    model, steps = trained
    assert accuracy(model, preferences(150, seed=2)) > 0.9
    assert [s.step for s in steps] == list(range(1, 31))
    assert {s.steps for s in steps} == {30}
    assert steps[-1].loss < 0.5 * steps[0].loss


def test_on_coin_tosses_it_learns_nothing() -> None:
    """150 held-out coin tosses: accuracy outside .5 +- .2 happens by chance with probability 1e-6."""
    model, _ = train(preferences(160, seed=1, shuffled=True))
    assert abs(accuracy(model, preferences(150, seed=2, shuffled=True)) - 0.5) < 0.2


def test_its_scores_are_anchored_on_the_completions(trained) -> None:
    model, _ = trained
    groups = group_by_prompt(preferences(160, seed=1))
    scores = model.score([g.prompt for g in groups for _ in g.texts], [t for g in groups for t in g.texts])
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1, rel=1e-4)


def test_training_moves_only_its_own_role() -> None:
    base = tiny.with_policy(tiny.shared_base(), moved=0.1)
    others = [(n, p) for n, p in base.model.named_parameters()]
    before = tiny.weights([p for _, p in others])
    config = RewardConfig(epochs=1, batch_size=8, rank=4, max_tokens_trained=32)
    train_reward_model(base, group_by_prompt(preferences(16, seed=1)), config, LORA, seed=0)
    assert tiny.same([p for _, p in others], before)
    assert not any(p.requires_grad for p in base.role_parameters(ROLE))
    assert base._role == "reference"


def test_training_repeats_with_its_seed() -> None:
    pairs = preferences(32, seed=1)
    first, second = train(pairs, epochs=1)[0], train(pairs, epochs=1)[0]
    assert torch.equal(
        first.score([pairs[0].prompt], [pairs[0].chosen]), second.score([pairs[0].prompt], [pairs[0].chosen])
    )


def test_ties_and_weights_reach_the_loss() -> None:
    """All pairs tied: the loss starts near log 2 and there is no accuracy to speak of."""
    import dataclasses

    tied = [dataclasses.replace(p, tie=True) for p in preferences(16, seed=1)]
    _, steps = train(tied, epochs=1)
    assert all(np.isnan(s.accuracy) for s in steps)
    assert steps[0].loss > 0.69


def test_each_completion_is_encoded_once_and_all_pairs_of_a_prompt_stay_together() -> None:
    prompt = Prompt("p", "w1")
    pairs = [
        Preference("p", "a", "b", prompt, "w5", "w6"),
        Preference("p", "a", "c", prompt, "w5", "w7"),
        Preference("p", "b", "c", prompt, "w6", "w7"),
    ]
    (group,) = group_by_prompt(pairs)
    assert isinstance(group, PromptPairs)
    assert group.texts == ("w5", "w6", "w7")
    base, seen = tiny.shared_base(), []
    real = base.encode
    base.encode = lambda prompts, texts, **options: seen.append(list(texts)) or real(prompts, texts, **options)
    config = RewardConfig(epochs=1, batch_size=4, rank=4, max_tokens_trained=32)
    train_reward_model(base, [group], config, LORA, seed=0)
    assert seen[0] == ["w5", "w6", "w7"]


def test_text_and_tokens_score_alike(trained) -> None:
    model, _ = trained
    pairs = preferences(40, seed=3)
    prompts, texts = [p.prompt for p in pairs], [p.chosen for p in pairs]
    by_text = model.score(prompts, texts, batch_size=7)
    by_tokens = model.score_tokens(model.base.encode(prompts, texts, limit=32), batch_size=40)
    torch.testing.assert_close(by_text, by_tokens, rtol=1e-4, atol=1e-5)


def test_bytes_score_alike_too() -> None:
    """A byte-level tokenizer round-trips any text, so sampled tokens and their text have one score."""
    base = tiny.byte_base()
    base.add_role(ROLE, LORA)
    model = RewardModel(base, ScoreHead(base.width, torch.Generator().manual_seed(0)), limit=64)
    prompts = [Prompt("a", "Why?"), Prompt("b", "Grüße, Welt")]
    texts = ["No reason.", "こんにちは"]
    assert [base.response_text(base.response_ids(t)) for t in texts] == texts
    ended = [True, False]
    by_text = model.score(prompts, texts, ended=ended)
    by_tokens = model.score_tokens(base.encode(prompts, texts, ended=ended))
    torch.testing.assert_close(by_text, by_tokens, rtol=1e-4, atol=1e-5)
    # A response that was cut off is another one than a response that ended.
    closed = model.score(prompts, texts)
    assert float(closed[0]) == pytest.approx(float(by_text[0]), rel=1e-4)
    assert abs(float(closed[1] - by_text[1])) > 1e-3


def test_order_and_batching_change_nothing(trained) -> None:
    model, _ = trained
    pairs = preferences(30, seed=4)
    prompts, texts = [p.prompt for p in pairs], [p.chosen for p in pairs]
    plain = model.score(prompts, texts, batch_size=1)
    torch.testing.assert_close(model.score(prompts, texts), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.score(prompts[::-1], texts[::-1]).flip(0), plain, rtol=1e-4, atol=1e-5)


def test_it_comes_back_from_its_folder(trained, tmp_path: Path) -> None:
    model, _ = trained
    model.save(tmp_path, {"accuracy": {"value": 0.9}})
    facts = json.loads((tmp_path / "reward_model.json").read_text())
    assert len(facts.pop("tokenizer_sha256")) == 64
    assert facts == {
        "accuracy": {"value": 0.9},
        "base": "tiny-llama",
        "limit": 32,
        "width": 16,
        "train": "adapter",
        "dtype": "float32",
        "quantization": "none",
        "system_prompt": None,
        "temperature": None,
        "ties": {"model": "half", "parameter": None},
    }
    again = load_reward_model(tiny.shared_base(), tmp_path)
    pairs = preferences(20, seed=5)
    prompts, texts = [p.prompt for p in pairs], [p.chosen for p in pairs]
    assert torch.equal(again.score(prompts, texts), model.score(prompts, texts))
    assert again.limit == 32


def test_another_base_is_refused(trained, tmp_path: Path) -> None:
    model, _ = trained
    model.save(tmp_path, {})
    with pytest.raises(InputError, match=r"is a reward model on tiny-llama .*the policy is tiny-gpt2") as caught:
        load_reward_model(tiny.shared_base("gpt2"), tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"width 16.*width 32"):
        load_reward_model(tiny.shared_base(hidden_size=32), tmp_path)


def test_another_tokenizer_of_the_same_base_is_refused(trained, tmp_path: Path) -> None:
    """Ids that mean other words; a padding token of its own changes no meaning."""
    model, _ = trained
    model.save(tmp_path, {})
    load_reward_model(tiny.shared_base(tokenizer=tiny.word_tokenizer(pad=False)), tmp_path)
    with pytest.raises(InputError, match=r"was trained with another tokenizer than tiny-llama has now") as caught:
        load_reward_model(tiny.shared_base(tokenizer=tiny.word_tokenizer(stops=("stop",))), tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no reward_model\.json"):
        load_reward_model(tiny.shared_base(), tmp_path)


def test_no_preferences_are_refused() -> None:
    with pytest.raises(ValueError, match="no preferences"):
        train_reward_model(tiny.shared_base(), [], RewardConfig(), LORA, seed=0)


@pytest.mark.parametrize("name", ["gemma2", "t5-tied"])
def test_other_architectures_train(name: str) -> None:
    base: SharedBase = tiny.shared_base(name)
    config = RewardConfig(epochs=1, batch_size=8, rank=4, max_tokens_trained=32)
    model = train_reward_model(base, group_by_prompt(preferences(16, seed=1)), config, LORA, seed=0)
    assert bool(torch.isfinite(model.score([Prompt("p", "w1")], ["w5 w6"])).all())
