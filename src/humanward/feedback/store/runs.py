"""Between a run directory and the store: its answers go in, what people said comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select

from humanward.errors import InputError
from humanward.feedback.files import COMPLETIONS, PROMPTS, RANKINGS, Feedback, read_records
from humanward.feedback.store import projects
from humanward.feedback.store.answers import ADJUDICATION
from humanward.feedback.store.audit import TERMINAL
from humanward.feedback.store.models import Project
from humanward.feedback.store.session import Store, sqlite_url
from humanward.feedback.store.transfer import Added, add_feedback, load_feedback
from humanward.preferences import current_rankings
from humanward.records import Completion, Prompt, Ranking

RUN_PROJECT = "run"
STORE, UNCERTAINTY = "feedback.db", "uncertainty.json"
PAIRS = ("hh-rlhf", "trl", "trl-plain")


def store_of_run(run: Path) -> Path:
    """Where a run keeps its store."""
    return run / STORE


def check_run(run: Path) -> None:
    """Raise InputError for a run without completions, before a store is made in it."""
    if not (run / COMPLETIONS).exists():
        raise InputError(f"{run}: holds no completions yet; run `humanward sample --run {run}` first")


def load_run(store: Store, run: Path, *, overlap: int = 1, criteria: tuple[str, ...] = ()) -> tuple[Project, Added]:
    """The run's prompts and completions, and rankings by people that it holds, as the project ``run``.

    What the store has already stays. Raises InputError without completions.
    """
    check_run(run)
    feedback = _run_feedback(run)
    with store.read() as db:
        project = projects.project_named(db, RUN_PROJECT)
    if project is None:
        specs = [projects.CriterionSpec(name) for name in criteria or ("overall",)]
        settings = projects.ProjectSettings(description=f"Answers of {run.resolve().name}", overlap=overlap)
        project = projects.create_project(store, TERMINAL, RUN_PROJECT, settings, specs)
    return project, add_feedback(store, TERMINAL, project.id, feedback, uncertainty=_uncertainty(run))


def _uncertainty(run: Path) -> dict[str, float]:
    """By prompt id, how unsure the reward of the round before was; empty where no round chose the prompts."""
    file = run / UNCERTAINTY
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _run_feedback(run: Path) -> Feedback:
    """The run's records that people can rank: prompts with completions, and the rankings by people."""
    completions = [record for _, record in read_records(run / COMPLETIONS, Completion)]
    answered = {completion.prompt_id for completion in completions}
    prompts = [p for _, p in read_records(run / PROMPTS, Prompt) if p.id in answered]
    rankings: list[Ranking] = []
    if (run / RANKINGS).exists():
        rankings = [r for _, r in read_records(run / RANKINGS, Ranking) if not r.simulated]
    return Feedback(tuple(prompts), tuple(completions), tuple(rankings))


def collected(run: Path, url: str | None = None, project: str | None = None) -> Feedback:
    """What people said about the answers of a run: from its own store, or from a project of another database.

    Only rankings in force, and of a task that a reviewer decided the decision alone. Raises InputError when there is no
    store, no such project, or nothing was ranked.
    """
    if url is None and not store_of_run(run).exists():
        raise InputError(
            f"{run}: holds no {STORE}; rank with `humanward collect --run {run}`, or set feedback.db to a database"
        )
    store = Store(url or sqlite_url(store_of_run(run)))
    try:
        with store.read() as db:
            found = list(db.scalars(select(Project).order_by(Project.id)))
        name = project or RUN_PROJECT
        chosen = next((one for one in found if one.name == name), None)
        if chosen is None:
            names = ", ".join(one.name for one in found) or "none"
            raise InputError(f"{store.shown_url}: has no project {name!r} (there are: {names}); set feedback.project")
        feedback = load_feedback(store, chosen.id)
    finally:
        store.close()
    rankings = settled(feedback.rankings)
    if not rankings:
        raise InputError(f"{store.shown_url}: nothing was ranked in project {name!r} yet; rank some first")
    return Feedback(feedback.prompts, feedback.completions, rankings)


def feedback_for(store: Store, project_id: int, form: str) -> Feedback:
    """What a project holds; for an export as pairs, a reviewer's decision stands in place of what it decides."""
    feedback = load_feedback(store, project_id)
    return replace(feedback, rankings=settled(feedback.rankings)) if form in PAIRS else feedback


def settled(rankings: tuple[Ranking, ...]) -> tuple[Ranking, ...]:
    """The rankings in force; where a reviewer decided, the last decision alone."""
    decisions: dict[tuple[str, str, frozenset[str]], Ranking] = {}
    live = current_rankings(rankings)
    for ranking in live:
        if ranking.annotator.endswith(ADJUDICATION):
            decisions[_subject(ranking)] = ranking
    return tuple(r for r in live if decisions.get(_subject(r), r) is r)


def _subject(ranking: Ranking) -> tuple[str, str, frozenset[str]]:
    shown = ranking.shown_order or tuple(c for tier in ranking.tiers for c in tier)
    return ranking.prompt_id, ranking.criterion, frozenset(shown)
