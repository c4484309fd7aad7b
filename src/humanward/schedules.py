"""Learning-rate schedules: what a trainer multiplies its learning rate with at each optimizer step. Without torch."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "constant"]


def factor(name: Schedule, step: int, steps: int, warmup_steps: int = 0) -> float:
    """The factor, 0 to 1, of the learning rate at ``step`` of ``steps``, both counted in optimizer steps from 0.

    During warm-up, ``step < warmup_steps``: (step + 1) / (warmup_steps + 1), so that no step is lost to a rate of 0.
    After it, with u = (step - warmup_steps) / (steps - warmup_steps):

        linear    1 - u
        cosine    (1 + cos(pi u)) / 2       (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, one cycle to 0)
        constant  1

    All are 1 at the first step after the warm-up and, constant aside, 0 at ``step == steps``, one step after the last
    one taken, as OpenAI's lm-human-preferences anneals (train_policy.py, learning rate * (1 - step / steps)).
    Raises ValueError for a step outside 0 to ``steps``, or a warm-up that leaves no step.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps={warmup_steps} is not in 0 to steps={steps} less one; lower it")
    if not 0 <= step <= steps:
        raise ValueError(f"step={step} is outside 0 to steps={steps}")
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / (steps - warmup_steps)
    if name == "linear":
        return 1.0 - done
    if name == "cosine":
        return (1.0 + math.cos(math.pi * done)) / 2
    if name == "constant":
        return 1.0
    raise ValueError(f"schedule {name!r}: unknown; use linear, cosine or constant")
