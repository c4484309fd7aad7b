"""Stage 6: report.html and report.json from what the other stages wrote."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from humanward.alarm import Alarm
from humanward.algorithm_config import OFF_POLICY, ON_POLICY
from humanward.config import RunConfig
from humanward.errors import writing
from humanward.evaluation.best_of_n import Frontier, read_frontier
from humanward.evaluation.checks import independence_warnings
from humanward.evaluation.report import ReportInputs, write_report
from humanward.evaluation.rows import EvaluationRow, read_rows
from humanward.serving.card import model_card
from humanward.stages.best_of_n import FRONTIER
from humanward.stages.context import Run
from humanward.stages.off_policy import NO_REWARD
from humanward.stages.profile import FILE as PROFILE
from humanward.stages.profile import read_profile
from humanward.stages.scoring import reward_name, source_facts

LIBRARIES = ("humanward", "torch", "transformers", "peft", "numpy", "scipy")


def run_report(run: Run, *, reproduce: str | None = None) -> dict[str, Any]:
    """Write the report and return the content of report.json."""
    started = time.perf_counter()
    folder, config = run.folder, run.config
    align = folder.facts("align", f"run `humanward align --run {folder.path}`")
    folder.facts("evaluate", f"run `humanward evaluate --run {folder.path}`")
    stages = folder.stages()
    trained = config.reward.uses_trained and "reward" in stages
    feedback = stages.get("feedback", {})
    choosing, n = config.algorithm == "best-of-n", config.best_of_n.samples
    rows = read_rows(folder.file("evaluation.jsonl"))
    seconds: dict[str, float | None] = {
        name: stages[name]["seconds"] if name in stages else None for name in ("sample", "reward", "align", "evaluate")
    }
    seconds["feedback"] = feedback.get("seconds")
    seconds["total"] = sum(record["seconds"] for record in stages.values())
    # A report made again keeps its command: a run of a comparison is not reproduced by its configuration alone.
    earlier = stages.get("report", {}).get("reproduce")
    command = reproduce or earlier or f"humanward run {folder.file('config.toml')} --out NEW_FOLDER"
    command = _with_revision(command, config, folder.models())
    inputs = ReportInputs(
        rows=rows,
        metrics=folder.metrics(),
        reward_model=_reward_facts(stages["reward"]) if trained else None,
        kl={
            "at_start": align["kl_at_start"],
            "budget": config.ppo.kl_budget if config.algorithm in ON_POLICY else None,
        },
        judge=config.evaluation.judge,
        judge_reads=config.evaluation.judge_options.text,
        reward_source=_reward_source(config, rows),
        gold_source=feedback.get("gold"),
        simulated_annotators=bool(feedback.get("simulated", False)),
        warnings=[*_warnings(stages), *_shared_with_the_judge(config)],
        reproduce=command,
        versions={**versions(), **_models(folder.models())},
        seconds=seconds,
        config_toml=config.to_toml(),
        title=f"{config.model.policy}{f', best of {n}' if choosing else f' aligned by {config.algorithm.upper()}'}",
        seed=config.seed,
        created_at=stages["evaluate"]["finished"],
        algorithm=config.algorithm,
        frontier=_frontier(run),
        alarms=[_alarm(**alarm) for alarm in align.get("alarms", ())],
        reward_sources=source_facts(run),
        profile=read_profile(folder.file(PROFILE)),
        truncated={name: record["truncated"] for name, record in stages.items() if "truncated" in record},
    )
    report = write_report(inputs, folder.path)
    if run.policy_folder.is_dir():
        kind = "adapter" if config.model.train == "adapter" else "model"
        card = model_card(config, folder.models(), report, reward=reward_name(config), kind=kind)
        with writing(run.policy_folder / "README.md"):
            (run.policy_folder / "README.md").write_text(card, encoding="utf-8")
    folder.finish("report", time.perf_counter() - started, reproduce=command)
    return report


def _reward_source(config: RunConfig, rows: Sequence[EvaluationRow]) -> str:
    """What the report calls the reward; off-policy runs learn from preferences, and a reward at most watches."""
    if config.algorithm not in OFF_POLICY:
        return reward_name(config)
    if all(row.after.reward is None for row in rows):
        return NO_REWARD
    return f"preferences; {reward_name(config)} only watched"


def _frontier(run: Run) -> Frontier | None:
    """What best-of-n reaches, where this run's algorithm measured it."""
    file = run.folder.file(FRONTIER)
    measured = run.config.algorithm in (*ON_POLICY, "best-of-n")
    return read_frontier(file) if measured and file.exists() else None


def _alarm(step: int, **alarm: str) -> dict[str, Any]:
    """One alarm of training, with the line that stands for it among the warnings."""
    return {"step": step, **alarm, "line": f"step {step}: {Alarm(**alarm).line}"}


def _reward_facts(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("accuracy", "baselines", "difference_to_length", "members") if key in record}


def _warnings(stages: dict[str, dict[str, Any]]) -> list[str]:
    prompts = stages.get("prompts", {})
    lines = [
        f"{prompts[key]} {words} dropped"
        for key, words in (("duplicates", "duplicate prompts"), ("too_long", "prompts longer than the limit"))
        if prompts.get(key)
    ]
    feedback = stages.get("feedback", {})
    if feedback.get("source") == "preferences" and feedback.get("identical"):
        lines.append(f"{feedback['identical']} pairs with two identical sides dropped")
    lines += stages["align"]["warnings"]
    for stage, record in stages.items():
        lines += [
            f"{stage}: {cut} texts were longer than a classifier reads ({role}) and were truncated"
            for role, cut in record.get("truncated", {}).items()
            if cut
        ]
    return lines


def _shared_with_the_judge(config: RunConfig) -> list[str]:
    """A warning where one of the combined sources is the judge, which then measures what was optimised."""
    judge = config.evaluation.judge
    classifiers = [source.classifier for source in config.reward.sources if source.kind == "classifier"]
    return independence_warnings(judge, judge, None) if judge in classifiers else []


def _models(models: dict[str, dict[str, str | None]]) -> dict[str, str]:
    """What served each use, with its commit on the hub or its folder's digest."""
    found = {}
    for use, model in models.items():
        kind = "commit" if "commit" in model else "sha256"
        found[use] = f"{model['name']} ({kind} {model[kind] or 'unknown'})"
    return found


def _with_revision(command: str, config: RunConfig, models: dict[str, dict[str, str | None]]) -> str:
    """The command with the policy's commit, where it came from the hub and the command does not name it."""
    commit = models.get("policy", {}).get("commit")
    if commit is None or commit == config.model.revision or commit in command:
        return command
    return command.replace(" --out ", f" --set model.revision={commit} --out ")


def versions() -> dict[str, str]:
    """Python, platform and the libraries that decide results."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
