"""docs/ppo.md tells the truth: defaults, places in the code and test files exist as it says."""

from __future__ import annotations

import re
from pathlib import Path

from humanward.config import PPOConfig

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")


def test_every_setting_stands_there_with_its_default() -> None:
    rows = re.findall(r"^\| `ppo\.(\w+)` \| `([^`]+)` \|", TEXT, re.MULTILINE)
    assert dict(rows) == {name: str(field.default) for name, field in PPOConfig.model_fields.items()}
    assert [name for name, _ in rows] == list(PPOConfig.model_fields)


def test_every_place_in_the_code_exists() -> None:
    places = re.findall(r"`([a-z_]+/[a-z_]+\.py): (\w+)`", TEXT)
    assert len(places) > 25
    for file, name in places:
        source = (ROOT / "src" / "humanward" / file).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE), f"{file} defines no {name}"


def test_every_test_file_exists() -> None:
    files = re.findall(r"`(tests/[a-z_/]+\.py)`", TEXT)
    assert len(files) > 8
    for file in files:
        assert (ROOT / file).exists(), file
