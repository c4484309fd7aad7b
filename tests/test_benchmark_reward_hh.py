"""benchmarks/reward_hh.py without its training: what it reckons, that it resumes, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import reward_hh

from humanward.errors import InputError
from humanward.records import Preference, Prompt


def pairs(count: int) -> list[Preference]:
    """The chosen answer is the longer one in three of four pairs and always holds "please"."""
    made = []
    for i in range(count):
        filler = "word " * (3 if i % 4 else 0)
        prompt = Prompt(f"p{i}", f"question {i}")
        made.append(Preference(prompt.id, "a", "b", prompt, f"please {filler}{i}", f"never {i} and more"))
    return made


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reward_hh, "read_pairs", lambda data, limit: pairs(60)[:limit])
    judged: list[int] = []

    def judge(train, test, options, fold):
        """Right in all pairs but every third, by differences of 3 where right and 1 where wrong."""
        judged.append(fold)
        assert not {p.prompt_id for p in train} & {p.prompt_id for p in test}
        return np.array([[0.0, 1.0] if i % 3 == 0 else [3.0, 0.0] for i in range(len(test))])

    monkeypatch.setattr(reward_hh, "judge", judge)
    given = reward_hh.parse(["--out", str(tmp_path / "out"), "--folds", "3"])
    given.judged = judged
    return given


def test_every_pair_is_judged_once_and_a_stopped_run_goes_on(options) -> None:
    options.only_fold = [0]
    one = reward_hh.measure(options)
    options.only_fold = None
    found = reward_hh.measure(options)
    assert options.judged == [0, 1, 2]
    assert found["folds"][0]["pairs"] == one["pairs"]
    assert found["pairs"] == sum(fold["pairs"] for fold in found["folds"]) == 60
    assert found["accuracy"]["reward_model"]["value"] == pytest.approx(2 / 3, abs=0.05)
    assert found["accuracy"]["linear"]["value"] == 1.0
    own, length = (found["accuracy"][name]["value"] for name in ("reward_model", "length"))
    assert found["difference"]["to_length"]["mean"] == pytest.approx(own - length)
    assert set(found["calibration"]["temperatures"]) == {"0", "1", "2"}
    assert found["calibration"]["after"]["nll"] <= found["calibration"]["before"]["nll"]


def test_folds_of_other_settings_are_not_mixed(options) -> None:
    reward_hh.measure(options)
    options.epochs = 7
    with pytest.raises(InputError, match="was made with other settings; name a new folder with --out"):
        reward_hh.measure(options)
