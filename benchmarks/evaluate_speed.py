"""How long `humanward evaluate` takes: 2 models x 500 prompts x 25 answers of at most 20 tokens, on the demo model.

The second model is an adapter of rank 8 on the first with random weights (small, so that it still speaks), or yours
with ``--adapter``. Wall-clock seconds are those of the whole command; ``cpu_seconds`` those of its process, which is
what it takes on one free core.

    python benchmarks/evaluate_speed.py --json > runs/bench/evaluate_speed.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine

PROMPTS, SAMPLES, TOKENS, MINUTES = 500, 25, 20, 10


def write_prompts(path: Path, count: int) -> None:
    """``count`` prompts of the demo, of all its splits: speed does not depend on who trained on them."""
    from humanward import demo
    from humanward.prompts import read_prompts

    prompts = read_prompts(demo.path("demo/prompts")).prompts
    if len(prompts) < count:
        raise SystemExit(f"the demo has {len(prompts)} prompts, fewer than the {count} that are asked for")
    path.write_text("".join(f"{json.dumps({'prompt': {'text': p.text}})}\n" for p in prompts[:count]), encoding="utf-8")


def write_adapter(path: Path) -> None:
    """An adapter on the demo's policy with small random weights."""
    import torch

    from humanward.config import LoraConfig, ModelConfig
    from humanward.models.base import SharedBase
    from humanward.models.loading import load_model

    base = SharedBase(load_model(ModelConfig()))
    base.add_role("policy", LoraConfig(rank=8))
    generator = torch.Generator().manual_seed(0)
    for parameter in base.role_parameters("policy"):
        parameter.data.normal_(0, 0.02, generator=generator)
    base.save_role("policy", path)


def measure(adapter: Path | None, prompts: int, samples: int, tokens: int) -> dict[str, Any]:
    """Run the command once in an empty folder; its times and what it found."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_prompts(place / "prompts.jsonl", prompts)
        if adapter is None:
            adapter = place / "random"
            write_adapter(adapter)
        command = [sys.executable, "-c", "from humanward.cli import main; main()", "evaluate"]
        command += ["base=demo/policy", f"adapter={adapter}", "--prompts", f"rtp={place / 'prompts.jsonl'}"]
        command += ["--samples", str(samples), "--max-new-tokens", str(tokens), "--out", str(place / "out"), "--json"]
        before, started = os.times(), time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        wall, after = time.perf_counter() - started, os.times()
        content = json.loads(done.stdout)
    (one,) = content["sets"]
    found = {row["name"]: {m: v["value"] for m, v in row["models"].items()} for row in one["measures"] if row["n"]}
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "answers": 2 * one["items"] * one["samples"],
        "measures": found,
    }


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--adapter", type=Path, help="an adapter on demo/policy, instead of a random one")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    given = parser.parse_args()
    found = measure(given.adapter, given.prompts, given.samples, given.tokens)
    result = {
        **describe_machine(),
        "prompts": given.prompts,
        "samples": given.samples,
        "tokens": given.tokens,
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "load": list(os.getloadavg()),
        **found,
        "goal": f"wall_seconds < {60 * MINUTES}",
        "reached": found["wall_seconds"] < 60 * MINUTES,
    }
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
