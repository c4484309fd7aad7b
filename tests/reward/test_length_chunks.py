"""Texts of unequal length are trained on in groups of like length; the result does not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny

from humanward.config import LoraConfig, RewardConfig
from humanward.preferences import group_by_prompt
from humanward.records import Preference, Prompt
from humanward.reward import training
from humanward.reward.training import TrainingStep, length_chunks, train_reward_model


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_every_row_is_in_one_chunk_within_the_budget(lengths: list[int], budget: int) -> None:
    chunks = [chunk.tolist() for chunk in length_chunks(torch.tensor(lengths), budget)]
    assert sorted(row for chunk in chunks for row in chunk) == list(range(len(lengths)))
    for chunk in chunks:
        assert chunk
        assert len(chunk) == 1 or len(chunk) * max(lengths[row] for row in chunk) <= budget


def test_by_hand() -> None:
    assert [c.tolist() for c in length_chunks(torch.tensor([9, 2, 3, 8]), 10)] == [[1, 2], [3], [0]]
    assert [c.tolist() for c in length_chunks(torch.tensor([9, 2, 3, 8]), 36)] == [[0, 1, 2, 3]]


def losses(monkeypatch: pytest.MonkeyPatch, budget: int) -> list[float]:
    random = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(f"w{j}" for j in random.integers(5, 20, count))

    pairs = [
        Preference(f"p{i}", "a", "b", Prompt(f"p{i}", words(i % 9 + 1)), words(i % 7 + 1), words(i % 5 + 1))
        for i in range(16)
    ]
    monkeypatch.setattr(training.length_chunks, "__defaults__", (budget,))
    steps: list[TrainingStep] = []
    config = RewardConfig(epochs=2, batch_size=8, rank=4, max_tokens_trained=32)
    train_reward_model(
        tiny.shared_base(), group_by_prompt(pairs), config, LoraConfig(rank=4), seed=0, on_step=steps.append
    )
    return [step.loss for step in steps]


def test_grouping_changes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_allclose(losses(monkeypatch, 12), losses(monkeypatch, 10**6), rtol=1e-4)
