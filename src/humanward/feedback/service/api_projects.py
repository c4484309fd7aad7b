"""Projects, their criteria and guidelines, one's own progress."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy.orm import Session

from humanward.feedback.service.auth import Me, TheStore
from humanward.feedback.service.schemas import (
    CriterionChange,
    CriterionReply,
    Id,
    MyProgress,
    ProjectBody,
    ProjectChange,
    ProjectReply,
)
from humanward.feedback.store import projects
from humanward.feedback.store.audit import Actor
from humanward.feedback.store.models import Project
from humanward.feedback.store.people import require, role_in
from humanward.feedback.store.progress import my_progress
from humanward.feedback.store.tasks import person

router = APIRouter(tags=["projects"])
_SETTINGS = tuple(ProjectChange.model_fields)


@router.get("/projects")
def list_projects(store: TheStore, actor: Me) -> list[ProjectReply]:
    """All projects that one may see."""
    with store.read() as db:
        return [_reply(db, project, role) for project, role in projects.projects_of(db, actor)]


@router.post("/projects", status_code=201)
def create_project(body: ProjectBody, store: TheStore, actor: Me) -> ProjectReply:
    """A new project (owners only)."""
    values = body.model_dump(exclude={"name", "criteria"})
    specs = [projects.CriterionSpec(**c.model_dump()) for c in body.criteria]
    made = projects.create_project(store, actor, body.name, projects.ProjectSettings(**values), specs)
    return _read(store, actor, made.id)


@router.get("/projects/{project_id}")
def get_project(project_id: Id, store: TheStore, actor: Me) -> ProjectReply:
    """Settings, criteria with guidelines, progress."""
    return _read(store, actor, project_id)


@router.patch("/projects/{project_id}")
def change_project(project_id: Id, body: ProjectChange, store: TheStore, actor: Me) -> ProjectReply:
    """Change settings (admins)."""
    changes = {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}
    projects.change_project(store, actor, project_id, changes)
    return _read(store, actor, project_id)


@router.patch("/projects/{project_id}/criteria/{name}")
def change_criterion(project_id: Id, name: str, body: CriterionChange, store: TheStore, actor: Me) -> CriterionReply:
    """Change a criterion's title, short text or guidelines (admins)."""
    changes = {key: value for key, value in body.model_dump(exclude_unset=True).items() if value is not None}
    row = projects.change_criterion(store, actor, project_id, name, changes)
    return CriterionReply.model_validate(row, from_attributes=True)


@router.get("/projects/{project_id}/me")
def my_own_progress(project_id: Id, store: TheStore, actor: Me) -> MyProgress:
    """How far one is oneself, and one's agreement with the gold items."""
    with store.read() as db:
        require(db, actor, project_id, "annotator")
        return MyProgress(**my_progress(db, person(actor), project_id))


def _read(store: TheStore, actor: Actor, project_id: int) -> ProjectReply:
    with store.read() as db:
        project = require(db, actor, project_id, "annotator")
        return _reply(db, project, role_in(db, actor, project_id) or "")


def _reply(db: Session, project: Project, role: str) -> ProjectReply:
    return ProjectReply(
        id=project.id,
        name=project.name,
        role=role,
        criteria=[CriterionReply.model_validate(c, from_attributes=True) for c in projects.criteria_of(db, project.id)],
        progress=projects.progress(db, project.id),
        **{name: getattr(project, name) for name in _SETTINGS},
    )
