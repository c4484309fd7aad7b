"""docs/offline.md tells the truth: defaults, users, places in the code, alarms and test files exist as it says."""

from __future__ import annotations

import re
from pathlib import Path

from humanward.algorithm_config import OFF_POLICY, OfflineConfig, options_of
from humanward.offline import alarms

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "offline.md").read_text(encoding="utf-8")


def test_every_setting_stands_there_with_its_default() -> None:
    rows = re.findall(r"^\| `offline\.(\w+)` \| `([^`]+)` \|", TEXT, re.MULTILINE)
    assert dict(rows) == {name: str(field.default) for name, field in OfflineConfig.model_fields.items()}
    assert [name for name, _ in rows] == list(OfflineConfig.model_fields)


def test_every_setting_names_the_algorithms_that_use_it() -> None:
    rows = re.findall(r"^\| `offline\.(\w+)` \| `[^`]+` \| ([^|]+) \|", TEXT, re.MULTILINE)
    for name, users in rows:
        using = [algorithm for algorithm in OFF_POLICY if name in options_of(algorithm)["offline"]]
        assert users == ("all" if len(using) == len(OFF_POLICY) else ", ".join(using)), name


def test_every_place_in_the_code_exists() -> None:
    places = re.findall(r"`((?:[a-z_]+/)?[a-z_]+\.py): (\w+)`", TEXT)
    assert len(places) > 25
    for file, name in places:
        source = (ROOT / "src" / "humanward" / file).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE), f"{file} defines no {name}"


def test_every_test_file_exists() -> None:
    files = re.findall(r"`(tests/[a-z_/]+\.py)`", TEXT)
    assert len(files) > 8
    for file in files:
        assert (ROOT / file).exists(), file


def test_every_alarm_stands_there() -> None:
    section = TEXT.split("## Alarms")[1].split("## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    source = Path(alarms.__file__).read_text(encoding="utf-8")
    sounded = set(re.findall(r"Alarm\(\s*\"(\w+)\"", source))
    assert set(named) == sounded
