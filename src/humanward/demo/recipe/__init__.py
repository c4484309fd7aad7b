"""The recipe that rebuilds the embedded default from a folder of public data sets: ``humanward demo build``.

One file a concern: corpus (reads the sets), templates (sentences written for the project), teacher, detectors,
evaluate, policy, filters, prompts. ``build`` runs the parts in order and records their metrics in ``metrics.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from humanward.errors import InputError

PARTS = ("detectors", "policy", "prompts")


def build(
    data: Path,
    out: Path,
    *,
    parts: Sequence[str] = PARTS,
    init: Path | None = None,
    minutes: float = 60.0,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Builds ``parts`` of the embedded default from ``data`` into ``out``; returns all recorded metrics.

    ``minutes`` is the training time of the policy alone; ``init`` is a policy to continue from. InputError for an
    unknown part, a missing data set, or a part whose predecessor ``out`` does not hold.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise InputError(f"part={unknown[0]!r} is no part of the recipe; choose from {', '.join(PARTS)}")
    if minutes <= 0:
        raise InputError(f"minutes={minutes} is not positive; give the policy some time to train")
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; --data names the folder that holds the data sets")
    from humanward.demo.recipe import corpus, detectors, evaluate, policy, prompts

    corpus.require(data, parts)
    out.mkdir(parents=True, exist_ok=True)
    metrics = read_metrics(out)
    if "detectors" in parts:
        trained = detectors.build(data, out, seed, log)
        metrics["detectors"] = {"training": trained, **evaluate.evaluate_detectors(data, out, seed)}
        write_metrics(out, metrics)
    if "policy" in parts:
        metrics["policy"] = policy.train(data, out, init, minutes, seed, log)
        write_metrics(out, metrics)
    if "prompts" in parts:
        if absent := [name for name in ("policy", "detector", "judge") if not (out / name / "config.json").is_file()]:
            raise InputError(
                f"{out / absent[0]}: the part prompts needs it; build the parts before it into the same folder"
            )
        metrics["prompts"] = prompts.build(out, seed, log)
        write_metrics(out, metrics)
    return metrics


def read_metrics(out: Path) -> dict[str, Any]:
    """What earlier parts recorded in ``out``; empty when nothing has."""
    path = out / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_metrics(out: Path, metrics: dict[str, Any]) -> None:
    """Writes ``metrics.json`` in one step, numbers to five significant digits."""
    temporary = out / ".metrics.json.tmp"
    temporary.write_text(json.dumps(_rounded(metrics), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, out / "metrics.json")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
