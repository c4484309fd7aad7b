"""The comparison benchmark: its table, and the configuration that it makes of the HH-RLHF pairs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent / "evaluation"))
import compare as benchmark
import synthetic_compare as synthetic

from humanward.evaluation.compare import build_comparison
from humanward.prompts import opening_key
from humanward.records import Prompt, read_jsonl
from humanward.stages.compare_plan import read_plan


def test_a_value_by_hand() -> None:
    estimate = {"value": -0.5512, "ci95": [-0.62, -0.4849]}
    assert benchmark.value(estimate, 0, percent=True) == "-55 % (-62 % to -48 %)"
    assert benchmark.value(estimate, 2) == "-0.55 (-0.62 to -0.48)"
    assert benchmark.value(estimate, 2, interval=False) == "-0.55"
    assert benchmark.value({"value": 1.0, "ci95": None}, 1) == "1.0"
    assert benchmark.value(None, 1) == ""


def test_the_table_shows_every_algorithm_and_every_seed() -> None:
    content = build_comparison(synthetic.inputs(("ppo", "dpo", "best-of-n"), seeds=3, prompts=40, spoilt=True))
    lines = benchmark.table(content)
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["before", "ppo", "dpo", "best-of-n"]
    assert lines[3].split("|")[2].strip() == "3 of 3"
    assert lines[5].split("|")[2].strip() == "1 of 3"
    own = [run["toxicity"]["relative"] for run in content["runs"] if run["algorithm"] == "ppo"]
    assert lines[3].split("|")[5].strip() == ", ".join(f"{100 * share:+.0f}" for share in own) + " %"


def test_the_configuration_of_real_pairs(shared: Path, tmp_path: Path) -> None:
    options = benchmark.parse(["--only", "hh", "--data", str(shared / "data"), "--out", str(tmp_path)])
    arguments = benchmark.hh(options)
    assert arguments[1:] == ["--algorithms", "ppo,rloo,dpo"]
    plan = read_plan(Path(arguments[0]), arguments[2], 5, ())
    assert [plan.config(name, 0).algorithm for name in plan.algorithms] == ["ppo", "rloo", "dpo"]
    prompts = read_jsonl(tmp_path / "hh-pairs" / "prompts.jsonl", Prompt)
    assert len(prompts) == 1912
    assert 0.2 < sum(prompt.split == "test" for prompt in prompts) / len(prompts) < 0.3
    splits: dict[str, set[str]] = {}
    for prompt in prompts:
        splits.setdefault(opening_key(prompt), set()).add(prompt.split)
    assert max(map(len, splits.values())) == 1


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no such file; name the folder that holds hh_rlhf_harmless/ with --data"):
        benchmark.hh(benchmark.parse(["--data", str(tmp_path), "--out", str(tmp_path)]))
