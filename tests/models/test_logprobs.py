"""Log-probabilities and entropies from logits, in one chunk and in many."""

from __future__ import annotations

import math

import pytest
import torch

from humanward.models import logprobs as module
from humanward.models.logprobs import token_statistics


def statistics(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, **options):
    return token_statistics(
        logits, ids, mask, lambda chunk: chunk, vocabulary=logits.shape[-1], **{"temperature": 1.0, **options}
    )


def test_uniform_logits_have_entropy_log_v() -> None:
    ids, mask = torch.zeros(2, 3).long(), torch.tensor([[True, True, True], [True, False, False]])
    for temperature in (0.5, 1.0, 2.0):
        logprobs, entropies = statistics(torch.full((2, 3, 7), 4.0), ids, mask, temperature=temperature, entropy=True)
        torch.testing.assert_close(entropies[mask], torch.full((4,), math.log(7)))
        torch.testing.assert_close(logprobs[mask], torch.full((4,), -math.log(7)))
        assert not bool(entropies[~mask].any())
        assert not bool(logprobs[~mask].any())


def test_the_temperature_divides_the_logits() -> None:
    """Logits [log 9, 0]. T = 1: p = .9, .1. T = 2: sqrt 9 : 1 = 3 : 1, so p = .75, .25."""
    logits = torch.tensor([[[math.log(9), 0.0]]])
    ids, mask = torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    for temperature, p in ((1.0, 0.9), (2.0, 0.75)):
        logprobs, entropies = statistics(logits, ids, mask, temperature=temperature, entropy=True)
        assert float(logprobs) == pytest.approx(math.log(p), rel=1e-5)
        assert float(entropies) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-5)


def test_chunks_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 5, (3, 4), generator=generator)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    results = []
    for elements in (10_000, 10):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
        logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        logprobs, entropies = statistics(logits, ids, mask, temperature=0.7, entropy=True)
        (logprobs * torch.arange(12.0).view(3, 4)).sum().backward()
        results.append((logprobs.detach(), entropies, logits.grad))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked)


def test_no_real_token_gives_zeros() -> None:
    logprobs, entropies = statistics(torch.ones(1, 2, 3), torch.zeros(1, 2).long(), torch.zeros(1, 2).bool())
    assert logprobs.tolist() == [[0.0, 0.0]]
    assert entropies.tolist() == [[0.0, 0.0]]


def test_what_stands_on_padding_is_never_read() -> None:
    logits = torch.tensor([[[0.0, 0.0], [float("nan"), 1.0]]])
    logprobs, _ = statistics(logits, torch.zeros(1, 2).long(), torch.tensor([[True, False]]))
    torch.testing.assert_close(logprobs, torch.tensor([[-math.log(2), 0.0]]))
