"""What benchmarks/hacking.py concludes from its runs, on runs made by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import hacking_results


def look(step: int, truth: float, *alarms: str, kl: float = 1.0, reward: float = 0.0) -> dict[str, Any]:
    return {
        "monitor/step": step,
        "monitor/reward": reward,
        "monitor/sequence_kl": kl,
        "monitor/length": 10.0,
        "monitor/alarms": list(alarms),
        "truth": truth,
    }


def run(arm: str, seed: int, *looks: dict[str, Any], alarms: tuple[tuple[int, str], ...] = ()) -> dict[str, Any]:
    told = [{"step": step, "name": name} for step, name in alarms]
    return {"reward": "token", "arm": arm, "seed": seed, "looks": list(looks), "alarms": told, "seconds": 1.0}


PLAIN = [
    run("none", 0, look(0, 0.0), look(2, 0.5), look(4, -1.0), alarms=((2, "held_out_lags"), (4, "held_out_falls"))),
    run("none", 1, look(0, 0.0), look(2, 0.2), look(4, -0.6), alarms=((4, "held_out_falls"),)),
]


def test_differences_are_to_the_run_of_the_same_seed() -> None:
    """Seed 0: .2 - -1 = 1.2; seed 1: -.7 - -.6 = -.1; mean .55, deviation 1.3 / sqrt 2, t(.975, 1) = 12.7062."""
    runs = [*PLAIN, run("kl", 0, look(0, 0.0), look(4, 0.2)), run("kl", 1, look(0, 0.0), look(4, -0.7))]
    found = hacking_results.summarise(runs)
    kl = found["arms"]["token"]["kl"]
    assert kl["against_none"]["value"] == pytest.approx(0.55)
    half = 12.7062 * (1.3 / math.sqrt(2)) / math.sqrt(2)
    assert kl["against_none"]["ci95"] == pytest.approx([0.55 - half, 0.55 + half], rel=1e-4)
    assert kl["better"] == 1
    demands = {one["demand"]: (one["holds"], one["of"], one["met"]) for one in found["demands"]}
    assert demands["token: kl keeps more true reward"] == (1, 2, False)
    assert demands["token: without mitigation true reward is lost"] == (2, 2, True)
    assert not found["passed"]
    assert found["arms"]["token"]["none"]["peak"]["value"] == pytest.approx(0.35)


def test_an_alarm_counts_only_before_the_fall() -> None:
    """Both fall by .1 at step 4: the first was warned of at step 2, the second at step 4 itself."""
    alarms = hacking_results.summarise(PLAIN)["alarms"]["token"]
    assert [one["fell"] for one in alarms] == [4, 4]
    assert [one["held_out"] for one in alarms] == [2, 4]
    assert [one["held_out_before"] for one in alarms] == [True, False]


def test_a_run_that_never_fell_needs_no_alarm_but_is_no_proof() -> None:
    found = hacking_results.summarise([run("none", 0, look(0, 0.0), look(2, 0.5), look(4, 0.45))])
    assert found["alarms"]["token"][0]["held_out_before"] is True
    assert found["demands"][0] == {
        "demand": "token: without mitigation true reward is lost",
        "holds": 0,
        "of": 1,
        "met": False,
    }


def test_the_frontier_of_gao_is_found_again() -> None:
    """Points on R(d) = d (2 - .8 log d) give alpha 2 and beta .8."""
    kls = [0.25, 1.0, 4.0, 9.0, 16.0]
    values = [math.sqrt(kl) * (2 - 0.8 * math.log(math.sqrt(kl))) for kl in kls]
    looks = [look(step, value, kl=kl, reward=value) for step, (kl, value) in enumerate(zip(kls, values, strict=True))]
    found = hacking_results.summarise([run("none", 0, *looks)])["frontier"]["token"]["truth"]
    assert found["alpha"] == pytest.approx(2.0, rel=1e-6)
    assert found["beta"] == pytest.approx(0.8, rel=1e-6)
    assert found["r2"] == pytest.approx(1.0)
