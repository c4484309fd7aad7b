"""Rules, functions, weighted sums: scores worked out by hand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from humanward.errors import InputError
from humanward.records import Message, Prompt
from humanward.reward.combined import Anchor, CombinedReward, Part, anchor_on
from humanward.reward.function import FunctionReward
from humanward.reward.rules import MEASURES, LengthRule, PatternRule, read_words, word_pattern
from humanward.reward.sources import Scored, SourceError, in_detail

ASKED = [Prompt("p", "why?")] * 3


def test_length() -> None:
    texts = ["one two three", "", "  four\n words are here "]
    assert LengthRule(MEASURES["word"]).score(ASKED, texts).tolist() == [3, 0, 4]
    assert LengthRule(MEASURES["character"]).score(ASKED, ["abc", "", "ä "]).tolist() == [3, 0, 2]
    assert LengthRule(MEASURES["word"], target=4).score(ASKED, texts).tolist() == [-0.25, -1, 0]


def test_patterns() -> None:
    texts = ["no!! NO!!!", "fine", "ok!!"]
    count = PatternRule(re.compile("!{2,}"))
    assert count.score(ASKED, texts).tolist() == [2, 0, 1]
    assert PatternRule(re.compile("!{2,}"), "presence").score(ASKED, texts).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("I am SORRY, sorry!", 2),
        ("sorrynot not_sorry", 0),
        ("New   York and new\nyork", 2),
        ("C++ is not C", 1),
        ("ärger", 1),
        ("", 0),
    ],
)
def test_words_are_found_whole(text: str, count: int) -> None:
    pattern = word_pattern(["sorry", "new york", "C++", "Ärger"], ignore_case=True)
    assert PatternRule(pattern).score(ASKED[:1], [text]).tolist() == [count]


def test_the_longest_of_the_words_is_found_and_case_may_matter() -> None:
    assert (
        PatternRule(word_pattern(["not", "not at all"], ignore_case=True)).score(ASKED[:1], ["not at all"]).item() == 1
    )
    assert PatternRule(word_pattern(["Sorry"], ignore_case=False)).score(ASKED[:1], ["sorry Sorry"]).item() == 1


def test_words_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("sorry\n\n afraid so \n", encoding="utf-8")
    assert read_words(file) == ["sorry", "afraid so"]
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"words\.txt: holds no words"):
        read_words(file)
    with pytest.raises(InputError, match=r"none\.txt: not a readable UTF-8 file"):
        read_words(tmp_path / "none.txt")


# --- functions -------------------------------------------------------------------------------------------------------

MODULE = """
import numpy
calls = []
def politeness(prompts, responses):
    calls.append((prompts, responses))
    return [r.count("please") - 0.5 for r in responses]
def as_array(prompts, responses):
    return numpy.arange(len(responses), dtype=numpy.float32)
def lazily(prompts, responses):
    return (len(r) for r in responses)
def too_few(prompts, responses):
    return [1.0] * (len(responses) - 1)
def words(prompts, responses):
    return ["good"] * len(responses)
def missing(prompts, responses):
    return [None] * len(responses)
def one(prompts, responses):
    return 3.0
def infinite(prompts, responses):
    return [float("inf")] * len(responses)
def broken(prompts, responses):
    raise KeyError("tone\\nand more")
def broken_late(prompts, responses):
    return (1 / 0 for r in responses)
constant = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"rewards_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_function_is_given_texts_and_gives_numbers(module: str) -> None:
    chat = Prompt("p", "now", (Message("user", "first"), Message("assistant", "yes"), Message("user", "now")))
    source = FunctionReward(f"{module}:politeness")
    assert source.score([chat, ASKED[0]], ["please, please", "no"]).tolist() == [1.5, -0.5]
    assert sys.modules[module].calls == [(["now", "why?"], ["please, please", "no"])]
    assert source.score([], []).tolist() == []
    assert FunctionReward(f"{module}:as_array").score(ASKED, ["a", "b", "c"]).tolist() == [0, 1, 2]
    assert FunctionReward(f"{module}:lazily").score(ASKED, ["a", "bb", ""]).tolist() == [1, 2, 0]
    assert str(Path.cwd()) not in sys.path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("too_few", "gave 2 scores for 3 responses"),
        ("words", "gave 'good' as score 1 of 3, not a finite number"),
        ("missing", "gave None as score 1 of 3"),
        ("one", "gave 3.0, not a list of numbers"),
        ("infinite", "gave inf as score 1 of 3"),
        ("broken", r"raised KeyError: 'tone\nand more' on 3 responses"),
        ("broken_late", "raised ZeroDivisionError: division by zero on 3 responses"),
    ],
)
def test_a_function_that_gives_no_scores_stops(module: str, name: str, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        FunctionReward(f"{module}:{name}").score(ASKED, ["a", "b", "c"])
    assert f"{module}:{name}" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module_anywhere:f", "no module no_such_module_anywhere in"),
        ("{}:nothing", "has no nothing"),
        ("{}:constant", "has something else than a function as constant"),
        ("needs_more:f", "importing needs_more needs the module not_installed_here; install it"),
        ("raises_here:f", "importing raises_here raised ValueError: bad day"),
    ],
)
def test_a_function_that_is_not_there(module: str, path: str, words: str) -> None:
    Path("needs_more.py").write_text("import not_installed_here\n")
    Path("raises_here.py").write_text("raise ValueError('bad day')\n")
    with pytest.raises(InputError) as caught:
        FunctionReward(path.format(module))
    assert words in str(caught.value)


# --- sums ------------------------------------------------------------------------------------------------------------


class Fixed:
    def __init__(self, scores: list[float], parts: dict[str, list[float]] | None = None) -> None:
        self.name, self.scores, self.parts = "fixed", torch.tensor(scores), parts
        if parts is not None:
            self.detail = lambda prompts, responses: Scored(
                self.scores, {name: torch.tensor(values) for name, values in parts.items()}
            )

    def score(self, prompts: Any, responses: Any) -> torch.Tensor:
        return self.scores


def test_a_weighted_sum_of_anchored_scores() -> None:
    """First response: 2 (3 - 1) / 4 - 0.5 * 10 = -4; second: 2 (5 - 1) / 4 - 0.5 * 0 = 2."""
    ensemble = Fixed([10.0, 0.0], {"member-1": [9.0, 1.0], "disagreement": [1.0, 1.0]})
    reward = CombinedReward([Part("a", Fixed([3.0, 5.0]), 2.0, Anchor(1.0, 4.0)), Part("b", ensemble, -0.5)])
    found = in_detail(reward, ASKED[:2], ["x", "y"])
    assert found.scores.tolist() == [-4, 2]
    assert reward.score(ASKED[:2], ["x", "y"]).tolist() == [-4, 2]
    assert {name: values.tolist() for name, values in found.parts.items()} == {
        "a": [3, 5],
        "b": [10, 0],
        "b-member-1": [9, 1],
        "b-disagreement": [1, 1],
    }
    assert reward.name == "2 a + -0.5 b"


def test_an_anchor_is_the_mean_and_the_deviation() -> None:
    """Mean 3 of 1, 3, 5; deviation sqrt(8 / 3)."""
    anchor = anchor_on(torch.tensor([1.0, 3.0, 5.0]), "x", "y")
    assert anchor.shift == pytest.approx(3)
    assert anchor.scale == pytest.approx(np.sqrt(8 / 3))
    assert anchor(torch.tensor([3.0])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([0.0, 0.0], "its scores of 2 reference samples are all 0, so it cannot be anchored"),
        ([1e6, 1e6], "are all 1e"),
        ([float("nan"), 1.0], "could not score every reference sample"),
        ([], "its scores of 0 reference samples are none"),
    ],
)
def test_scores_that_do_not_vary_have_no_anchor(scores: list[float], words: str) -> None:
    with pytest.raises(InputError) as caught:
        anchor_on(torch.tensor(scores), "reward.sources: shouting", "set its anchor = false")
    assert words in str(caught.value)
    assert "set its anchor = false" in str(caught.value)
