"""Padded batches."""

from __future__ import annotations

import torch

from humanward.models.states import last_state, positions
from humanward.models.tokens import make_tokens, pad_left, pad_right


def test_prompts_are_padded_on_the_left_and_responses_on_the_right() -> None:
    batch = make_tokens([[1], [2, 3]], [[4, 5, 6], [7]], pad=9)
    assert batch.prompt_ids.tolist() == [[9, 1], [2, 3]]
    assert batch.prompt_mask.tolist() == [[False, True], [True, True]]
    assert batch.response_ids.tolist() == [[4, 5, 6], [7, 9, 9]]
    assert batch.response_mask.tolist() == [[True, True, True], [True, False, False]]
    assert len(batch) == 2


def test_a_real_token_that_equals_the_padding_stays_real() -> None:
    ids, mask = pad_right([[9, 9], [1]], 9)
    assert ids.tolist() == [[9, 9], [1, 9]]
    assert mask.tolist() == [[True, True], [True, False]]
    ids, mask = pad_left([[9, 9], [1]], 9)
    assert mask.tolist() == [[True, True], [False, True]]


def test_an_empty_response_keeps_one_masked_column() -> None:
    ids, mask = pad_right([[], []], 9)
    assert ids.tolist() == [[9], [9]]
    assert not bool(mask.any())


def test_trimming_removes_padding_alone() -> None:
    wide = make_tokens([[1, 2, 3], [4]], [[5], [6, 7, 8]], pad=9)
    narrow = wide[torch.tensor([1])].trimmed()
    assert narrow.prompt_ids.tolist() == [[4]]
    assert narrow.response_ids.tolist() == [[6, 7, 8]]
    narrow = wide[torch.tensor([0])].trimmed()
    assert narrow.prompt_ids.tolist() == [[1, 2, 3]]
    assert narrow.response_ids.tolist() == [[5]]
    assert wide.trimmed().response_ids.shape == (2, 3)


def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[False, False, True, True, True], [True, True, True, False, False]])
    assert positions(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]


def test_the_last_state_stands_after_the_last_real_token() -> None:
    hidden = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert last_state(hidden, mask).tolist() == [[3.0], [5.0]]
