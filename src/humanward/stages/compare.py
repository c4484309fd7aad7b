"""Several algorithms from one start: the shared stages once, then a process for every algorithm and seed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from humanward.algorithm_config import ALGORITHMS, OFF_POLICY
from humanward.config import RunConfig
from humanward.errors import InputError, writing
from humanward.progress import Reporter
from humanward.run_dir import STAGES, open_run, write_text
from humanward.stages.compare_child import Task
from humanward.stages.compare_folder import FILES_OF, CompareDir, Slot
from humanward.stages.compare_plan import SHARED_BY, Plan
from humanward.stages.compare_processes import LOOK, STOPPED, Child, Ended, look, start, stop, wait
from humanward.stages.compare_report import write_comparison
from humanward.stages.order import needed

PLAN = "compare.toml"
TELL = 5.0  # seconds between looks at what the runs are at
Job = tuple[Slot, RunConfig]


def run_compare(plan: Plan, out: Path, *, jobs: int, reporter: Reporter, given: Sequence[str]) -> dict[str, Any]:
    """Run what has not finished, and write the comparison after every run; returns the content of compare.json.

    ``given``: the configuration and overrides of the command line. Raises InputError before any work for a folder that
    does not fit.
    """
    folder = CompareDir(out)
    folder.check(plan)
    with folder.locked():
        _share(plan, folder, reporter)
        plan = _with_those_present(plan, folder)
        write_text(out / PLAN, plan.to_toml())
        command = _command(plan, folder, given)
        write = partial(write_comparison, folder, plan, command)
        _run_all(_jobs(plan, folder, reporter), folder, jobs, reporter, write, command)
        return write()


def stages_of(config: RunConfig) -> list[str]:
    """The shared stages that a run of this configuration starts from.

    An off-policy run learns without a reward model, but is measured by it.
    """
    stages = [name for name in needed(config) if name in FILES_OF]
    if config.algorithm in OFF_POLICY and config.reward.trains:
        stages.append("reward")
    return [name for name in FILES_OF if name in stages]


def _share(plan: Plan, folder: CompareDir, reporter: Reporter) -> None:
    """Run the shared stages that the plan's algorithms need and that have not finished, in a process of their own."""
    config = plan.shared()
    wanted = {stage for name in plan.algorithms for stage in stages_of(plan.config(name, plan.seeds[0]))}
    stages = tuple(name for name in FILES_OF if name in {*wanted, *stages_of(config)})
    began = (folder.shared / STAGES).exists()
    run = open_run(folder.shared, None if began else config)
    if all(name in run.stages() for name in stages):
        reporter.say("compare: the shared stages finished before, not run again")
        return
    reporter.say(f"compare: {', '.join(stages)}, once for all runs")
    attended = config.feedback.source == "terminal" and "feedback" not in run.stages()
    with tempfile.TemporaryDirectory() as temporary:
        facts = str(Path(temporary) / "facts.json")
        ended = wait(start(Task(str(folder.shared), facts, stages, "", reporter.quiet, attended), None, {}))
    if ended.code == STOPPED:
        raise KeyboardInterrupt
    if ended.error is None:
        return
    if not ended.wrong_input:
        raise RuntimeError(f"the shared stages failed: {ended.error}")
    if not began and not run.stages():
        _take_away(folder)
    raise InputError(ended.error)


def _take_away(folder: CompareDir) -> None:
    """Bad input that was found before any stage had finished leaves nothing behind."""
    shutil.rmtree(folder.shared)
    for path in folder.path.iterdir():
        path.unlink()  # the lock alone: the folder was new
    folder.path.rmdir()


def _with_those_present(plan: Plan, folder: CompareDir) -> Plan:
    """The plan with the algorithms and seeds that are in the folder already: none is left out of the comparison."""
    present = folder.present()
    for name, seed in present:
        folder.check_origin(folder.slot(name, seed))
    names = {*plan.algorithms, *(name for name, _ in present)}
    return replace(plan, algorithms=tuple(name for name in ALGORITHMS if name in names))


def _command(plan: Plan, folder: CompareDir, given: Sequence[str]) -> str:
    """What makes the whole comparison again, those runs included that earlier commands made."""
    seeds = max(seed for _, seed in (*plan.asked, *folder.present())) + 1 - plan.seeds[0]
    names = ",".join(plan.algorithms)
    command = ("humanward", "compare", *given, "--algorithms", names, "--seeds", str(seeds), "--out", "NEW_FOLDER")
    return shlex.join(command)


def _jobs(plan: Plan, folder: CompareDir, reporter: Reporter) -> list[Job]:
    """The runs that were asked for and have not finished, the one that draws the frontier first."""
    asked = [(folder.slot(name, seed), plan.config(name, seed)) for name, seed in plan.asked]
    left = [(slot, config) for slot, config in asked if not slot.finished()]
    if len(left) < len(asked):
        reporter.say(f"compare: {len(asked) - len(left)} of {len(asked)} runs finished before, not run again")
    drawn = SHARED_BY in plan.algorithms or folder.frontier.finished()
    return left if drawn or not plan.frontier else [(folder.frontier, plan.shared()), *left]


# --- the runs --------------------------------------------------------------------------------------------------------


def _run_all(
    left: list[Job], folder: CompareDir, jobs: int, reporter: Reporter, write: Callable[[], Any], command: str
) -> None:
    """Run all of them, ``jobs`` at once; the failure of one is recorded and stops no other."""
    total, active, told = len(left), list[tuple[Slot, Child]](), 0.0
    with tempfile.TemporaryDirectory() as temporary, reporter.track("compare", total) as tracker:
        try:
            while left or active:
                while left and len(active) < jobs:
                    slot, config = left.pop(0)
                    active.append((slot, _begin(slot, config, folder, Path(temporary), jobs, command)))
                time.sleep(LOOK)
                for slot, child in list(active):
                    if (ended := look(child)) is None:
                        continue
                    active.remove((slot, child))
                    _record(slot, ended, jobs)
                    if ended.code == STOPPED:
                        raise KeyboardInterrupt
                    _tell(slot, ended, reporter)
                    write()
                # Reading the runs' files takes time from the runs, so not at every look.
                if time.monotonic() - told > TELL or not active:
                    tracker.at(total - len(left) - len(active), "  ".join(_words(slot) for slot, _ in active))
                    told = time.monotonic()
        except BaseException:
            stop([child for _, child in active])
            for slot, child in active:
                if (ended := look(child)) is not None:
                    _record(slot, ended, jobs)
            raise


def _begin(slot: Slot, config: RunConfig, folder: CompareDir, temporary: Path, jobs: int, command: str) -> Child:
    if slot.run() is None:
        folder.begin(slot, config, stages_of(config))
    folder.check_origin(slot)
    with writing(slot.log):
        slot.log.parent.mkdir(exist_ok=True)
    return start(Task(str(slot.path), str(temporary / f"{slot.path.name}.json"), (), command), slot.log, _threads(jobs))


def _threads(jobs: int) -> dict[str, str]:
    """The environment that shares the cores among the jobs, unless the user has said how many threads there are."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // jobs))}


def _record(slot: Slot, ended: Ended, jobs: int) -> None:
    slot.record_attempt(
        code=ended.code,
        error=ended.error,
        seconds=round(ended.seconds, 1),
        peak_gigabytes=None if ended.peak_gigabytes is None else round(ended.peak_gigabytes, 3),
        jobs=jobs,
        **ended.facts,
    )


def _tell(slot: Slot, ended: Ended, reporter: Reporter) -> None:
    if ended.error is not None:
        reporter.warn(f"{slot.title}: failed after {ended.seconds:.0f} s: {ended.error} (more in {slot.log})")
        return
    report = json.loads((slot.path / "report.json").read_text(encoding="utf-8"))
    sides = (report["toxicity"][side]["mean"] for side in ("before", "after"))
    moved = " -> ".join("not measured" if value is None else f"{value:.3f}" for value in sides)
    far = "" if report["kl"]["final"] is None else f", KL {report['kl']['final']:.2f}"
    reporter.say(f"{slot.title}: toxicity {moved}{far}, {ended.seconds:.0f} s")


def _words(slot: Slot) -> str:
    """What a run is at, from its files: the step of its training, or the last stage that has finished."""
    run = slot.run()
    stages: Sequence[str] = [] if run is None else list(run.stages())
    if run is None or "align" in stages:
        return f"{slot.title}: after {stages[-1]}" if stages else slot.title
    last = run.metrics()[-1:]
    steps = [value for row in last for key, value in row.items() if key in ("ppo/step", "offline/step")]
    return f"{slot.title}: step {steps[0]:.0f}" if steps else slot.title
