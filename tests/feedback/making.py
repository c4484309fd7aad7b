"""Projects, people and tasks for tests."""

from __future__ import annotations

from typing import Any

from humanward.feedback.files import Feedback
from humanward.feedback.store import people, projects
from humanward.feedback.store.answers import LETTERS, Answer, Judgement
from humanward.feedback.store.audit import TERMINAL, Actor
from humanward.feedback.store.models import Assignment, Membership, Project
from humanward.feedback.store.session import Store
from humanward.feedback.store.transfer import add_feedback
from humanward.records import Completion, Prompt


def items(count: int, answers: int = 3) -> Feedback:
    """``count`` prompts p0, p1, ... with answers p0a, p0b, ... by models named secret-model-0 and so on."""
    prompts = tuple(Prompt(f"p{i}", f"prompt {i}") for i in range(count))
    completions = tuple(
        Completion(f"{p.id}{LETTERS[k].lower()}", p.id, f"answer {LETTERS[k]} to {p.id}", f"secret-model-{k}")
        for p in prompts
        for k in range(answers)
    )
    return Feedback(prompts, completions)


def make_project(
    store: Store,
    *,
    count: int = 3,
    answers: int = 3,
    criteria: tuple[str, ...] = ("overall",),
    name: str = "demo",
    uncertainty: dict[str, float] | None = None,
    **settings: Any,
) -> Project:
    """A project with ``count`` tasks of ``answers`` answers; no gold items come by chance."""
    specs = [projects.CriterionSpec(criterion) for criterion in criteria]
    settings = {"gold_share": 0.0, **settings}
    project = projects.create_project(store, TERMINAL, name, projects.ProjectSettings(**settings), specs)
    add_feedback(store, TERMINAL, project.id, items(count, answers), uncertainty=uncertainty)
    return project


def person(
    store: Store, name: str, project: Project | None = None, role: str = "annotator", owner: bool = False
) -> Actor:
    """Somebody new with a role in a project."""
    user = people.add_user(store, name, owner=owner)
    if project is not None:
        with store.write() as db:
            db.add(Membership(user_id=user.id, project_id=project.id, role=role, created_at=store.now()))
    return Actor(user.id, name, owner, "session")


def order(own: Assignment, best_first: str) -> Judgement:
    """A ranking without ties by the ids' last letters, as letters on this person's screen: ``order(own, "bac")``."""
    letter = {completion[-1]: LETTERS[i] for i, completion in enumerate(own.shown_order)}
    return Judgement(tuple((letter[c],) for c in best_first))


def answer(own: Assignment, best_first: str, client_id: str = "client-1", **more: Any) -> Answer:
    """An answer under the criterion ``overall``."""
    return Answer(client_id, {"overall": order(own, best_first)}, **more)
