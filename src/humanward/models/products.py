"""Matrix products of bfloat16 numbers with float32 results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_SETTING: Any = getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", None)


@contextmanager
def of_bfloat16_values() -> Iterator[None]:
    """Inside, float32 products on the CPU may round their factors to bfloat16.

    For factors that hold bfloat16 values already nothing is rounded: the products are exact and their sums float32, at
    two to three times the speed. Elsewhere than on the CPU, and under a PyTorch without the setting, nothing changes.
    """
    if _SETTING is None:
        yield
        return
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
