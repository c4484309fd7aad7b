"""Peak memory of a PPO step with four roles on one base, against fine-tuning alone, against TRL, and as predicted.

Every number is a process of its own on a model of random weights, with what it held before loading subtracted: resident
memory (VmHWM) on the CPU, what PyTorch's allocator gave out on CUDA. The weights are written once into --out.

    python benchmarks/memory.py --json --out runs/bench/memory
    python benchmarks/memory.py --shape 0.5b-32k --peer PEER_VENV/bin/python    # with TRL 1.12 in a venv of its own
    python benchmarks/memory.py --device cuda --shape 7b --only "finetune; ppo; nf4"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import describe_machine

HERE = Path(__file__).parent
LIMITS = {
    "ppo / finetune": 1.35,
    "ppo / trl": 0.4,
    "nf4 linear / bfloat16": 0.32,
    "prediction": 0.15,
    "switching": 0.02,
}

JOBS: dict[str, dict[str, Any]] = {
    "finetune": {"what": "finetune"},
    "ppo": {"what": "ppo"},
    "ppo, critic of its own": {"what": "ppo", "critic": "adapter"},
    "finetune, checkpointed": {"what": "finetune", "checkpointing": True},
    "nf4": {"what": "finetune", "quantization": "nf4"},
    "nf4, checkpointed": {"what": "finetune", "quantization": "nf4", "checkpointing": True},
    "sizes": {"what": "sizes"},
    "nf4 sizes": {"what": "sizes", "quantization": "nf4"},
}
PEERS = {"trl, LoRA": "lora", "trl, four models": "full"}


def child(python: str, script: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What one measured process printed; its failure is the benchmark's."""
    command = [python, "-W", "ignore", str(script), json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"{script.name} {job} ended with code {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def forecast(job: dict[str, Any]) -> int:
    """The predicted peak of a job beside the process: the lines of ``humanward doctor`` that the job holds."""
    from humanward.config import parse_config
    from humanward.models.memory import LEARNING, predict
    from humanward.stages.doctor import sizes_of

    rows = job["rows"]
    values: dict[str, Any] = {
        "model": {
            "policy": job["model"], "dtype": "bfloat16", "device": job["device"], "max_prompt_tokens": job["prompt"],
            "quantization": job.get("quantization", "none"), "gradient_checkpointing": job.get("checkpointing", False),
        },
        "sampling": {"max_new_tokens": job["response"], "batch_size": rows},
        "ppo": {
            "rollout_size": rows, "minibatch_size": rows, "micro_batch_size": rows,
            "critic": job.get("critic", "trunk"),
        },
        "feedback": {"source": "simulated"},
    }  # fmt: skip
    config = parse_config(values)
    device = job["device"].partition(":")[0]
    lines = predict(config, sizes_of(config), device).lines
    alone = job["what"] == "finetune"
    # Fine-tuning alone has no reward model and no copies to go back to; the benchmark loads no classifier.
    left_out = [line for line in lines if "classifier" in line.role or (alone and not _finetuned(line))]
    return sum(line.bytes for line in lines if LEARNING in line.moments and line not in left_out)


def _finetuned(line: Any) -> bool:
    return line.role in ("process", "base", "policy") and line.thing != "kept copies"


def summarise(found: dict[str, dict[str, Any]], predicted: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Every number that has a limit, with its limit and whether it holds."""
    peak = {name: one["peak"] for name, one in found.items() if "peak" in one}
    values: dict[str, tuple[float, float]] = {}
    for name in ("ppo", "ppo, critic of its own"):
        if name in peak and "finetune" in peak:
            values[f"{name} / finetune"] = peak[name] / peak["finetune"], LIMITS["ppo / finetune"]
        for peer in PEERS:
            if name in peak and peer in peak:
                values[f"{name} / {peer}"] = peak[name] / peak[peer], LIMITS["ppo / trl"]
    if "sizes" in found and "nf4 sizes" in found:
        for part, limit in (("linear", LIMITS["nf4 linear / bfloat16"]), ("whole", float("inf"))):
            values[f"nf4 {part} / bfloat16"] = found["nf4 sizes"][part] / found["sizes"][part], limit
    for name, size in predicted.items():
        if name in peak:
            values[f"prediction of {name}, error"] = size / peak[name] - 1, LIMITS["prediction"]
    for name, one in found.items():
        if "switch_seconds" in one:
            share = one["switch_seconds"] * one["switches"] / one["cpu_seconds"][-1]
            values[f"switching in {name}"] = share, LIMITS["switching"]
    return {
        name: {"value": round(value, 4), "limit": limit if limit < 1e9 else None, "holds": abs(value) <= limit}
        for name, (value, limit) in values.items()
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from memory_shapes import SHAPES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=32, help="tokens")
    parser.add_argument("--response", type=int, default=32, help="tokens")
    parser.add_argument("--only", help=f"names with semicolons, of: {'; '.join([*JOBS, *PEERS])}")
    parser.add_argument("--peer", help="Python of a virtual environment with TRL 1.12.0")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/memory"))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one process at a time, and print."""
    options = parse(arguments)
    from memory_shapes import build

    folder = build(options.shape, options.out / options.shape)
    sizes = {name: getattr(options, name) for name in ("rows", "prompt", "response", "device")}
    common = {"model": str(folder), **sizes}
    wanted = [name.strip() for name in options.only.split(";")] if options.only else [*JOBS, *PEERS]
    found: dict[str, dict[str, Any]] = {}
    predicted: dict[str, int] = {}
    for name, job in JOBS.items():
        if name in wanted:
            found[name] = child(sys.executable, HERE / "memory_steps.py", {**common, **job})
            if job["what"] != "sizes":
                predicted[name] = forecast({**common, **job})
            print(f"{name}: {found[name]}, predicted {predicted.get(name)}", file=sys.stderr)
    for name, policy in PEERS.items():
        if name in wanted and options.peer:
            job = {**common, "policy": policy, "out": str(options.out / "trl")}
            found[name] = child(options.peer, HERE / "peers" / "trl_memory.py", job)
            print(f"{name}: {found[name]}", file=sys.stderr)
    results = summarise(found, predicted)
    if options.json:
        content = {**describe_machine(), "shape": options.shape, **sizes}
        print(json.dumps({**content, "measured": found, "predicted": predicted, "results": results}))
        return
    for name, one in results.items():
        rule = "" if one["limit"] is None else f" (limit {one['limit']}: {'holds' if one['holds'] else 'MISSED'})"
        print(f"{name}: {one['value']}{rule}")


if __name__ == "__main__":
    main()
