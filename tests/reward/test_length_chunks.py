"""Prompts with texts of unequal length are trained on in chunks of like length; the result does not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import tiny

from humanward.config import LoraConfig, RewardConfig
from humanward.models.chunks import length_chunks
from humanward.preferences import group_by_prompt
from humanward.records import Preference, Prompt
from humanward.reward.training import TrainingStep, train_reward_model


@given(st.lists(st.tuples(st.integers(2, 5), st.integers(1, 50)), min_size=1, max_size=40), st.integers(1, 300))
def test_every_prompt_is_in_one_chunk_within_the_budget(extents: list[tuple[int, int]], budget: int) -> None:
    chunks = length_chunks(extents, budget)
    assert sorted(number for chunk in chunks for number in chunk) == list(range(len(extents)))
    for chunk in chunks:
        assert chunk
        padded = sum(extents[i][0] for i in chunk) * max(extents[i][1] for i in chunk)
        assert len(chunk) == 1 or padded <= budget


def test_by_hand() -> None:
    extents = [(2, 9), (2, 2), (2, 3), (2, 8)]
    assert length_chunks(extents, 20) == [[1, 2], [3], [0]]
    assert length_chunks(extents, 72) == [[0, 1, 2, 3]]


def losses(monkeypatch: pytest.MonkeyPatch, budget: int) -> list[float]:
    random = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(f"w{j}" for j in random.integers(5, 20, count))

    pairs = [
        Preference(f"p{i}", "a", "b", Prompt(f"p{i}", words(i % 9 + 1)), words(i % 7 + 1), words(i % 5 + 1))
        for i in range(16)
    ]
    monkeypatch.setattr(length_chunks, "__defaults__", (budget,))
    steps: list[TrainingStep] = []
    config = RewardConfig(epochs=2, batch_size=8, rank=4, max_tokens_trained=32)
    train_reward_model(
        tiny.shared_base(), group_by_prompt(pairs), config, LoraConfig(rank=4), seed=0, on_step=steps.append
    )
    return [step.loss for step in steps]


def test_grouping_changes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one, together = losses(monkeypatch, 12), losses(monkeypatch, 10**6)
    np.testing.assert_allclose(one_by_one, together, rtol=1e-4)
    assert together[0] != together[-1]
