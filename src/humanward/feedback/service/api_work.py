"""Labelling: claim, draft, submit, skip, release, flag, one's own history."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.orm import Session

from humanward.feedback.service.auth import Me, TheStore
from humanward.feedback.service.lane import in_lane
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

router = APIRouter(tags=["labelling"])


@router.post("/projects/{project_id}/claim", response_model=ClaimReply)
async def claim(project_id: Id, request: Request) -> Response:
    """The task that one holds a lease on, or else a lease on the next; ``task`` is null when none is left."""

    def work(store: Store, actor: Actor) -> ClaimReply:
        own = tasks.claim(store, actor, project_id)
        return ClaimReply(task=own and _view(store, own))

    return await in_lane(request, work)


@router.get("/tasks/{task_id}")
def get_task(task_id: str, store: TheStore, actor: Me) -> TaskReply:
    """A task that one was given, whatever became of it: to go on, to look back, to edit."""
    with store.read() as db:
        own = _own(db, actor, task_id)
    return _view(store, own)


@router.post("/tasks/{task_id}/renew", response_model=LeaseReply)
async def renew(task_id: str, request: Request) -> Response:
    """Extend the lease to its full length; one that ran out is taken again while there is a place."""
    return await in_lane(request, lambda store, actor: _lease(store, tasks.renew(store, actor, task_id)))


@router.put("/tasks/{task_id}/draft", response_model=LeaseReply)
async def save_draft(task_id: str, body: DraftBody, request: Request) -> Response:
    """Keep an unfinished answer (any JSON object) and renew the lease."""
    try:
        json.dumps(body.draft, allow_nan=False)
    except (ValueError, RecursionError):
        raise invalid("draft", "holds a number that JSON has not, or is nested too deeply") from None
    return await in_lane(
        request, lambda store, actor: _lease(store, tasks.save_draft(store, actor, task_id, body.draft))
    )


@router.post("/tasks/{task_id}/submit", response_model=ReceiptReply)
async def submit(task_id: str, body: SubmitBody, request: Request) -> Response:
    """Send the answer, or a new revision of it."""
    answer = to_answer(body)
    return await in_lane(
        request, lambda store, actor: ReceiptReply(**asdict(answers.submit(store, actor, task_id, answer)))
    )


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


_PROMPT = (
    select(PromptRow.text, PromptRow.messages)
    .join(Task, (Task.project_id == PromptRow.project_id) & (Task.prompt_id == PromptRow.id))
    .where(Task.id == bindparam("task"))
)
_TEXTS = select(CompletionRow.id, CompletionRow.text).where(
    CompletionRow.project_id == bindparam("project"), CompletionRow.id.in_(bindparam("order", expanding=True))
)


def prompt_and_answers(
    db: Session | Connection, project_id: int, task_id: str, order: list[str]
) -> tuple[list[MessageReply], list[ShownAnswer]]:
    """The chat, and the answers with their letters; no model names."""
    prompt = db.execute(_PROMPT, {"task": task_id}).one()
    texts = {row.id: row.text for row in db.execute(_TEXTS, {"project": project_id, "order": order})}
    chat = prompt.messages or [{"role": "user", "content": prompt.text}]
    return (
        [MessageReply(role=message["role"], content=message["content"]) for message in chat],
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


def _view(store: Store, own: Assignment) -> TaskReply:
    with store.glance() as connection:
        prompt, shown = prompt_and_answers(connection, own.project_id, own.task_id, own.shown_order)
    last, submitted = None, None
    if own.submitted_at is not None:
        with store.read() as db:
            last = db.scalar(
                select(Submission)
                .where(
                    Submission.task_id == own.task_id, Submission.user_id == own.user_id, Submission.kind == "answer"
                )
                .order_by(Submission.revision.desc())
                .limit(1)
            )
            if last is not None:
                submitted = judgements_of(db, last, own.shown_order, db.get_one(Project, own.project_id))
    return TaskReply(
        **_lease(store, own).model_dump(),
        project_id=own.project_id,
        prompt=prompt,
        answers=shown,
        draft=own.draft,
        draft_at=own.draft_at,
        submitted=submitted,
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
