"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli import tiny_models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with chat/ (template), plain/ (no template, no pad), roberta/ (nothate, hate) and bert/ (toxic ...)."""
    return tiny_models.all_of_them(tmp_path_factory.mktemp("tiny"))
