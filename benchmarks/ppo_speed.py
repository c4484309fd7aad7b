"""Episodes a second of our PPO and of TRL's, on identical work, every side in a virtual environment of its own.

    python benchmarks/peers/make_venvs.py --venvs ~/peer-venvs
    python benchmarks/ppo_speed.py --venvs ~/peer-venvs --out runs/bench/speed --json > runs/speed.json
    python benchmarks/ppo_speed.py --sweep --out runs/bench/speed            # how our cost grows

Both modes take 32 prompts of 16 to 48 tokens, 64 new tokens, 4 epochs and one minibatch (--episodes and so on change
it), on a Llama of random weights. The sides alternate: one process of each in turn, --repeats times, so that what else
the machine does falls on all of them. Every side first tries its settings (number format, episodes in one forward) for
one step, and is measured at its best. Processes that were measured are kept in --out, so a stopped benchmark goes on
where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from machine import describe_machine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "speed"))

LIMITS = {
    "ours / faster TRL": 3.0,
    "ours / TRL 1.12": 4.0,
    "share of the limit": 0.5,
    "memory / TRL 1.12": 0.4,
}


@dataclass(frozen=True)
class Side:
    """One competitor: its script, its environment (ours is the one that runs this), and the settings that it tries."""

    name: str
    script: str
    venv: str = ""
    settings: tuple[str, ...] = ("",)
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    trains: tuple[str, ...] = ("lora", "full")


SIDES = (
    Side("ours", "ours.py", settings=("rows 32", "rows 16", "rows 8"), dtypes=("bfloat16",)),
    Side("ours, own critic", "ours.py", settings=("rows 16 own critic",), dtypes=("bfloat16",), trains=("lora",)),
    Side("TRL 1.12.0", "trl_new.py", "trl-1.12.0", settings=("32", "8")),
    Side("TRL 0.11.4", "trl_old.py", "trl-0.11.4", settings=("32", "8")),
)
PEERS = ("TRL 1.12.0", "TRL 0.11.4")


def child(side: Side, job: Any, venvs: Path | None, out: Path) -> dict[str, Any]:
    """What one measured process printed, from ``out`` if it has run before; a peer that fails says so in its result."""
    kept = out / "processes" / f"{hashlib.sha256(f'{side.name}{job.to_json()}'.encode()).hexdigest()[:16]}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    python = str(venvs / side.venv / "bin" / "python") if side.venv and venvs else sys.executable
    command = [python, "-W", "ignore", str(HERE / "speed" / side.script), job.to_json()]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(job.threads)}
    load = os.getloadavg()[0]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=out)
    if done.returncode:
        raise SystemExit(f"{side.name}: {command[-1]} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    found = {**json.loads(done.stdout.strip().splitlines()[-1]), "side": side.name, "job": asdict(job), "load": load}
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".part")
    partial.write_text(json.dumps(found) + "\n", encoding="utf-8")
    partial.rename(kept)
    seconds = ", ".join(f"{s:.2f}" for s in found["wall"])
    print(f"{side.name}, {job.train}, {job.dtype}, {job.setting or 'as it is'}: {seconds} s", file=sys.stderr)
    return found


def rate(found: dict[str, Any]) -> float:
    """Episodes a second: of the process's steps the median."""
    return found["job"]["episodes"] / statistics.median(found["wall"])


def best_setting(side: Side, work: Any, venvs: Path | None, out: Path) -> Any:
    """The job of the side at the setting whose one measured step was the fastest."""
    trials = [
        replace(work, dtype=dtype, setting=setting, steps=1, warmup=0)
        for dtype in side.dtypes
        for setting in side.settings
        if not setting.isdecimal() or work.episodes % int(setting) == 0
    ]
    if len(trials) > 1:
        best = max(trials, key=lambda job: rate(child(side, job, venvs, out)))
    else:
        best = trials[0]
    return replace(best, steps=work.steps, warmup=work.warmup)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every side at its best setting, alternating: rates, ratios with their spread, memory, phases."""
    from work import Work, build

    results: dict[str, Any] = {}
    for shape in options.shapes:
        model = str(build(shape, options.out / shape))
        for train in options.trains:
            work = Work(
                model=model, train=train, dtype="", steps=options.steps, episodes=options.episodes,
                response=options.response, epochs=options.epochs, threads=options.threads, out=str(options.out / "trl"),
            )  # fmt: skip
            sides = [side for side in SIDES if train in side.trains and (not side.venv or options.venvs)]
            jobs = {side: best_setting(side, work, options.venvs, options.out) for side in sides}
            found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
            for repeat in range(options.repeats):
                for side in sides:
                    job = replace(jobs[side], seed=repeat)
                    found[side.name].append(child(side, job, options.venvs, options.out))
            results[f"{shape}, {train}"] = summarise(found, shape, train, options)
    return results


def summarise(
    found: dict[str, list[dict[str, Any]]], shape: str, train: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The table of one shape and one kind of training."""
    from work import floor_operations

    rates = {name: [rate(one) for one in runs] for name, runs in found.items()}
    table: dict[str, Any] = {}
    for name, runs in found.items():
        steps = sum(len(one["wall"]) for one in runs)
        phases = {p: sum(one["phases"].get(p, 0.0) for one in runs) / steps for p in runs[0]["phases"]}
        table[name] = {
            "dtype": runs[0]["job"]["dtype"], "setting": runs[0]["job"]["setting"],
            "episodes_per_second": spread(rates[name]),
            "cpu_seconds": spread([statistics.median(one["cpu"]) for one in runs]),
            "peak_memory": spread([one["peak"] for one in runs]),
            "phases": {**phases, "whole step": statistics.mean(s for one in runs for s in one["wall"])},
            "load": max(one["load"] for one in runs), "versions": runs[0]["versions"],
        }  # fmt: skip
    ratios: dict[str, Any] = {}
    peers = [name for name in PEERS if name in rates]
    for ours in (name for name in rates if name not in PEERS):
        if peers:
            faster = max(peers, key=lambda name: statistics.median(rates[name]))
            ratios[f"{ours} / faster TRL"] = ratio(rates[ours], rates[faster])
        if "TRL 1.12.0" in peers:
            ratios[f"{ours} / TRL 1.12"] = ratio(rates[ours], rates["TRL 1.12.0"])
            memory = [one["peak"] for one in found[ours]], [one["peak"] for one in found["TRL 1.12.0"]]
            ratios[f"{ours}, memory / TRL 1.12"] = ratio(*memory)
    tokens = options.response + 32
    operations = floor_operations(shape, train, tokens, options.epochs)
    limit = measured_products(options.threads)
    shares = [r * operations / limit for r in rates["ours"]]
    return {
        "sides": table, "ratios": ratios, "share of the limit": spread(shares),
        "floor_operations_per_episode": operations, "products_per_second": limit,
    }  # fmt: skip


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest."""
    return {"median": statistics.median(values), "range": [min(values), max(values)], "n": len(values)}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The median ratio of what ran one after the other, and its spread."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def measured_products(threads: int) -> float:
    """Operations a second of large bfloat16 matrix products on this machine, now; in a process of its own."""
    code = f"from work import products; import torch; print(products(torch.bfloat16, {threads}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE / "speed")
    return float(done.stdout)


# --- how the cost grows ------------------------------------------------------------------------------------------

SWEEPS: dict[str, list[dict[str, Any]]] = {
    "episodes": [{"episodes": n} for n in (8, 16, 32, 64)],
    "response": [{"response": n} for n in (16, 32, 64, 128)],
    "samples": [{"setting": f"rows 16 samples {k}"} for k in (1, 2, 4, 8)],
    "shape": [{"shape": name} for name in ("micro", "tiny", "small")],
}


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step over batch, length, samples of a prompt, and model; with the exponent of its growth."""
    import numpy as np
    from work import Work, build, trunk_weights

    side = SIDES[0]
    results: dict[str, Any] = {}
    for name, points in SWEEPS.items():
        rows = []
        for point in points:
            changes = {k: v for k, v in point.items() if k != "shape"}
            shape = point.get("shape", "tiny")
            work = Work(
                model=str(build(shape, options.out / shape)), train="lora", dtype="bfloat16", steps=options.steps,
                threads=options.threads, setting="rows 16", out=str(options.out / "trl"),
            )  # fmt: skip
            runs = [child(side, replace(work, seed=r, **changes), None, options.out) for r in range(options.repeats)]
            seconds = [statistics.median(one["wall"]) for one in runs]
            size = {"shape": trunk_weights(shape)}.get(name) or float(str(next(iter(point.values()))).split()[-1])
            rows.append({"at": size, "seconds": spread(seconds), "phases": runs[0]["phases"]})
        x, y = np.log([r["at"] for r in rows]), np.log([r["seconds"]["median"] for r in rows])
        exponent, constant = np.polyfit(x, y, 1)
        results[name] = {"points": rows, "exponent": float(exponent), "at_one": float(np.exp(constant))}
    return results


# --- the command line --------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--venvs", type=Path, help="folder of the peers' environments; without it only ours is measured"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/speed"))
    parser.add_argument("--shapes", nargs="+", choices=["micro", "tiny", "small"], default=["tiny", "small"])
    parser.add_argument("--trains", nargs="+", choices=["lora", "full"], default=["lora", "full"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="measured steps of a process, after one that warms up")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--response", type=int, default=64, help="tokens")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sweep", action="store_true", help="measure how our cost grows instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    options = parse(arguments)
    results = sweep(options) if options.sweep else compare(options)
    if options.json:
        print(json.dumps({**describe_machine(), "threads": options.threads, "results": results}))
        return
    for name, one in results.items():
        if options.sweep:
            print(f"{name}: seconds grow as its power {one['exponent']:.2f}")
            for row in one["points"]:
                print(f"  {row['at']:g}: {row['seconds']['median']:.2f} s")
            continue
        print(name)
        for side, found in one["sides"].items():
            phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in found["phases"].items())
            print(
                f"  {side} ({found['dtype']}, {found['setting'] or 'as it is'}): {told(found['episodes_per_second'])} "
                f"episodes/s, peak {found['peak_memory']['median'] / 2**20:.0f} MiB; seconds: {phases}"
            )
        for ratio_name, value in one["ratios"].items():
            limit = next((LIMITS[key] for key in LIMITS if ratio_name.endswith(key)), None)
            print(f"  {ratio_name}: {told(value)}" + (f" (meant: {limit})" if limit else ""))
        print(f"  share of the matrix-product limit: {told(one['share of the limit'])}")


def told(value: dict[str, Any]) -> str:
    """Median and range in words."""
    low, high = value["range"]
    return f"{value['median']:.3g} ({low:.3g} to {high:.3g})"


if __name__ == "__main__":
    main()
