"""Projects: what is judged, by which criteria, how often."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.orm import Session

from humanward.errors import InputError
from humanward.feedback.guidelines import DEFAULTS
from humanward.feedback.store.audit import Actor, record
from humanward.feedback.store.errors import conflict, forbidden, invalid
from humanward.feedback.store.models import (
    MODES,
    Assignment,
    Criterion,
    Flag,
    Membership,
    Project,
    Task,
)
from humanward.feedback.store.people import require, role_in
from humanward.feedback.store.session import Store

LIMITS: dict[str, tuple[float, float]] = {
    "overlap": (1, 100),
    "max_overlap": (1, 100),
    "rating_scale": (2, 10),
    "lease_seconds": (30, 86_400),
    "gold_share": (0, 1),
    "extra_above": (0, 1),
}
MOST_CRITERIA = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


@dataclass(frozen=True)
class CriterionSpec:
    """A criterion to be; what is left empty is taken from the defaults of its name."""

    name: str
    title: str = ""
    short: str = ""
    guidelines: str = ""


@dataclass(frozen=True)
class ProjectSettings:
    """The settings of a project; the columns of ``Project`` explain them."""

    description: str = ""
    mode: str = "ranking"
    rating_scale: int = 5
    overlap: int = 1
    max_overlap: int = 0
    extra_above: float = 0.34
    lease_seconds: int = 1800
    gold_share: float = 0.1
    allow_ties: bool = True
    allow_none_acceptable: bool = True


def create_project(
    store: Store,
    actor: Actor,
    name: str,
    settings: ProjectSettings | None = None,
    criteria: Sequence[CriterionSpec] = (CriterionSpec("overall"),),
) -> Project:
    """A new project; its maker becomes its admin. Raises RefusedError for a taken name or a setting out of bounds."""
    settings = settings or ProjectSettings()
    if not actor.owner:
        raise forbidden("only an owner of this server may create projects")
    name = name.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise invalid("name", "is empty, longer than 100 characters or not printable; choose another")
    values = asdict(settings)
    values["max_overlap"] = values["max_overlap"] or settings.overlap
    check_settings(values)
    check_criteria(criteria)
    with store.write() as db:
        if db.scalar(select(Project.id).where(Project.name == name)) is not None:
            raise conflict("name_taken", f"project {name!r}: there is one already; choose another name")
        project = Project(name=name, archived=False, created_at=store.now(), **values)
        db.add(project)
        db.flush()
        _add_criteria(db, project.id, criteria)
        if actor.user_id is not None:
            db.add(Membership(user_id=actor.user_id, project_id=project.id, role="admin", created_at=store.now()))
        record(db, store.now(), actor, "project.create", f"project {project.id}", project.id, name=name, **values)
        return project


def replace_criteria(db: Session, project_id: int, criteria: Sequence[CriterionSpec]) -> None:
    """Other criteria for a project in which nobody has judged yet."""
    check_criteria(criteria)
    db.execute(delete(Criterion).where(Criterion.project_id == project_id))
    _add_criteria(db, project_id, criteria)


def _add_criteria(db: Session, project_id: int, criteria: Sequence[CriterionSpec]) -> None:
    for position, spec in enumerate(criteria):
        default = DEFAULTS.get(spec.name, DEFAULTS["overall"])
        db.add(
            Criterion(
                project_id=project_id,
                name=spec.name,
                title=spec.title or (default.title if spec.name in DEFAULTS else spec.name),
                short=spec.short or default.short,
                guidelines=spec.guidelines or default.text,
                position=position,
            )
        )
    db.flush()


def change_project(store: Store, actor: Actor, project_id: int, changes: dict[str, Any]) -> Project:
    """Change settings; a new overlap holds for all tasks at once. The mode stays when there are tasks already."""
    with store.write() as db:
        project = require(db, actor, project_id, "admin")
        asked = tuple(changes)
        if "overlap" in changes and "max_overlap" not in changes:
            # A project that never asked for more goes on so; otherwise the most stays, if it still is the most.
            more = project.max_overlap > project.overlap
            changes = changes | {"max_overlap": max(project.max_overlap if more else 0, changes["overlap"])}
        before = {name: getattr(project, name) for name in asked}
        values = {name: getattr(project, name) for name in (*LIMITS, "mode")} | changes
        check_settings(values)
        if values["mode"] != project.mode and _count(db, Task, project_id):
            raise conflict("has_tasks", f"project {project.name}: its mode stays, as there are tasks; make another")
        for name, value in changes.items():
            setattr(project, name, value)
        if "overlap" in changes:
            _spread_overlap(db, project)
        record(
            db,
            store.now(),
            actor,
            "project.change",
            f"project {project.id}",
            project.id,
            before=before,
            after={name: changes[name] for name in asked},
        )
        return project


def change_criterion(store: Store, actor: Actor, project_id: int, name: str, changes: dict[str, str]) -> Criterion:
    """Change a criterion's title, short text or guidelines."""
    with store.write() as db:
        require(db, actor, project_id, "admin")
        row = db.scalar(select(Criterion).where(Criterion.project_id == project_id, Criterion.name == name))
        if row is None:
            raise invalid("criterion", f"{name!r} is not one of this project", "unknown_criterion")
        before = {field: getattr(row, field) for field in changes}
        for field, value in changes.items():
            setattr(row, field, value)
        record(db, store.now(), actor, "project.criterion", name, project_id, before=before, after=changes)
        return row


def check_settings(values: dict[str, Any]) -> None:
    """Raise RefusedError naming the setting that is out of bounds."""
    if values["mode"] not in MODES:
        raise invalid("mode", f"{values['mode']!r} is not one of {', '.join(MODES)}")
    for name, (low, high) in LIMITS.items():
        if not low <= values[name] <= high:
            raise invalid(name, f"{values[name]} is not between {low:g} and {high:g}; choose another")
    if values["max_overlap"] < values["overlap"]:
        raise invalid("max_overlap", f"{values['max_overlap']} is less than overlap={values['overlap']}; raise it")


def check_criteria(criteria: Sequence[CriterionSpec]) -> None:
    """Raise RefusedError for none, too many, two of a name, or a name that is no short word."""
    if not 1 <= len(criteria) <= MOST_CRITERIA:
        raise invalid("criteria", f"{len(criteria)} are not between 1 and {MOST_CRITERIA}")
    names = [spec.name for spec in criteria]
    for name in names:
        if not _NAME.fullmatch(name):
            raise invalid("criteria", f"name {name!r}: use letters, digits, . _ and -, at most 60")
    if len(set(names)) < len(names):
        raise invalid("criteria", "two have the same name; rename one")


def criteria_of(db: Session, project_id: int) -> list[Criterion]:
    """In their order."""
    return list(db.scalars(select(Criterion).where(Criterion.project_id == project_id).order_by(Criterion.position)))


_CRITERIA = select(Criterion.name).where(Criterion.project_id == bindparam("project")).order_by(Criterion.position)


def names_of_criteria(db: Session, project_id: int) -> list[str]:
    """In their order; for what runs often, as guidelines are long."""
    return list(db.scalars(_CRITERIA, {"project": project_id}))


def project_named(db: Session, name: str) -> Project | None:
    """The project of that name."""
    return db.scalar(select(Project).where(Project.name == name))


def the_project(db: Session, name: str) -> Project:
    """The project of that name, or without one the only project; raises InputError naming those there are."""
    found = list(db.scalars(select(Project).order_by(Project.name)))
    chosen = [project for project in found if project.name == name] if name else found
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(project.name for project in found) or "none"
    if name:
        raise InputError(f"--project {name!r}: there is no such project; there are: {names}")
    raise InputError(f"--project: is missing; name one of: {names}")


def projects_of(db: Session, actor: Actor) -> list[tuple[Project, str]]:
    """(project, the actor's role) for all that the actor may see, by name."""
    if actor.only_project is not None:
        one, role = db.get(Project, actor.only_project), role_in(db, actor, actor.only_project)
        return [(one, role)] if one is not None and role is not None else []
    query = select(Project).order_by(Project.name)
    if actor.owner:
        return [(project, "admin") for project in db.scalars(query)]
    rows = db.execute(
        query.join(Membership, Membership.project_id == Project.id)
        .where(Membership.user_id == actor.user_id)
        .add_columns(Membership.role)
    )
    return [(project, role) for project, role in rows]


def progress(db: Session, project_id: int) -> dict[str, int]:
    """How many tasks there are in each state, opinions wanted and given, live leases, open flags."""
    states: dict[str, int] = dict.fromkeys(("open", "done", "gold", "excluded"), 0)
    wanted = given = 0
    rows = db.execute(
        select(Task.state, func.count(), func.sum(Task.quota), func.sum(Task.opinions))
        .where(Task.project_id == project_id)
        .group_by(Task.state)
    )
    for state, count, quota, opinions in rows:
        states[state] = count
        if state in ("open", "done"):
            wanted += int(quota)
            given += int(opinions)
    leases = db.scalar(select(func.count()).where(Assignment.project_id == project_id, Assignment.state == "leased"))
    flags = db.scalar(select(func.count()).where(Flag.project_id == project_id, Flag.resolved_at.is_(None)))
    return states | {
        "tasks": sum(states.values()),
        "opinions_wanted": wanted,
        "opinions": given,
        "leases": leases or 0,
        "open_flags": flags or 0,
    }


def _spread_overlap(db: Session, project: Project) -> None:
    for task in db.scalars(select(Task).where(Task.project_id == project.id, Task.state.in_(("open", "done")))):
        task.quota = project.overlap
        task.state = "done" if task.opinions >= task.quota else "open"
        task.available = task.state == "open" and task.reserved < task.quota


def _count(db: Session, table: Any, project_id: int) -> int:
    return db.scalar(select(func.count()).select_from(table).where(table.project_id == project_id)) or 0
