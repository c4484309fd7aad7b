"""Ours against TRL's on the same model, prompts, reward and budget: train all, evaluate all alike, compare at equal KL.

    python benchmarks/peers/make_venvs.py --venvs ~/peer-venvs
    python benchmarks/peers/run.py --venvs ~/peer-venvs --out runs/peers --json > runs/peers.json

Whatever has finished in --out is not run again, so an interrupted matrix goes on; --summary runs nothing. One process
at a time. What it found, and what explains it: docs/peers.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import prepare
from analysis import NoOverlap, compare
from settings import ALGORITHMS, HERE, KL_COEFS, LABEL, MODEL, PEER_OF, SETTINGS, Job, all_jobs, our_config, peer_python

from humanward import demo
from humanward.config import parse_config
from humanward.reward.sources import Classifier

sys.path.append(str(HERE.parent))
from machine import describe_machine

RUNNERS = {"ppo": "trl_ppo.py", "rloo": "trl_online.py", "grpo": "trl_online.py", "dpo": "trl_dpo.py"}
LIMIT = -0.1
"""The issue's rule: the lower bound of ours - theirs, in standard deviations of the reference's reward."""


class Matrix:
    """Everything in ``out``: reward/, pairs/, one folder a job, evaluation/."""

    def __init__(self, out: Path, venvs: Path, overrides: tuple[str, ...] = ()) -> None:
        self.out, self.venvs, self.overrides = out, venvs, overrides
        self.reward, self.evaluations = out / "reward", out / "evaluation"
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    # --- training ----------------------------------------------------------------------------------------------------

    def train(self, job: Job) -> None:
        """Run one job unless it has finished; its log is beside it. SystemExit names the log where it fails."""
        folder, done = self.out / job.name, self.out / job.name / "finished.json"
        if done.exists():
            return
        command = self._our_command(job) if job.side == "ours" else self._peer_command(job)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        log = self.out / f"{job.name}.log"
        with log.open("w", encoding="utf-8") as file:
            environment = self.environment
            if job.side == "theirs":
                # A peer must not find our packages, nor this folder's modules by another way than its script's.
                environment = {k: v for k, v in environment.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
            code = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
        if code:
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise SystemExit(f"{job.name}: ended with code {code} ({' '.join(tail)[:200]}); see {log}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        facts = {"cpu_seconds": round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 1)}
        if job.side == "theirs":
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            self._check_reward(job, metrics.pop("probes"))
            facts |= {"optimizer_steps": metrics["optimizer_steps"], "versions": metrics["versions"]}
        else:
            facts |= json.loads((folder / "run" / "stages.json").read_text(encoding="utf-8"))["align"]
        done.write_text(json.dumps(facts) + "\n", encoding="utf-8")

    def _our_command(self, job: Job) -> list[str]:
        folder = self.out / job.name
        # A run that was cut short begins anew: seconds and random numbers are then those of one whole run.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = folder / "config.toml"
        values = our_config(job, self.reward, self.pairs())
        config.write_text(parse_config(values, self.overrides).to_toml(), encoding="utf-8")
        return [sys.executable, str(HERE / "ours.py"), str(config), str(folder / "run")]

    def _peer_command(self, job: Job) -> list[str]:
        python, folder = peer_python(self.venvs, job.implementation), self.out / job.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "job.json"
        path.write_text(json.dumps(peer_job(job, folder, self.reward, self.pairs())) + "\n", encoding="utf-8")
        return [str(python), str(HERE / RUNNERS[job.algorithm]), str(path)]

    def _check_reward(self, job: Job, probes: list[dict[str, Any]]) -> None:
        """The peer's scores of its first texts must be ours."""
        if not probes:
            return
        ours = Classifier(str(self.reward), LABEL).score_texts([probe["text"] for probe in probes]).tolist()
        worst = max(abs(a - probe["score"]) for a, probe in zip(ours, probes, strict=True))
        if not worst < 1e-3:
            raise SystemExit(f"{job.name}: its reward differs from humanward's by {worst:.2g} on the same texts")

    def pairs(self) -> Path:
        """The preference pairs, where they have been made."""
        return self.out / "pairs" / prepare.PAIRS

    # --- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, jobs: Sequence[Job], samples: int) -> None:
        """Evaluate finished jobs that have not been, in one process."""
        adapters = [f"{job.name}={self.adapter(job)}" for job in jobs if self.finished(job)]
        command = [sys.executable, str(HERE / "evaluate.py"), "--reward", str(self.reward)]
        command += ["--out", str(self.evaluations), "--samples", str(samples), *adapters]
        with (self.out / "evaluation.log").open("a", encoding="utf-8") as log:
            code = subprocess.run(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            raise SystemExit(f"evaluate.py: ended with code {code}; see {self.out / 'evaluation.log'}")

    def finished(self, job: Job) -> bool:
        """Whether a job's training has ended well."""
        return (self.out / job.name / "finished.json").exists()

    def adapter(self, job: Job) -> Path:
        """Where a job's adapter lies."""
        return self.out / job.name / ("run/adapter" if job.side == "ours" else "adapter")

    def read(self, name: str) -> dict[str, Any] | None:
        """A job's evaluation, or the reference's; None where there is none yet."""
        path = self.evaluations / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def peer_job(job: Job, folder: Path, reward: Path, pairs: Path) -> dict[str, Any]:
    """The job as a peer's runner reads it."""
    found = {
        "algorithm": job.algorithm,
        "seed": job.seed,
        "kl_coef": job.kl_coef,
        "out": str(folder),
        "model": str(demo.path(MODEL)),
        "reward": str(reward),
        "label": LABEL,
        "settings": SETTINGS,
    }
    if job.algorithm == "dpo":
        return {**found, "pairs": prepare.pairs_of(pairs)}
    return {**found, "prompts": [prompt.text for prompt in prepare.prompts_of("train")]}


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """PPO first, because a number of the issue hangs on it; then the others seed by seed."""
    return sorted(jobs, key=lambda job: (job.algorithm != "ppo", job.seed))


def summarise(matrix: Matrix, jobs: Sequence[Job]) -> dict[str, Any]:
    """Rows of all evaluated jobs and, for each algorithm whose matrix is whole, the comparison at equal KL."""
    reference = matrix.read("reference")
    if reference is None:
        raise SystemExit(f"{matrix.evaluations}: holds no evaluation yet; run without --summary first")
    ids = list(dict.fromkeys(reference["prompt_ids"]))
    std = float(np.std(reference["reward"], ddof=1))

    def by_prompt(evaluation: dict[str, Any], key: str) -> np.ndarray:
        if evaluation["prompt_ids"] != reference["prompt_ids"]:
            raise SystemExit("evaluations answer different prompts; empty the evaluation folder")
        return np.reshape(evaluation[key], (len(ids), -1)).mean(1)

    rows, comparisons = [], {}
    for job in jobs:
        evaluation = matrix.read(job.name)
        if evaluation is None:
            continue
        facts = json.loads((matrix.out / job.name / "finished.json").read_text(encoding="utf-8"))
        means = {key: float(np.mean(evaluation[key])) for key in ("reward", "kl", "toxicity", "tokens", "ended")}
        rows.append({**asdict(job), "implementation": job.implementation, **means, "cpu_seconds": facts["cpu_seconds"]})
    for algorithm in dict.fromkeys(job.algorithm for job in jobs):
        sides = {}
        for side in ("ours", "theirs"):
            mine = [j for j in jobs if (j.algorithm, j.side) == (algorithm, side)]
            grid = [
                [matrix.read(j.name) for j in mine if j.kl_coef == c] for c in dict.fromkeys(j.kl_coef for j in mine)
            ]
            if grid and all(all(row) for row in grid):
                sides[side] = tuple(
                    np.array([[by_prompt(e, key) for e in row if e] for row in grid]) for key in ("reward", "kl")
                )
        if len(sides) < 2:
            comparisons[algorithm] = {"missing": "not all runs have been evaluated"}
            continue
        try:
            found = compare(sides["ours"], sides["theirs"], by_prompt(reference, "reward"), std)
        except NoOverlap as error:
            comparisons[algorithm] = {"missing": str(error)}
            continue
        comparisons[algorithm] = {
            "peer": PEER_OF[algorithm],
            **asdict(found),
            "limit": LIMIT,
            "not_inferior": bool(found.ci95[0] > LIMIT),
        }
    return {
        "benchmark": "peers",
        "reference": {
            "reward": float(np.mean(reference["reward"])),
            "reward_std": std,
            "toxicity": float(np.mean(reference["toxicity"])),
            "prompts": len(ids),
            "answers": len(reference["reward"]),
        },
        "comparisons": comparisons,
        "runs": rows,
        "settings": SETTINGS,
        **describe_machine(),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, required=True, help="folder that make_venvs.py filled")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="where the runs go, and are found again")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kl", type=float, nargs="+", default=list(KL_COEFS), help="KL coefficients")
    parser.add_argument("--only", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--samples", type=int, default=2, help="answers a test prompt in the evaluation")
    parser.add_argument(
        "--set", nargs="+", default=[], help="other settings of ours, section.key=value; with a new --out"
    )
    parser.add_argument("--side", choices=("ours", "theirs"), help="train this side alone")
    parser.add_argument("--summary", action="store_true", help="run nothing; show what there is")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args(arguments)


def main() -> None:
    """Run and print; exit code 1 when a finished comparison misses the limit."""
    options = parse()
    jobs = in_order(all_jobs(tuple(options.only), tuple(options.kl), options.seeds))
    jobs = [job for job in jobs if options.side in (None, job.side)]
    matrix = Matrix(options.out.expanduser().resolve(), options.venvs.expanduser().resolve(), tuple(options.set))
    if not options.summary:
        for peer in dict.fromkeys(PEER_OF[job.algorithm] for job in jobs):
            peer_python(matrix.venvs, peer)
        matrix.out.mkdir(parents=True, exist_ok=True)
        prepare.anchored_reward(matrix.reward)
        if "dpo" in options.only:
            prepare.preference_run(matrix.out / "pairs", matrix.environment)
        for number, job in enumerate(jobs, 1):
            matrix.train(job)
            print(f"{number}/{len(jobs)} {job.name}", file=sys.stderr, flush=True)
            if number % 4 == 0 or number == len(jobs):
                matrix.evaluate(jobs[:number], options.samples)
    found = summarise(matrix, jobs)
    if options.json:
        print(json.dumps(found))
    else:
        tell(found)
    sys.exit(0 if all(c.get("not_inferior", True) for c in found["comparisons"].values()) else 1)


def tell(found: dict[str, Any]) -> None:
    """The tables for a person, in Markdown."""
    print("| | KL | humanward | TRL | difference, SD | 95 % interval | by seeds alone |\n|---|---|---|---|---|---|---|")
    for algorithm, c in found["comparisons"].items():
        if "missing" in c:
            print(f"| {algorithm} | {c['missing']} |")
            continue
        seeds = "" if math.isnan(c["welch95"][0]) else f"{c['welch95'][0]:+.2f} to {c['welch95'][1]:+.2f}"
        print(
            f"| {algorithm} | {c['kl']:.2f} | {c['ours']:+.3f} | {c['theirs']:+.3f} | {c['difference']:+.3f} | "
            f"{c['ci95'][0]:+.3f} to {c['ci95'][1]:+.3f} | {seeds} |"
        )
    reference = found["reference"]
    print(
        f"\nThe reference: reward {reference['reward']:+.3f}, standard deviation {reference['reward_std']:.3f}, "
        f"toxicity {reference['toxicity']:.3f}.\n\n"
        "| | by | KL coefficient | reward, by seed | KL, by seed | toxicity | tokens | CPU s |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in sorted(found["runs"], key=lambda row: row["seed"]):
        groups.setdefault((row["algorithm"], row["implementation"], row["kl_coef"]), []).append(row)
    for (algorithm, implementation, kl_coef), rows in sorted(groups.items()):

        def each(key: str, digits: int, rows: list[dict[str, Any]] = rows) -> str:
            return " ".join(f"{row[key]:.{digits}f}" for row in rows)

        print(
            f"| {algorithm} | {implementation} | {kl_coef:g} | {each('reward', 3)} | {each('kl', 2)} | "
            f"{each('toxicity', 3)} | {each('tokens', 1)} | {each('cpu_seconds', 0)} |"
        )


if __name__ == "__main__":
    main()
