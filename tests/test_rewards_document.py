"""docs/rewards.md: its configurations load, it names every key with its default, and what it says is sent is sent."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from humanward.config import RunConfig, parse_config
from humanward.records import Prompt
from humanward.reward.remote import RemoteReward
from humanward.reward_config import KINDS, ClassifierOptions, HttpSource, RewardConfig

TEXT = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("toml"))
def test_its_configurations_load(block: str) -> None:
    assert isinstance(parse_config(tomllib.loads(block)), RunConfig)


def section(title: str) -> str:
    """What stands below a heading, to the next of its level or above."""
    level, prose = title.count("#"), re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    start = prose.index(f"{title}\n")
    return re.split(rf"^#{{1,{level}}} ", prose[start + len(title) :], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_every_kind_is_named(kind: str) -> None:
    words = section(f'### kind = "{kind}"')
    shared = ("kind", "name", "weight", "anchor")
    assert [key for key in KINDS[kind].model_fields if key not in shared and f"`{key}`" not in words] == []
    assert [key for key in shared if f"| `{key}` |" not in section("## Several sources")] == []


def test_every_key_of_the_reward_is_named() -> None:
    keys = [key for model in (RewardConfig, ClassifierOptions) for key in model.model_fields]
    assert [key for key in keys if not re.search(rf"`(reward\.)?{key}`|\[reward\.{key}\]", TEXT)] == []


@pytest.mark.parametrize(
    ("title", "model"),
    [("## Ready-made classifiers", ClassifierOptions), *((f'### kind = "{k}"', m) for k, m in KINDS.items())],
)
def test_defaults_are_as_written(title: str, model: Any) -> None:
    for key, default in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section(title), flags=re.MULTILINE):
        field = model.model_fields.get(key) or RewardConfig.model_fields[key]
        told = default.strip().strip("`")
        if told == "required":
            assert field.is_required(), key
        elif field.default in (None, ""):
            assert told in ("none", "", "its own", "the classifier's limit", "model.device", "its kind"), key
        else:
            written = str(field.default)
            assert told == (written.lower() if isinstance(field.default, bool) else written), key


def test_the_request_is_the_one_that_is_sent() -> None:
    ours, answer = blocks("json")
    config = HttpSource(kind="http", url="http://127.0.0.1:9/")
    assert RemoteReward(config)._request([Prompt("p", "why?")], ["Because."]) == json.loads(ours)
    assert RemoteReward(config)._scores(json.loads(answer), 1).tolist() == [0.25]
    config = HttpSource(kind="http", url="http://127.0.0.1:9/", format="classification", label="nothate")
    sent, whole, alone = re.findall(r"`(\{\"inputs\"[^`]*|\[+\{[^`]*)`", section('### kind = "http"'))
    assert RemoteReward(config)._request([Prompt("p", "why?")], ["Because."]) == json.loads(sent)
    for text in (whole, alone):
        assert RemoteReward(config)._scores(json.loads(text), 1).tolist() == pytest.approx([0.9])
