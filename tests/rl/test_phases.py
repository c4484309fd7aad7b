"""The clock of a step's phases."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import torch

from humanward.rl.phases import Phases


def test_blocks_of_one_name_add_up_and_are_taken_once() -> None:
    phases = Phases(torch.device("cpu"))
    for _ in range(2):
        with phases("sample"):
            time.sleep(0.01)
    with phases.detail("sample: inner"):
        pass
    spent = phases.take()
    assert set(spent) == {"sample"}
    assert spent["sample"].seconds >= 0.02
    assert spent["sample"].cpu_seconds < spent["sample"].seconds
    assert phases.take() == {}


PEAKS = """
import json, torch
from humanward.rl.phases import Phases
phases = Phases(torch.device("cpu"), detailed=True)
with phases("small"):
    pass
with phases("learn"):
    with phases.detail("learn: forward"):
        held = torch.ones(64 << 18)
        del held
    with phases.detail("learn: backward"):
        pass
print(json.dumps({name: one.peak for name, one in phases.take().items()}))
"""


def test_in_detail_a_phase_has_its_memorys_peak_and_so_has_the_one_around_it() -> None:
    """In a process of its own: the heap of this one may have room for a tensor of 64 MiB without growing."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    peak = json.loads(done.stdout)
    assert peak["learn: forward"] - peak["learn: backward"] > 32 << 20
    assert peak["learn"] >= peak["learn: forward"]
    assert peak["small"] < peak["learn"]


def test_a_block_that_fails_is_counted_and_closed() -> None:
    phases = Phases(torch.device("cpu"), detailed=True)
    try:
        with phases("learn"), phases.detail("learn: forward"):
            raise ValueError
    except ValueError:
        pass
    with phases("sample"):
        pass
    assert set(phases.take()) == {"learn", "learn: forward", "sample"}
    assert phases._open == []
