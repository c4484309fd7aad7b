"""The invariances of padding, order and repetition, on every architecture family; parity is in test_parity.py."""

from __future__ import annotations

import pytest
import torch
from models import tiny

from humanward.models import states
from humanward.models.tokens import Tokens, make_tokens

FAMILIES = (*tiny.PLAIN, *tiny.CAPPED, *tiny.ENCODER_DECODER)
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
"""Rounding of float32 log-probabilities of a few nats."""


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest):
    return tiny.shared_base(request.param)


@torch.no_grad()
def statistics(base, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, _, hidden = base.logprobs(tokens)
    return logprobs, hidden


def check_left_padding(base) -> None:
    """Five more columns of padding on the left, whatever stands in them, change nothing."""
    tokens = tiny.tokens()
    rubbish = torch.full((3, 5), 7)
    wide = Tokens(
        torch.cat([rubbish, tokens.prompt_ids], 1),
        torch.cat([torch.zeros(3, 5).bool(), tokens.prompt_mask], 1),
        tokens.response_ids,
        tokens.response_mask,
    )
    torch.testing.assert_close(statistics(base, wide)[0], statistics(base, tokens)[0], **CLOSE)


def test_left_padding_changes_nothing(base) -> None:
    check_left_padding(base)


def test_a_padded_batch_equals_bare_rows(base) -> None:
    logprobs, hidden = statistics(base, tiny.tokens())
    for row, (prompt, response) in enumerate(zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)):
        alone, states_alone = statistics(base, tiny.tokens([prompt], [response]))
        torch.testing.assert_close(logprobs[row, : len(response)], alone[0], **CLOSE)
        torch.testing.assert_close(hidden[row, : len(response) + 1], states_alone[0], rtol=1e-4, atol=1e-4)


def test_right_padding_and_permutation_change_nothing(base) -> None:
    tokens = tiny.tokens()
    logprobs, _ = statistics(base, tokens)
    wide = Tokens(
        tokens.prompt_ids,
        tokens.prompt_mask,
        torch.cat([tokens.response_ids, torch.full((3, 4), tiny.PAD)], 1),
        torch.cat([tokens.response_mask, torch.zeros(3, 4).bool()], 1),
    )
    torch.testing.assert_close(statistics(base, wide)[0][:, :5], logprobs, **CLOSE)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(statistics(base, tokens[order])[0], logprobs[order], **CLOSE)


def test_tokens_after_the_end_influence_nothing(base) -> None:
    tokens = tiny.tokens()
    logprobs, hidden = statistics(base, tokens)
    other = Tokens(
        tokens.prompt_ids,
        tokens.prompt_mask,
        torch.where(tokens.response_mask, tokens.response_ids, 11),
        tokens.response_mask,
    )
    changed, hidden_changed = statistics(base, other)
    assert torch.equal(logprobs, changed)
    last = states.last_state(hidden, tokens.response_mask)
    assert torch.equal(last, states.last_state(hidden_changed, tokens.response_mask))


def test_a_token_depends_on_what_precedes_it_and_not_on_itself(base) -> None:
    """State j is read before token j: changing token 1 leaves states 0 and 1 and moves state 2."""
    first, second = make_tokens([[1, 2, 3]], [[5, 6, 7]], tiny.PAD), make_tokens([[1, 2, 3]], [[5, 9, 7]], tiny.PAD)
    with torch.no_grad():
        a, b = base.states(first), base.states(second)
    assert a.shape == (1, 4, base.width)
    assert torch.equal(a[:, :2], b[:, :2])
    assert float((a[:, 2] - b[:, 2]).abs().max()) > 1e-3


def test_two_forwards_are_bitwise_equal(base) -> None:
    assert torch.equal(statistics(base, tiny.tokens())[0], statistics(base, tiny.tokens())[0])


def test_which_models_use_their_own_forward() -> None:
    """Capped or scaled logits, and T5 with tied embeddings (which scales), cannot use the bare output matrix."""
    for name in FAMILIES:
        base = tiny.shared_base(name)
        own_forward = name in (*tiny.CAPPED, "t5-tied")
        assert base._own_head is not own_forward, name
        assert any("scales or caps" in line for line in base.notices) is own_forward, name


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_divides_logits_of_own_forwards_too(temperature: float) -> None:
    base, tokens = tiny.shared_base("gemma2"), tiny.tokens([[1, 2]], [[3, 4]])
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([[1, 2, 3, 4]])).logits[0, 1:3] / temperature
        logprobs, _, _ = base.logprobs(tokens, temperature=temperature)
    expected = logits.log_softmax(-1)[torch.arange(2), torch.tensor([3, 4])]
    torch.testing.assert_close(logprobs[0], expected, **CLOSE)
