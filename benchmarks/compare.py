"""Algorithms side by side over several seeds: the demo with all of them, and human preferences with ppo, rloo, dpo.

Runs ``humanward compare`` and prints its tables for docs/results.md. Finished runs are kept, so an interrupted
benchmark goes on where it stopped: all of it takes hours.

    python benchmarks/compare.py --json --out runs/bench/compare > runs/bench/compare.json
    python benchmarks/compare.py --only hh --algorithms ppo --seeds 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import describe_machine

HH_FOLDER, HH_FILE = "hh_rlhf_harmless", "harmless-base.test.subset.jsonl.gz"
HH_ALGORITHMS = "ppo,rloo,dpo"
HH_SPLIT = "train=0.65,validation=0.1,test=0.25"

# Prompts and pairs are the same conversations: pairs whose opening is a test prompt are held out of all training.
HH_CONFIG = """\
seed = 0

[model]
policy = "demo/policy"
max_prompt_tokens = 128          # 1,145 of the 1,912 prompts; the others are dropped and counted
long_prompts = "drop"

[prompts]
path = {prompts}

[sampling]
max_new_tokens = 48

[feedback]
source = "preferences"
path = {pairs}
format = "hh-rlhf"

[reward]
source = "trained"
epochs = 1
max_tokens_trained = 128         # longer conversations lose their beginning

[ppo]
steps = 24
kl_controller = "fixed"
kl_coef = 0.1
learning_rate = 5e-4

[offline]
max_tokens = 128

[evaluation]
judge = "demo/judge"
judge_label = "hate"
prompts = 250
"""


def humanward(*arguments: str) -> str:
    """Standard output of a humanward command; SystemExit with its code when it fails.

    A comparison in which a run failed ends with code 1, and its results name the run: they are published as they are.
    """
    command = [sys.executable, "-c", "from humanward.cli import main; main()", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode and not done.stdout.strip():
        raise SystemExit(done.returncode)
    return done.stdout


def demo(options: argparse.Namespace) -> list[str]:
    """The embedded default, all algorithms."""
    return ["--algorithms", options.algorithms or "all"]


def hh(options: argparse.Namespace) -> list[str]:
    """HH-RLHF harmlessness pairs; writes the prompts taken out of them and the configuration below ``--out``."""
    pairs = options.data / HH_FOLDER / HH_FILE
    if not pairs.exists():
        raise SystemExit(f"compare: {pairs}: no such file; name the folder that holds {HH_FOLDER}/ with --data")
    imported = options.out / "hh-pairs"
    if not (imported / "prompts.jsonl").exists():
        split = ("--split", HH_SPLIT)
        humanward("feedback", "import", "--format", "hh-rlhf", str(pairs), "--run", str(imported), *split, "--json")
    config = options.out / "hh.toml"
    quoted = {"prompts": json.dumps(str(imported / "prompts.jsonl")), "pairs": json.dumps(str(pairs))}
    config.write_text(HH_CONFIG.format(**quoted), encoding="utf-8")
    return [str(config), "--algorithms", options.algorithms or HH_ALGORITHMS]


BENCHMARKS: dict[str, Callable[[argparse.Namespace], list[str]]] = {"demo": demo, "hh": hh}


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One comparison: the content of its compare.json."""
    folder = options.out / name
    arguments = BENCHMARKS[name](options)
    arguments += ["--seeds", str(options.seeds), "--jobs", str(options.jobs), "--out", str(folder), *options.rest]
    # Not --json: the comparison then tells on standard error how far it is.
    humanward("compare", *arguments)
    content: dict[str, Any] = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    return content


# --- the table of docs/results.md ------------------------------------------------------------------------------------


def table(content: Mapping[str, Any]) -> list[str]:
    """A row an algorithm as Markdown: means over seeds and prompts with 95 % intervals, and the spread of the seeds."""
    head = (
        "algorithm",
        "seeds",
        "judged toxicity",
        "relative change",
        "seeds' own changes",
        "improved",
        "reward",
        "KL, nats",
        "win rate, judge",
        "distinct-2",
        "limits held",
        "training, s",
        "memory, GB",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    reference = content["reference"]
    before = [value(reference["toxicity"], 3), value(reference["reward"], 2)]
    lines.append(f"| before | | {before[0]} | | | | {before[1]} | 0 | .500 | | | | |")
    for name, one in content["algorithms"].items():
        metrics = one["metrics"]
        runs = [r for r in content["runs"] if r["algorithm"] == name and r["state"] == "finished"]
        own = [f"{100 * r['toxicity']['relative']:+.0f}" for r in runs if r["toxicity"]["relative"] is not None]
        held = sum(not r["limits_broken"] for r in runs)
        cells = (
            name,
            f"{one['finished']} of {len(one['seeds'])}",
            value(metrics["toxicity"], 3),
            value(one["toxicity_relative"], 0, percent=True),
            f"{', '.join(own)} %" if own else "",
            f"{one['improved']} of {one['finished']}",
            value(metrics["reward"], 2),
            value(metrics["kl"], 2),
            value(metrics["win_rate"], 3),
            value(metrics["distinct2"], 0, percent=True),
            f"{held} of {len(runs)}",
            value(metrics["align_seconds"], 0, interval=False),
            value(metrics["peak_gigabytes"], 2, interval=False),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def value(estimate: Mapping[str, Any] | None, digits: int, *, percent: bool = False, interval: bool = True) -> str:
    """``.045 (.030 to .061)``; empty for what was not measured."""
    if estimate is None:
        return ""

    def words(number: float) -> str:
        return f"{100 * number:+.{digits}f} %" if percent else f"{number:.{digits}f}"

    ci95 = estimate["ci95"]
    span = f" ({words(ci95[0])} to {words(ci95[1])})" if interval and ci95 is not None else ""
    return words(estimate["value"]) + span


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--only", choices=tuple(BENCHMARKS), help="one of the two comparisons")
    parser.add_argument("--algorithms", help="as humanward compare takes them; default: all, for hh ppo,rloo,dpo")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help=f"folder that holds {HH_FOLDER}/")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/compare"), help="the comparisons are kept here")
    parser.add_argument("rest", nargs="*", help="further options of humanward compare, after --")
    return parser.parse_args(arguments)


def main() -> None:
    """Run and print; exit code 1 when a run failed."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    found = {name: run(name, options) for name in BENCHMARKS if options.only in (None, name)}
    failed = [one for content in found.values() for one in content["runs"] if one["state"] == "failed"]
    if options.json:
        print(json.dumps({"benchmark": "compare", "passed": not failed, "comparisons": found, **describe_machine()}))
    else:
        for name, content in found.items():
            print("\n".join([f"{name}: {content['verdict']}", "", *table(content), ""]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
