"""Labelling: claim, draft, submit, skip, release, flag, one's own history."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from humanward.feedback.service.auth import Me, TheStore
from humanward.feedback.service.schemas import (
    ClaimReply,
    DraftBody,
    FlagBody,
    FlagReply,
    HistoryEntry,
    HistoryReply,
    Id,
    JudgementBody,
    LeaseReply,
    MessageReply,
    ReceiptReply,
    ShownAnswer,
    SkipBody,
    SubmitBody,
    TaskReply,
)
from humanward.feedback.store import answers, tasks
from humanward.feedback.store.audit import Actor
from humanward.feedback.store.errors import invalid, not_found
from humanward.feedback.store.models import (
    Assignment,
    CompletionRow,
    Project,
    PromptRow,
    RankingRow,
    RatingRow,
    Submission,
    Task,
)
from humanward.feedback.store.people import require
from humanward.feedback.store.session import Store
from humanward.feedback.store.transfer import to_prompt

router = APIRouter(tags=["labelling"])


@router.post("/projects/{project_id}/claim")
def claim(project_id: Id, store: TheStore, actor: Me) -> ClaimReply:
    """The task that one holds a lease on, or else a lease on the next; ``task`` is null when none is left."""
    own = tasks.claim(store, actor, project_id)
    if own is None:
        return ClaimReply(task=None)
    with store.read() as db:
        return ClaimReply(task=_view(db, store, own))


@router.get("/tasks/{task_id}")
def get_task(task_id: str, store: TheStore, actor: Me) -> TaskReply:
    """A task that one was given, whatever became of it: to go on, to look back, to edit."""
    with store.read() as db:
        return _view(db, store, _own(db, actor, task_id))


@router.post("/tasks/{task_id}/renew")
def renew(task_id: str, store: TheStore, actor: Me) -> LeaseReply:
    """Extend the lease to its full length; one that ran out is taken again while there is a place."""
    return _lease(store, tasks.renew(store, actor, task_id))


@router.put("/tasks/{task_id}/draft")
def save_draft(task_id: str, body: DraftBody, store: TheStore, actor: Me) -> LeaseReply:
    """Keep an unfinished answer (any JSON object) and renew the lease."""
    try:
        json.dumps(body.draft, allow_nan=False)
    except (ValueError, RecursionError):
        raise invalid("draft", "holds a number that JSON has not, or is nested too deeply") from None
    return _lease(store, tasks.save_draft(store, actor, task_id, body.draft))


@router.post("/tasks/{task_id}/submit")
def submit(task_id: str, body: SubmitBody, store: TheStore, actor: Me) -> ReceiptReply:
    """Send the answer, or a new revision of it."""
    return ReceiptReply.model_validate(answers.submit(store, actor, task_id, to_answer(body)), from_attributes=True)


@router.post("/tasks/{task_id}/skip")
def skip(task_id: str, body: SkipBody, store: TheStore, actor: Me) -> LeaseReply:
    """Leave the task to others; it does not come again."""
    return _lease(store, tasks.skip(store, actor, task_id, body.reason))


@router.post("/tasks/{task_id}/release")
def release(task_id: str, store: TheStore, actor: Me) -> LeaseReply:
    """Give the lease back; the task may come again."""
    return _lease(store, tasks.release(store, actor, task_id))


@router.post("/tasks/{task_id}/flag", status_code=201)
def flag(task_id: str, body: FlagBody, store: TheStore, actor: Me) -> FlagReply:
    """Say that something is wrong with the task; the lease stays."""
    row = tasks.flag(store, actor, task_id, body.reason, body.comment)
    return FlagReply.model_validate({**_columns(row), "by": actor.name})


@router.get("/projects/{project_id}/history")
def history(
    project_id: Id,
    store: TheStore,
    actor: Me,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> HistoryReply:
    """What one submitted and skipped oneself, the newest first."""
    with store.read() as db:
        require(db, actor, project_id, "annotator")
        mine = (
            Assignment.user_id == tasks.person(actor),
            Assignment.project_id == project_id,
            Assignment.state.in_(("submitted", "skipped")),
        )
        rows = db.execute(
            select(Assignment, PromptRow.text)
            .join(Task, Task.id == Assignment.task_id)
            .join(PromptRow, (PromptRow.project_id == Task.project_id) & (PromptRow.id == Task.prompt_id))
            .where(*mine)
            .order_by(Assignment.submitted_at.desc().nulls_last(), Assignment.id.desc())
            .offset(offset)
            .limit(limit)
        )
        return HistoryReply(
            entries=[
                HistoryEntry(
                    task_id=own.task_id,
                    state=own.state,
                    prompt_start=text[:200],
                    submitted_at=own.submitted_at,
                    skip_reason=own.skip_reason,
                )
                for own, text in rows
            ],
            total=db.scalar(select(func.count()).select_from(Assignment).where(*mine)) or 0,
        )


def to_answer(body: SubmitBody) -> answers.Answer:
    """The store's form of a submitted body."""
    return answers.Answer(
        client_id=body.client_id,
        judgements={
            name: answers.Judgement(tuple(tuple(t) for t in j.tiers), j.none_acceptable, dict(j.scores))
            for name, j in body.judgements.items()
        },
        seconds_spent=body.seconds_spent,
        comment=body.comment,
    )


def prompt_and_answers(
    db: Session, project_id: int, prompt_id: str, order: list[str]
) -> tuple[list[MessageReply], list[ShownAnswer]]:
    """The chat, and the answers with their letters; no model names."""
    prompt = to_prompt(db.get_one(PromptRow, (project_id, prompt_id)))
    rows = db.execute(
        select(CompletionRow.id, CompletionRow.text).where(
            CompletionRow.project_id == project_id, CompletionRow.id.in_(order)
        )
    )
    texts = {row.id: row.text for row in rows}
    return (
        [MessageReply(role=m.role, content=m.content) for m in prompt.as_messages()],
        [ShownAnswer(label=label, text=texts[c]) for label, c in zip(answers.LETTERS, order, strict=False)],
    )


def judgements_of(db: Session, submission: Submission, order: list[str], project: Project) -> dict[str, JudgementBody]:
    """A submission in the letters of ``order``."""
    letter = dict(zip(order, answers.LETTERS, strict=False))
    found: dict[str, JudgementBody] = {}
    for row in db.scalars(select(RankingRow).where(RankingRow.submission_id == submission.id)):
        tiers = [[letter[c] for c in tier] for tier in row.tiers]
        found[row.criterion] = JudgementBody(
            tiers=[] if project.mode == "rating" else tiers, none_acceptable=row.none_acceptable
        )
    if project.mode == "rating":
        for rating in db.scalars(select(RatingRow).where(RatingRow.submission_id == submission.id)):
            score = 1 + round(rating.value * (project.rating_scale - 1))
            found[rating.criterion].scores[letter[rating.completion_id]] = score
    return found


def _own(db: Session, actor: Actor, task_id: str) -> Assignment:
    own = db.scalar(select(Assignment).where(Assignment.task_id == task_id, Assignment.user_id == tasks.person(actor)))
    if own is None:
        raise not_found("task", task_id)
    require(db, actor, own.project_id, "annotator")
    return own


def _view(db: Session, store: Store, own: Assignment) -> TaskReply:
    task = db.get_one(Task, own.task_id)
    prompt, shown = prompt_and_answers(db, task.project_id, task.prompt_id, own.shown_order)
    last = None
    if own.submitted_at is not None:
        last = db.scalar(
            select(Submission)
            .where(Submission.task_id == task.id, Submission.user_id == own.user_id, Submission.kind == "answer")
            .order_by(Submission.revision.desc())
            .limit(1)
        )
    project = db.get_one(Project, task.project_id)
    return TaskReply(
        **_lease(store, own).model_dump(),
        project_id=task.project_id,
        prompt=prompt,
        answers=shown,
        draft=own.draft,
        draft_at=own.draft_at,
        submitted=judgements_of(db, last, own.shown_order, project) if last else None,
        comment=last.comment if last else "",
        revision=last.revision if last else 0,
    )


def _lease(store: Store, own: Assignment) -> LeaseReply:
    left = (own.lease_until - store.now()).total_seconds() if own.state == "leased" else 0.0
    return LeaseReply(
        task_id=own.task_id, state=own.state, lease_until=own.lease_until, lease_seconds_left=max(0.0, left)
    )


def _columns(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}
