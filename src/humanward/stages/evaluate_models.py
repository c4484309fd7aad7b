"""`humanward evaluate A B ...`: any number of models on the same prompts and random numbers, judged and compared.

Everything lies in one folder: answers/, judged/, wins/, people/, evaluate.json, evaluate.html. A stopped evaluation
goes on where it was; more models, sets or judges extend a folder that is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from humanward.errors import InputError
from humanward.evaluation.checks import independence_warnings
from humanward.evaluation.protocols.content import EvaluationInputs, SetResult, build_evaluation
from humanward.evaluation.protocols.page import render_evaluation
from humanward.evaluation.protocols.sets import KINDS
from humanward.progress import Reporter
from humanward.prompts import content_key, opening_key
from humanward.records import Preference, Prompt, read_jsonl
from humanward.run_dir import write_text
from humanward.stages.evaluate_answers import EvaluationDir, write_answers
from humanward.stages.evaluate_judging import collect, duels
from humanward.stages.evaluate_plan import EvaluationPlan, SetPlan, check_win_rates
from humanward.stages.report import versions

CONTENT, PAGE = "evaluate.json", "evaluate.html"


def run_evaluation(
    plan: EvaluationPlan, out: Path, *, reporter: Reporter, command: str, device: str = "auto"
) -> dict[str, Any]:
    """Answer, judge and compare; write evaluate.json and evaluate.html; return the content of the former."""
    check_win_rates(plan)
    sets, trained_on = _untrained(plan)
    plan = replace(plan, sets=sets)
    folder = EvaluationDir(out)
    write_answers(folder, plan.candidates, plan.sets, seed=plan.seed, reporter=reporter)
    found = collect(folder, plan, reporter, device)
    results = [
        SetResult(
            one.set,
            found[one.set.name],
            one.samples,
            _sampling(one),
            duels(folder, plan, one, found[one.set.name], reporter),
            trained_on[one.set.name],
        )
        for one in plan.sets
    ]
    with reporter.track("intervals and tests", len(results)) as tracker:
        content = build_evaluation(_inputs(plan, results, command), tracker.at)
    write_text(out / CONTENT, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(out / PAGE, render_evaluation(content))
    return content


def _inputs(plan: EvaluationPlan, results: Sequence[SetResult], command: str) -> EvaluationInputs:
    endpoint = plan.endpoint
    return EvaluationInputs(
        models={candidate.name: candidate.facts() for candidate in plan.candidates},
        sets=results,
        judges={judge.name: {"classifier": judge.classifier, "label": judge.label} for judge in plan.judges},
        rewards={name: {"source": source} for name, source in plan.rewards},
        judge_model=None if endpoint is None else {"url": endpoint.url, "model": endpoint.model},
        seed=plan.seed,
        reproduce=command,
        versions=versions(),
        machine={"cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS", "not set")},
        independence=_dependent(plan),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _sampling(one: SetPlan) -> dict[str, Any]:
    return one.sampling.model_dump(include={"max_new_tokens", "temperature", "top_k", "top_p"}) if one.samples else {}


def _dependent(plan: EvaluationPlan) -> list[str]:
    """Warnings for judges that rewarded a model's training, ranked for it, or are the reward that picks winners."""
    found = [
        f"The judge {judge.name} rewarded or ranked what {candidate.name} was trained on: the result shows what was "
        "optimised, not what changed. Judge with a classifier trained on other data."
        for candidate in plan.candidates
        for judge in plan.judges
        if judge.classifier in candidate.optimised
    ]
    for judge in plan.judges:
        for _, source in plan.rewards:
            found += independence_warnings(judge.classifier, source, None)
    for candidate in plan.candidates:
        for name, source in plan.rewards:
            own = candidate.run is not None and Path(source).expanduser().resolve().is_relative_to(
                candidate.run.resolve()
            )
            if own or source in candidate.optimised:
                found.append(
                    f"The reward {name} is what {candidate.name} was trained to raise: that it is higher shows that "
                    "the training worked, not that the answers are better."
                )
    return list(dict.fromkeys(found))


# --- what was trained on ---------------------------------------------------------------------------------------------


def _untrained(plan: EvaluationPlan) -> tuple[tuple[SetPlan, ...], dict[str, dict[str, int]]]:
    """The sets without prompts that a model was trained on, and how many those were by set and model.

    Raises InputError where a set that is published for evaluation alone was trained on, or nothing is left.
    """
    seen = {candidate.name: _seen(candidate.run) for candidate in plan.candidates if candidate.run is not None}
    counts: dict[str, dict[str, int]] = {one.set.name: {} for one in plan.sets}
    sets = []
    for one in plan.sets:
        items = one.set.items
        for model, keys in seen.items():
            known = {i.id for i in items if content_key(i.prompt) in keys or opening_key(i.prompt) in keys}
            if known and KINDS[one.set.kind].never_trained_on:
                raise InputError(
                    f"{one.set.path}: {model} was trained on {len(known)} of its prompts; a set published for "
                    "evaluation tells nothing of a model that saw it, so leave one of the two out"
                )
            if known:
                counts[one.set.name][model] = len(known)
            items = tuple(item for item in items if item.id not in known)
        if not items:
            raise InputError(
                f"{one.set.path}: the models were trained on all of its prompts; name others to evaluate on"
            )
        sets.append(replace(one, set=replace(one.set, items=items)))
    return tuple(sets), counts


def _seen(run: Path | None) -> set[str]:
    """Content and opening of every prompt that a run's training or reward model learnt from."""
    assert run is not None
    found: set[str] = set()
    prompts = run / "prompts.jsonl"
    preferences = run / "preferences.jsonl"
    shown = [p for p in read_jsonl(prompts, Prompt) if p.split != "test"] if prompts.exists() else []
    if preferences.exists():
        shown += [p.prompt for p in read_jsonl(preferences, Preference) if p.split != "test"]
    for prompt in shown:
        found |= {content_key(prompt), opening_key(prompt)}
    return found
