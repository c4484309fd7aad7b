"""Answers as they come in: checked, kept with every revision, turned into rankings and ratings.

Nothing that passed the check is ever dropped: an answer after the lease is kept and marked late, one beyond the quota
is kept and marked so. The same body with the same client id gives the same receipt; another body is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from humanward.feedback.store.audit import Actor, record
from humanward.feedback.store.errors import conflict, invalid, not_found
from humanward.feedback.store.models import Assignment, Project, RankingRow, RatingRow, Submission, Task
from humanward.feedback.store.people import require
from humanward.feedback.store.projects import names_of_criteria
from humanward.feedback.store.session import Store
from humanward.feedback.store.settling import judge_task, recount, task_rankings
from humanward.feedback.store.tasks import own_assignment, person, reserve
from humanward.records import content_id

LETTERS = "ABCDEFGHI"
ADJUDICATION = " (adjudication)"
"""Added to the annotator's name of a decision, so that it never replaces what the same person ranked before."""


@dataclass(frozen=True)
class Judgement:
    """One criterion's part of an answer: ``tiers`` of letters, best first, or in rating mode a score by letter."""

    tiers: tuple[tuple[str, ...], ...] = ()
    none_acceptable: bool = False
    scores: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a person sends: a judgement by criterion. ``client_id`` names this attempt."""

    client_id: str
    judgements: Mapping[str, Judgement]
    seconds_spent: float | None = None
    comment: str = ""

    def body_hash(self) -> str:
        """Of everything but the client id."""
        content = {
            "judgements": {
                name: [j.tiers, j.none_acceptable, sorted(j.scores.items())]
                for name, j in sorted(self.judgements.items())
            },
            "seconds": self.seconds_spent,
            "comment": self.comment,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Receipt:
    """What was kept; a replay gives the same."""

    submission_id: int
    task_id: str
    revision: int
    late: bool
    over_quota: bool
    created_at: datetime


def submit(store: Store, actor: Actor, task_id: str, answer: Answer) -> Receipt:
    """Keep an answer to a task that the actor was given; a second one is a new revision of the first."""
    return _once(store, actor, task_id, answer, "answer")


def adjudicate(store: Store, actor: Actor, task_id: str, answer: Answer) -> Receipt:
    """Keep a reviewer's decision on a task, letters as ``letters_of`` gives them; it settles the task."""
    return _once(store, actor, task_id, answer, "adjudication")


def _once(store: Store, actor: Actor, task_id: str, answer: Answer, kind: str) -> Receipt:
    for last in (False, True):
        try:
            return _keep(store, actor, task_id, answer, kind)
        except IntegrityError:
            # The same request came twice at once; the first one's receipt is found now.
            if last:
                raise
    raise AssertionError("unreachable")


_KNOWN = select(
    Submission.body_hash,
    Submission.kind,
    Submission.id.label("submission_id"),
    Submission.task_id,
    Submission.revision,
    Submission.late,
    Submission.over_quota,
    Submission.created_at,
).where(Submission.user_id == bindparam("user"), Submission.client_id == bindparam("client"))
_ADD_SUBMISSION = insert(Submission.__table__).returning(Submission.__table__.c.id)  # type: ignore[arg-type]
_ADD_RANKINGS = insert(RankingRow.__table__).inline()  # type: ignore[arg-type]
_ADD_RATINGS = insert(RatingRow.__table__).inline()  # type: ignore[arg-type]


def _keep(store: Store, actor: Actor, task_id: str, answer: Answer, kind: str) -> Receipt:
    now = store.now()
    with store.write() as db:
        project, task, order, own = _subject(db, actor, task_id, kind)
        known = db.execute(_KNOWN, {"user": person(actor), "client": answer.client_id}).first()
        hashed = answer.body_hash()
        if known is not None:
            if known.body_hash != hashed or known.task_id != task_id or known.kind != kind:
                raise conflict(
                    "client_id_used", "client_id: came with another body before; make a new id for a new answer"
                )
            return Receipt(*known[2:])
        if project.archived:
            raise conflict("archived", f"project {project.name}: is archived; nothing is judged any more")
        names = names_of_criteria(db, project.id)
        check_answer(answer, names, project, len(order))
        revision = 1
        if own is None or own.submitted_at is not None:
            before = select(func.max(Submission.revision)).where(
                Submission.task_id == task_id, Submission.user_id == person(actor), Submission.kind == kind
            )
            revision += db.scalar(before) or 0
        late = over_quota = False
        if kind == "answer":
            late, over_quota = _settle_assignment(task, own, now)
        submission: dict[str, Any] = {
            "project_id": project.id,
            "task_id": task_id,
            "user_id": person(actor),
            "kind": kind,
            "revision": revision,
            "client_id": answer.client_id,
            "body_hash": hashed,
            "seconds_spent": answer.seconds_spent,
            "comment": answer.comment,
            "late": late,
            "over_quota": over_quota,
            "created_at": now,
        }
        submission["id"] = number = db.scalar(_ADD_SUBMISSION, submission)
        _store_judgements(db, project, task, order, actor, answer, submission)
        _settle_task(db, project, task, kind, revision)
        action = f"{kind}.{'submit' if revision == 1 else 'revise'}"
        facts = {"submission": number, "revision": revision, "late": late}
        record(db, now, actor, action, task_id, project.id, **facts)
        return Receipt(number, task_id, revision, late, over_quota, now)


def _subject(db: Session, actor: Actor, task_id: str, kind: str) -> tuple[Project, Task, list[str], Assignment | None]:
    if kind == "answer":
        project, task, own = own_assignment(db, actor, task_id)
        return project, task, list(own.shown_order), own
    task = reviewed_task(db, actor, task_id)
    return require(db, actor, task.project_id, "reviewer"), task, letters_of(task), None


def reviewed_task(db: Session, actor: Actor, task_id: str, *, lock: bool = True) -> Task:
    """A task that the actor may review."""
    query = select(Task).where(Task.id == task_id)
    task = db.scalar(query.with_for_update() if lock else query)
    if task is None:
        raise not_found("task", task_id)
    require(db, actor, task.project_id, "reviewer")
    return task


def letters_of(task: Task) -> list[str]:
    """The completion ids that A, B, C... stand for in review, the same for every reviewer."""
    return sorted(task.completion_ids)


def check_answer(answer: Answer, criteria: Sequence[str], project: Project, count: int) -> None:
    """Raise RefusedError 422, naming the field, unless every criterion has a weak order over exactly the shown answers.

    In rating mode: a whole score in the scale for exactly the shown answers.
    """
    for name in answer.judgements:
        if name not in criteria:
            raise invalid(f"judgements.{name}", f"is no criterion of this project; use {', '.join(criteria)}")
    for name in criteria:
        if name not in answer.judgements:
            raise invalid(f"judgements.{name}", "is missing; judge by every criterion")
        where = f"judgements.{name}"
        if project.mode == "rating":
            check_scores(answer.judgements[name], project.rating_scale, count, where)
        else:
            _check_order(answer.judgements[name], project, count, where)


def _check_order(judgement: Judgement, project: Project, count: int, where: str) -> None:
    letters = LETTERS[:count]
    if judgement.scores:
        raise invalid(f"{where}.scores", "are for rating projects; send tiers", "not_weak_order")
    if judgement.none_acceptable and not project.allow_none_acceptable:
        raise invalid(f"{where}.none_acceptable", "is not offered in this project; send an order")
    if judgement.none_acceptable and not judgement.tiers:
        return
    seen: set[str] = set()
    for index, tier in enumerate(judgement.tiers):
        if not tier:
            raise invalid(f"{where}.tiers[{index}]", "is empty; name at least one answer", "not_weak_order")
        if len(tier) > 1 and not project.allow_ties:
            raise invalid(f"{where}.tiers[{index}]", "is a tie, which this project does not allow", "not_weak_order")
        for letter in tier:
            if len(letter) != 1 or letter not in letters:
                raise invalid(
                    f"{where}.tiers[{index}]", f"{letter[:20]!r} is none of {', '.join(letters)}", "not_weak_order"
                )
            if letter in seen:
                raise invalid(f"{where}.tiers[{index}]", f"{letter} is ranked twice; rank it once", "not_weak_order")
            seen.add(letter)
    if missing := [letter for letter in letters if letter not in seen]:
        raise invalid(f"{where}.tiers", f"{', '.join(missing)} missing; rank every answer", "not_weak_order")


def check_scores(judgement: Judgement, scale: int, count: int, where: str) -> None:
    """Raise RefusedError 422 unless every one of the first ``count`` letters has a score of 1 to ``scale``."""
    letters = LETTERS[:count]
    if judgement.tiers:
        raise invalid(f"{where}.tiers", "are for ranking projects; send scores", "not_complete")
    for letter, score in judgement.scores.items():
        if len(letter) != 1 or letter not in letters:
            raise invalid(f"{where}.scores", f"{letter[:20]!r} is none of {', '.join(letters)}", "not_complete")
        if not 1 <= score <= scale:
            raise invalid(f"{where}.scores.{letter}", f"{score} is not between 1 and {scale}", "not_complete")
    if missing := [letter for letter in letters if letter not in judgement.scores]:
        raise invalid(f"{where}.scores", f"{', '.join(missing)} missing; rate every answer", "not_complete")


def _settle_assignment(task: Task, own: Assignment | None, now: datetime) -> tuple[bool, bool]:
    """Count the answer; returns whether it is late and whether it is beyond the quota."""
    assert own is not None
    late = over_quota = False
    if own.state != "submitted":
        late = own.lease_until < now
        if own.state != "leased" and not own.gold:
            reserve(task, 1)
        if not own.gold:
            task.opinions += 1
            over_quota = task.opinions > task.quota
    own.state, own.submitted_at, own.draft, own.draft_at = "submitted", now, None, None
    return late, over_quota


def _store_judgements(
    db: Session,
    project: Project,
    task: Task,
    order: list[str],
    actor: Actor,
    answer: Answer,
    submission: Mapping[str, Any],
) -> None:
    by_letter = dict(zip(LETTERS, order, strict=False))
    origin = "collect" if submission["kind"] == "answer" else "adjudication"
    number = submission["id"]
    common: dict[str, Any] = {
        "project_id": project.id,
        "annotator": actor.name if origin == "collect" else f"{actor.name}{ADJUDICATION}",
        "simulated": False,
        "created_at": submission["created_at"].isoformat(timespec="milliseconds"),
        "origin": origin,
        "user_id": actor.user_id,
        "task_id": task.id,
        "submission_id": number,
    }
    rankings, ratings = [], []
    for name, judgement in answer.judgements.items():
        tiers = judgement.tiers or tiers_of_scores(judgement.scores)
        rankings.append(
            common
            | {
                "id": content_id(task.id, actor.name, name, origin, str(number)),
                "prompt_id": task.prompt_id,
                "tiers": [[by_letter[letter] for letter in tier] for tier in tiers],
                "none_acceptable": judgement.none_acceptable,
                "criterion": name,
                "shown_order": order,
                "seconds_spent": answer.seconds_spent,
            }
        )
        for letter, score in judgement.scores.items():
            ratings.append(
                common
                | {
                    "id": content_id(task.id, actor.name, name, origin, str(number), letter),
                    "completion_id": by_letter[letter],
                    "criterion": name,
                    "value": (score - 1) / (project.rating_scale - 1),
                }
            )
    db.execute(_ADD_RANKINGS, rankings)
    if ratings:
        db.execute(_ADD_RATINGS, ratings)


def tiers_of_scores(scores: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """The order that scores imply, the highest first; equal scores are a tie."""
    by_score = sorted(set(scores.values()), reverse=True)
    return tuple(tuple(sorted(k for k, s in scores.items() if s == score)) for score in by_score)


def _settle_task(db: Session, project: Project, task: Task, kind: str, revision: int) -> None:
    """How settled the task is now, its turn, and whether it wants more opinions."""
    if kind == "adjudication":
        task.adjudicated = True
        if task.state == "open":
            task.state, task.available = "done", False
    elif revision > 1:
        # An answer that a reviewer had rejected counts again once it is revised.
        db.flush()
        recount(db, project, [task.id])
    else:
        judge_task(task, project, task_rankings(db, task))
