"""compare.json and compare.html from what the runs of a comparison left."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from humanward.evaluation.best_of_n import Frontier, read_frontier
from humanward.evaluation.compare import ComparisonInputs, build_comparison
from humanward.evaluation.compare_page import render_comparison
from humanward.evaluation.compare_tables import RunResult
from humanward.run_dir import open_run, write_text
from humanward.stages.compare_folder import CompareDir, settings
from humanward.stages.compare_plan import SHARED_BY, Plan

CONTENT, PAGE = "compare.json", "compare.html"


def write_comparison(folder: CompareDir, plan: Plan, command: str) -> dict[str, Any]:
    """Write both files and return the content of compare.json. ``command`` reproduces the comparison."""
    content = build_comparison(comparison_inputs(folder, plan, command))
    write_text(folder.path / CONTENT, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder.path / PAGE, render_comparison(content))
    return content


def comparison_inputs(folder: CompareDir, plan: Plan, command: str) -> ComparisonInputs:
    """What the comparison is made of, from the files of its runs. Asked-for runs that have not begun are unfinished."""
    config = plan.shared()
    runs = [
        folder.result(name, seed) for name, seed in {**dict.fromkeys(plan.asked), **dict.fromkeys(folder.present())}
    ]
    runs.sort(key=lambda run: (plan.algorithms.index(run.algorithm), run.seed))
    stages = open_run(folder.shared, None).stages()
    feedback = stages.get("feedback", {})
    seeds = {run.seed for run in runs}
    frontier, attempts = _frontier(folder, plan), folder.frontier.attempts() if plan.frontier else []
    return ComparisonInputs(
        title=f"{config.model.policy}: {len(plan.algorithms)} algorithms, {len(seeds)} seeds",
        runs=runs,
        frontier=frontier,
        frontier_error=attempts[-1]["error"] if attempts and frontier is None else None,
        shared=_shared_facts(stages),
        settings={name: settings(plan.config(name, plan.seeds[0])) for name in plan.algorithms},
        judge=config.evaluation.judge,
        reward_source=config.reward.described("the shared preferences"),
        gold_source=feedback.get("gold"),
        simulated_annotators=bool(feedback.get("simulated", False)),
        reproduce=command,
        versions=_versions(runs),
        machine={"cores": os.cpu_count(), "jobs": _jobs(folder, runs)},
        config_toml=plan.to_toml(),
        seed=config.seed,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _frontier(folder: CompareDir, plan: Plan) -> Frontier | None:
    """The best of n on the test prompts: from the first seed of best-of-n where it is compared, else drawn apart."""
    seeds = sorted(seed for name, seed in folder.present() if name == SHARED_BY)
    for slot in (*(folder.slot(SHARED_BY, seed) for seed in seeds), folder.frontier):
        file = slot.path / "frontier.json"
        if plan.frontier and slot.finished() and file.exists():
            return read_frontier(file)
    return None


def _shared_facts(stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    facts: dict[str, Any] = {"seconds": {name: record["seconds"] for name, record in stages.items()}}
    feedback = stages.get("feedback", {})
    facts["feedback"] = {key: feedback[key] for key in ("source", "pairs", "ties", "prompts") if key in feedback}
    reward = stages.get("reward")
    facts["reward_model"] = reward and {key: reward[key] for key in ("accuracy", "baselines")}
    return facts


def _versions(runs: list[RunResult]) -> dict[str, str]:
    """Those of the first finished run, as they were when it was made."""
    reports = [run.report for run in runs if run.report is not None]
    return dict(reports[0]["versions"]) if reports else {}


def _jobs(folder: CompareDir, runs: list[RunResult]) -> list[int]:
    """How many runs were at work at once, over all attempts."""
    return sorted({one["jobs"] for run in runs for one in folder.slot(run.algorithm, run.seed).attempts()})
