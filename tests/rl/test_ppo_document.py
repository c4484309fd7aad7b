"""docs/ppo.md tells the truth: defaults, places in the code and test files exist as it says."""

from __future__ import annotations

import re
from pathlib import Path

from humanward.algorithm_config import PPOConfig

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


def test_every_test_exists() -> None:
    """Files, and the functions named behind them as pytest names them."""
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::(\w+))?`", TEXT)
    assert len({name for _, name in named}) > 50
    for file, name in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file} defines no {name}"


def test_every_check_that_is_named_runs() -> None:
    """A check in checks.py counts only where a test runs it."""
    checks = set(re.findall(r"`tests/rl/checks\.py::(\w+)`", TEXT))
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "rl").glob("test_*.py"))
    assert checks
    assert not [name for name in checks if f"checks.{name}" not in tests]


def test_nothing_else_is_called_a_test() -> None:
    """The table holds no name that the two tests above would overlook."""
    table = TEXT.partition("## How it is proved")[2]
    assert re.findall(r"`(tests/[^`]*)`", table)
    assert not [
        name for name in re.findall(r"`(tests/[^`]*)`", table) if not re.fullmatch(r"tests/[a-z_/]+\.py(::\w+)?", name)
    ]
