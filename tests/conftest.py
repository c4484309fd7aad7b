"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside the repository; tests that need it are listed as not run where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data sets in {SHARED.parent.name}/shared, which is absent")
    return SHARED
