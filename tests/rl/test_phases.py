"""The clock of a step's phases."""

from __future__ import annotations

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


def test_in_detail_a_phase_has_its_memorys_peak_and_so_has_the_one_around_it() -> None:
    phases = Phases(torch.device("cpu"), detailed=True)
    with phases("small"):
        pass
    with phases("learn"):
        with phases.detail("learn: forward"):
            held = torch.ones(64 << 18)
            del held
        with phases.detail("learn: backward"):
            pass
    spent = phases.take()
    assert spent["learn: forward"].peak - spent["learn: backward"].peak > 32 << 20
    assert spent["learn"].peak >= spent["learn: forward"].peak
    assert spent["small"].peak < spent["learn"].peak


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
