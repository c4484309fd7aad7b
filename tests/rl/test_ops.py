"""Masked reductions and whitening against numbers worked by hand."""

from __future__ import annotations

import math
import threading

import pytest
import torch

from humanward.rl import ops
from humanward.rl.ops import masked_mean, masked_sum, masked_variance, whiten

NAN = float("nan")


def check_whitening_golden(whiten=whiten) -> None:
    """1.2, 1.3 ... 2.0: mean 1.6; deviations .1 k for k = -4..4, so the population variance is .01 * 60 / 9 = 1/15.

    White value: .1 k / sqrt(1/15 + 1e-8); with the mean kept, 1.6 is added back.
    """
    values = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]], dtype=torch.float64)
    mask = torch.ones_like(values).bool()
    white = [0.1 * k / math.sqrt(1 / 15 + 1e-8) for k in range(-4, 5)]
    torch.testing.assert_close(
        whiten(values, mask).flatten(), torch.tensor(white, dtype=torch.float64), rtol=1e-6, atol=1e-12
    )
    kept = whiten(values, mask, shift_mean=False).flatten()
    torch.testing.assert_close(kept, torch.tensor([1.6 + w for w in white], dtype=torch.float64), rtol=1e-6, atol=1e-12)
    published = [0.0508, 0.4381, 0.8254, 1.2127, 1.6, 1.9873, 2.3746, 2.7619, 3.1492]
    torch.testing.assert_close(kept, torch.tensor(published, dtype=torch.float64), rtol=0, atol=5.1e-5)


def test_whitening_golden() -> None:
    check_whitening_golden()


def test_padding_is_ignored_even_when_it_is_nan() -> None:
    values = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, torch.inf]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert float(masked_sum(values, mask)) == 9.0
    assert float(masked_mean(values, mask)) == 3.0
    # ((1-3)^2 + (2-3)^2 + (6-3)^2) / 3 = 14/3, divided by the count and not by the count less one
    assert float(masked_variance(values, mask)) == pytest.approx(14 / 3, rel=1e-12)
    white = whiten(values, mask)
    scale = 1 / math.sqrt(14 / 3 + 1e-8)
    expected = torch.tensor([[-2 * scale, -scale, 0], [3 * scale, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(white, expected, rtol=1e-6, atol=0)


def test_whitening_reads_the_whole_batch_not_rows() -> None:
    """Two rows of equal values: row statistics would give 0 everywhere; the batch's give -1 and 1."""
    values = torch.tensor([[1.0, 1.0], [3.0, 3.0]], dtype=torch.float64)
    white = whiten(values, torch.ones_like(values).bool())
    torch.testing.assert_close(white, torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64), rtol=1e-6, atol=0)


def test_processes_whiten_with_the_moments_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, here threads whose sums meet at a barrier: 1, 2, 3 in one and 10 in the other.

    All four: mean 4, population variance (9 + 4 + 1 + 36) / 4 = 12.5. Alone, 10 would become 0.
    """
    rows = [torch.tensor([[1.0, 2.0], [3.0, NAN]]).double(), torch.tensor([[10.0, NAN], [NAN, NAN]]).double()]
    gate, given, found = threading.Barrier(2, timeout=60), [torch.zeros(()), torch.zeros(())], [rows[0], rows[1]]
    own = threading.local()

    def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
        given[own.rank] = tensor
        gate.wait()
        total = given[0] + given[1]
        gate.wait()
        return total

    def process(rank: int) -> None:
        own.rank = rank
        found[rank] = whiten(rows[rank], ~rows[rank].isnan())

    monkeypatch.setattr(ops, "all_reduce_sum", all_reduce_sum)
    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    s = math.sqrt(12.5 + 1e-8)
    expected = [[[-3 / s, -2 / s], [-1 / s, 0]], [[6 / s, 0], [0, 0]]]
    for ours, by_hand in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_floor_of_the_variance_is_1e_8() -> None:
    """0 and 2e-4: mean 1e-4, variance 1e-8, so -+1e-4 / sqrt(2e-8) = -+1 / sqrt 2 and not -+1."""
    white = whiten(torch.tensor([[0.0, 2e-4]], dtype=torch.float64), torch.ones(1, 2).bool())
    expected = torch.tensor([[-math.sqrt(0.5), math.sqrt(0.5)]], dtype=torch.float64)
    torch.testing.assert_close(white, expected, rtol=1e-6, atol=0)


def test_equal_values_whiten_to_zero_and_not_to_nan() -> None:
    white = whiten(torch.full((2, 3), 7.0, dtype=torch.float64), torch.ones(2, 3).bool())
    assert torch.equal(white, torch.zeros(2, 3, dtype=torch.float64))


def test_an_empty_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="selects no token"):
        masked_mean(torch.ones(2, 2), torch.zeros(2, 2).bool())
