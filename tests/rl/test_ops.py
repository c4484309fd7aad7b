"""Masked reductions and whitening against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

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


def test_equal_values_whiten_to_zero_and_not_to_nan() -> None:
    white = whiten(torch.full((2, 3), 7.0, dtype=torch.float64), torch.ones(2, 3).bool())
    assert torch.equal(white, torch.zeros(2, 3, dtype=torch.float64))


def test_an_empty_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="selects no token"):
        masked_mean(torch.ones(2, 2), torch.zeros(2, 2).bool())
