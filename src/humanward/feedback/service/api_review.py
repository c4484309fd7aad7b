"""Reviewing: items, everybody's answers to one, adjudication, verdicts, flags, gold items, quality."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from humanward.feedback.service.api_work import judgements_of, prompt_and_answers, to_answer
from humanward.feedback.service.auth import Me, TheStore
from humanward.feedback.service.review_schemas import (
    GoldBody,
    ItemChange,
    ItemReply,
    ItemsReply,
    OpinionReply,
    ResolveBody,
    ReviewReply,
    VerdictBody,
    VerdictReply,
)
from humanward.feedback.service.schemas import FlagReply, Id, JudgementBody, ReceiptReply, SubmitBody
from humanward.feedback.store import answers, review
from humanward.feedback.store.models import Flag, Project, PromptRow, Submission, Task, User
from humanward.feedback.store.people import require
from humanward.feedback.store.quality import gold_of, newest_ranking, project_quality
from humanward.feedback.store.settling import task_rankings

router = APIRouter(tags=["review"])
Offset = Annotated[int, Query(ge=0, le=10**9)]
Limit = Annotated[int, Query(ge=1, le=200)]
_ORDERS: dict[str, Any] = {
    "position": (Task.position,),
    "turn": (Task.turn, Task.position),
    "disagreement": (Task.disagreement.desc().nulls_last(), Task.position),
}


@router.get("/projects/{project_id}/items")
def list_items(
    project_id: Id,
    store: TheStore,
    actor: Me,
    state: Literal["open", "done", "gold", "excluded"] | None = None,
    flagged: bool = False,
    text: Annotated[str, Query(max_length=200)] = "",
    order: Literal["position", "turn", "disagreement"] = "position",
    offset: Offset = 0,
    limit: Limit = 50,
) -> ItemsReply:
    """The tasks of a project (reviewers); ``text`` is looked for in prompts."""
    with store.read() as db:
        require(db, actor, project_id, "reviewer")
        flags = (
            select(func.count())
            .where(Flag.task_id == Task.id, Flag.resolved_at.is_(None))
            .correlate(Task)
            .scalar_subquery()
        )
        query = (
            select(Task, PromptRow.text, flags)
            .join(PromptRow, (PromptRow.project_id == Task.project_id) & (PromptRow.id == Task.prompt_id))
            .where(Task.project_id == project_id)
        )
        if state:
            query = query.where(Task.state == state)
        if flagged:
            query = query.where(flags > 0)
        if text:
            query = query.where(PromptRow.text.icontains(text.replace("\x00", ""), autoescape=True))
        total = db.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
        rows = db.execute(query.order_by(*_ORDERS[order]).offset(offset).limit(limit))
        return ItemsReply(entries=[_item(task, start, count) for task, start, count in rows], total=total)


@router.get("/tasks/{task_id}/review")
def review_task(task_id: str, store: TheStore, actor: Me) -> ReviewReply:
    """A task with everybody's answers (reviewers)."""
    with store.read() as db:
        task = answers.reviewed_task(db, actor, task_id, lock=False)
        return _review(db, task)


@router.post("/tasks/{task_id}/adjudicate")
def adjudicate(task_id: str, body: SubmitBody, store: TheStore, actor: Me) -> ReceiptReply:
    """Decide a task (reviewers), in the letters of its review."""
    return ReceiptReply.model_validate(answers.adjudicate(store, actor, task_id, to_answer(body)), from_attributes=True)


@router.post("/submissions/{submission_id}/verdict")
def give_verdict(submission_id: Id, body: VerdictBody, store: TheStore, actor: Me) -> VerdictReply:
    """Accept or reject somebody's answer (reviewers); a rejected one is withdrawn and the task opens again."""
    row = review.give_verdict(store, actor, submission_id, body.accepted, body.comment)
    return VerdictReply.model_validate(row, from_attributes=True)


@router.get("/projects/{project_id}/flags")
def list_flags(
    project_id: Id, store: TheStore, actor: Me, open: bool = True, offset: Offset = 0, limit: Limit = 50
) -> list[FlagReply]:
    """What people flagged (reviewers), the newest first."""
    with store.read() as db:
        require(db, actor, project_id, "reviewer")
        query = select(Flag, User.name).join(User, User.id == Flag.user_id).where(Flag.project_id == project_id)
        if open:
            query = query.where(Flag.resolved_at.is_(None))
        rows = db.execute(query.order_by(Flag.id.desc()).offset(offset).limit(limit))
        return [_flag(flag, name) for flag, name in rows]


@router.post("/flags/{flag_id}/resolve")
def resolve_flag(flag_id: Id, body: ResolveBody, store: TheStore, actor: Me) -> FlagReply:
    """Close a flag (reviewers)."""
    row = review.resolve_flag(store, actor, flag_id, body.resolution)
    with store.read() as db:
        return _flag(row, db.get_one(User, row.user_id).name)


@router.put("/tasks/{task_id}/gold", status_code=204)
def set_gold(task_id: str, body: GoldBody, store: TheStore, actor: Me) -> None:
    """Make a task a gold item, in the letters of its review, or with null an ordinary one (admins).

    In rating projects send ``scores``: what counts is the order that they imply.
    """
    gold = None
    if body.gold is not None:
        gold = {
            name: answers.Judgement(tuple(tuple(t) for t in j.tiers), scores=dict(j.scores))
            for name, j in body.gold.items()
        }
    review.set_gold(store, actor, task_id, gold)


@router.patch("/tasks/{task_id}", status_code=204)
def change_item(task_id: str, body: ItemChange, store: TheStore, actor: Me) -> None:
    """Take a task out or back in, or set its uncertainty (reviewers)."""
    review.change_task(store, actor, task_id, excluded=body.excluded, uncertainty=body.uncertainty)


@router.get("/projects/{project_id}/quality")
def quality(project_id: Id, request: Request, store: TheStore, actor: Me) -> dict[str, Any]:
    """Agreement, reliability, position bias, speed (reviewers)."""
    with store.read() as db:
        require(db, actor, project_id, "reviewer")
        last = newest_ranking(db, project_id)
        gold = gold_of(db, project_id)
        known = request.app.state.quality.get(project_id)
        key = (last, repr(sorted((name, sorted(ids), gold[name, ids]) for name, ids in gold)))
        if known is None or known[0] != key:
            known = (key, project_quality(db, project_id, gold))
            request.app.state.quality[project_id] = known
    content: dict[str, Any] = known[1]
    return content


def _review(db: Session, task: Task) -> ReviewReply:
    project = db.get_one(Project, task.project_id)
    order = answers.letters_of(task)
    prompt, shown = prompt_and_answers(db, task.project_id, task.id, order)
    opinions = [_opinion(db, row, order, project) for row in review.submissions_of(db, task)]
    flags = db.execute(select(Flag, User.name).join(User, User.id == Flag.user_id).where(Flag.task_id == task.id))
    letter = dict(zip(order, answers.LETTERS, strict=False))
    return ReviewReply(
        task_id=task.id,
        project_id=task.project_id,
        state=task.state,
        quota=task.quota,
        disagreement=task.disagreement,
        uncertainty=task.uncertainty,
        prompt=prompt,
        answers=shown,
        opinions=[o for o in opinions if o.origin != "adjudication"] + _imported(db, task, letter),
        adjudication=next((o for o in reversed(opinions) if o.origin == "adjudication"), None),
        consensus=_consensus(db, task, letter),
        gold=_lettered(task.gold, letter) if task.gold else None,
        flags=[_flag(flag, name) for flag, name in flags],
        skips=[skip.skip_reason for skip in review.skips_of(db, task)],
    )


def _opinion(db: Session, row: Submission, order: list[str], project: Project) -> OpinionReply:
    verdict = review.last_verdict(db, row)
    return OpinionReply(
        submission_id=row.id,
        annotator=db.get_one(User, row.user_id).name,
        simulated=False,
        origin="collect" if row.kind == "answer" else row.kind,
        revision=row.revision,
        judgements=judgements_of(db, row, order, project),
        seconds_spent=row.seconds_spent,
        comment=row.comment,
        late=row.late,
        over_quota=row.over_quota,
        created_at=row.created_at.isoformat(),
        verdict=None if verdict is None else "accepted" if verdict.accepted else "rejected",
        verdict_comment=verdict.comment if verdict else "",
    )


def _imported(db: Session, task: Task, letter: dict[str, str]) -> list[OpinionReply]:
    return [
        OpinionReply(
            submission_id=None,
            annotator=row.annotator,
            simulated=row.simulated,
            origin=row.origin,
            revision=1,
            judgements={
                row.criterion: JudgementBody(
                    tiers=[[letter[c] for c in tier] for tier in row.tiers], none_acceptable=row.none_acceptable
                )
            },
            seconds_spent=row.seconds_spent,
            comment="",
            late=False,
            over_quota=False,
            created_at=row.created_at,
            verdict=None,
            verdict_comment="",
        )
        for row in review.imported_rankings(db, task)
    ]


def _consensus(db: Session, task: Task, letter: dict[str, str]) -> dict[str, list[list[str]]]:
    """The answers by the mean of their places, those of one mean together."""
    by_criterion: dict[str, list[dict[str, float]]] = {}
    for ranking in task_rankings(db, task):
        places = {c: float(place) for place, tier in enumerate(ranking.tiers) for c in tier}
        if places:
            by_criterion.setdefault(ranking.criterion, []).append(places)
    found = {}
    for criterion, all_places in by_criterion.items():
        means = {c: sum(p[c] for p in all_places) / len(all_places) for c in all_places[0]}
        found[criterion] = [[letter[c] for c in means if means[c] == m] for m in sorted(set(means.values()))]
    return found


def _lettered(gold: dict[str, Any], letter: dict[str, str]) -> dict[str, list[list[str]]]:
    return {name: [[letter[c] for c in tier] for tier in tiers] for name, tiers in gold.items()}


def _item(task: Task, prompt: str, flags: int) -> ItemReply:
    return ItemReply(
        task_id=task.id,
        prompt_start=prompt[:200],
        answers=len(task.completion_ids),
        state=task.state,
        quota=task.quota,
        opinions=task.opinions,
        reserved=task.reserved,
        disagreement=task.disagreement,
        uncertainty=task.uncertainty,
        adjudicated=task.adjudicated,
        gold=task.gold is not None,
        open_flags=flags,
    )


def _flag(row: Flag, name: str) -> FlagReply:
    return FlagReply(
        id=row.id,
        task_id=row.task_id,
        reason=row.reason,
        comment=row.comment,
        by=name,
        created_at=row.created_at,
        resolved_at=row.resolved_at,
        resolution=row.resolution,
    )
