"""What reviewers do: verdicts, flags, gold items, and taking tasks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from humanward.feedback.store.answers import (
    LETTERS,
    Judgement,
    check_scores,
    letters_of,
    reviewed_task,
    tiers_of_scores,
)
from humanward.feedback.store.audit import Actor, record
from humanward.feedback.store.errors import conflict, invalid, not_found
from humanward.feedback.store.models import Assignment, Flag, Project, RankingRow, RatingRow, Submission, Task, Verdict
from humanward.feedback.store.people import require
from humanward.feedback.store.projects import criteria_of
from humanward.feedback.store.session import Store
from humanward.feedback.store.settling import recount, refresh_state
from humanward.feedback.store.tasks import person
from humanward.records import content_id


def give_verdict(store: Store, actor: Actor, submission_id: int, accepted: bool, comment: str = "") -> Verdict:
    """Accept an answer, or reject it: its rankings are withdrawn (nothing is deleted) and the task opens again."""
    with store.write() as db:
        submission = db.get(Submission, submission_id)
        if submission is None:
            raise not_found("submission", submission_id)
        project = require(db, actor, submission.project_id, "reviewer")
        task = db.scalars(select(Task).where(Task.id == submission.task_id).with_for_update()).one()
        if submission.kind != "answer":
            raise conflict("adjudication", f"submission {submission_id}: is an adjudication; decide again instead")
        if submission.user_id == actor.user_id:
            raise conflict("own_answer", f"submission {submission_id}: is your own; somebody else must review it")
        before = last_verdict(db, submission)
        row = Verdict(
            project_id=project.id,
            submission_id=submission.id,
            reviewer_id=person(actor),
            accepted=accepted,
            comment=comment,
            created_at=store.now(),
        )
        db.add(row)
        db.flush()
        if before is None or before.accepted != accepted:
            rejected_before = before is not None and not before.accepted
            if not accepted or rejected_before:
                _withdraw_or_restore(db, store, submission, row, withdraw=not accepted)
                db.flush()
                recount(db, project, [task.id])
        record(
            db,
            store.now(),
            actor,
            "review.accept" if accepted else "review.reject",
            task.id,
            project.id,
            submission=submission.id,
        )
        return row


def last_verdict(db: Session, submission: Submission) -> Verdict | None:
    """The verdict that counts, None before the first."""
    return db.scalar(select(Verdict).where(Verdict.submission_id == submission.id).order_by(Verdict.id.desc()).limit(1))


def _withdraw_or_restore(
    db: Session, store: Store, submission: Submission, verdict: Verdict, *, withdraw: bool
) -> None:
    """A ranking without tiers withdraws (docs/files.md); the same tiers once more restore."""
    newest = db.scalar(
        select(Submission.revision)
        .where(
            Submission.task_id == submission.task_id,
            Submission.user_id == submission.user_id,
            Submission.kind == "answer",
        )
        .order_by(Submission.revision.desc())
        .limit(1)
    )
    if newest != submission.revision:
        raise conflict("not_the_last", f"submission {submission.id}: was revised since; judge the last revision")
    rows = db.scalars(
        select(RankingRow).where(RankingRow.submission_id == submission.id, RankingRow.origin == "collect")
    ).all()
    for row in rows:
        copied = {
            name: getattr(row, name)
            for name in ("project_id", "prompt_id", "annotator", "criterion", "shown_order", "simulated", "user_id",
                         "task_id", "submission_id", "seconds_spent")
        }  # fmt: skip
        db.add(
            RankingRow(
                **copied,
                id=content_id(row.id, "verdict", str(verdict.id)),
                tiers=[] if withdraw else row.tiers,
                none_acceptable=False if withdraw else row.none_acceptable,
                created_at=store.now().isoformat(timespec="milliseconds"),
                origin="rejected" if withdraw else "restored",
            )
        )


def resolve_flag(store: Store, actor: Actor, flag_id: int, resolution: str) -> Flag:
    """Close a flag with a word on what was done."""
    with store.write() as db:
        row = db.get(Flag, flag_id)
        if row is None:
            raise not_found("flag", flag_id)
        require(db, actor, row.project_id, "reviewer")
        if row.resolved_at is None:
            row.resolved_at, row.resolved_by, row.resolution = store.now(), actor.user_id, resolution
            record(db, store.now(), actor, "review.resolve_flag", row.task_id, row.project_id, flag=row.id)
        return row


def set_gold(store: Store, actor: Actor, task_id: str, gold: Mapping[str, Judgement] | None) -> Task:
    """Make a task a gold item whose right answer is ``gold``, in ``letters_of``, or with None an ordinary one."""
    with store.write() as db:
        task = reviewed_task(db, actor, task_id)
        project = require(db, actor, task.project_id, "admin")
        if gold is None:
            task.gold = None
            if task.state == "gold":
                task.state = "open"
                recount(db, project, [task.id])
                refresh_state(task, project)
        else:
            task.gold = _gold_tiers(db, project, task, gold)
            task.state, task.available = "gold", False
        record(db, store.now(), actor, "item.gold", task_id, project.id, gold=task.gold)
        return task


def _gold_tiers(db: Session, project: Project, task: Task, gold: Mapping[str, Judgement]) -> dict[str, Any]:
    known = [criterion.name for criterion in criteria_of(db, project.id)]
    letters = LETTERS[: len(task.completion_ids)]
    by_letter = dict(zip(LETTERS, letters_of(task), strict=False))
    found: dict[str, Any] = {}
    if not gold:
        raise invalid("gold", "names no criterion; give the right order under at least one")
    for name, judgement in gold.items():
        if name not in known:
            raise invalid(f"gold.{name}", f"is no criterion of this project; use {', '.join(known)}")
        tiers = judgement.tiers
        if project.mode == "rating" and judgement.scores:
            check_scores(judgement, project.rating_scale, len(letters), f"gold.{name}")
            tiers = tiers_of_scores(judgement.scores)
        named = [letter for tier in tiers for letter in tier]
        if sorted(named) != sorted(letters) or any(not tier for tier in tiers):
            raise invalid(f"gold.{name}.tiers", f"is not an order of exactly {', '.join(letters)}", "not_weak_order")
        found[name] = [[by_letter[c] for c in tier] for tier in tiers]
    return found


def change_task(
    store: Store, actor: Actor, task_id: str, *, excluded: bool | None = None, uncertainty: float | None = None
) -> Task:
    """Take a task out of the work or back in, or set the uncertainty that orders it."""
    with store.write() as db:
        task = reviewed_task(db, actor, task_id)
        project = require(db, actor, task.project_id, "reviewer")
        if excluded is True:
            task.state, task.available = "excluded", False
        elif excluded is False and task.state == "excluded":
            task.state = "gold" if task.gold else "open"
        if uncertainty is not None:
            task.uncertainty = uncertainty
        if task.state in ("open", "done"):
            recount(db, project, [task.id])
        record(db, store.now(), actor, "item.change", task_id, project.id, excluded=excluded, uncertainty=uncertainty)
        return task


def submissions_of(db: Session, task: Task) -> Sequence[Submission]:
    """The newest revision of every person's answer and adjudication, in the order in which they came."""
    rows = db.scalars(select(Submission).where(Submission.task_id == task.id).order_by(Submission.id))
    last = {(row.user_id, row.kind): row for row in rows}
    return sorted(last.values(), key=lambda row: row.id)


def imported_rankings(db: Session, task: Task) -> Sequence[RankingRow]:
    """The rankings of a task that nobody submitted here."""
    return db.scalars(
        select(RankingRow)
        .where(RankingRow.task_id == task.id, RankingRow.submission_id.is_(None))
        .order_by(RankingRow.seq)
    ).all()


def ratings_of(db: Session, submission: Submission) -> Sequence[RatingRow]:
    """The ratings of a submission."""
    return db.scalars(select(RatingRow).where(RatingRow.submission_id == submission.id)).all()


def skips_of(db: Session, task: Task) -> Sequence[Assignment]:
    """Who skipped a task, and why."""
    return db.scalars(select(Assignment).where(Assignment.task_id == task.id, Assignment.state == "skipped")).all()
