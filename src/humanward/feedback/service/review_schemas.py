"""The JSON of reviewing, quality, data, people and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from humanward.feedback.service.schemas import (
    Body,
    Comment,
    CriterionName,
    FlagReply,
    Id,
    JudgementBody,
    MessageReply,
    Name,
    Short,
    ShownAnswer,
)


class ItemReply(BaseModel):
    task_id: str
    prompt_start: str
    answers: int
    state: str
    quota: int
    opinions: int
    reserved: int
    disagreement: float | None
    uncertainty: float | None
    adjudicated: bool
    gold: bool
    open_flags: int


class ItemsReply(BaseModel):
    entries: list[ItemReply]
    total: int


class OpinionReply(BaseModel):
    """One person's last word on a task; ``submission_id`` is null for what was imported."""

    submission_id: int | None
    annotator: str
    simulated: bool
    origin: str
    revision: int
    judgements: dict[str, JudgementBody]
    seconds_spent: float | None
    comment: str
    late: bool
    over_quota: bool
    created_at: str
    verdict: Literal["accepted", "rejected"] | None
    verdict_comment: str


class ReviewReply(BaseModel):
    """A task with everybody's answers, all in the same letters."""

    task_id: str
    project_id: int
    state: str
    quota: int
    disagreement: float | None
    uncertainty: float | None
    prompt: list[MessageReply]
    answers: list[ShownAnswer]
    opinions: list[OpinionReply]
    adjudication: OpinionReply | None
    consensus: dict[str, list[list[str]]]
    gold: dict[str, list[list[str]]] | None
    flags: list[FlagReply]
    skips: list[str]


class VerdictBody(Body):
    accepted: bool
    comment: Comment = ""


class VerdictReply(BaseModel):
    submission_id: int
    accepted: bool
    comment: str
    created_at: datetime


class ResolveBody(Body):
    resolution: Comment = ""


class GoldBody(Body):
    gold: dict[CriterionName, JudgementBody] | None = Field(max_length=10)


class ItemChange(Body):
    excluded: bool | None = None
    uncertainty: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None


class ImportReply(BaseModel):
    rows: int
    good: int
    bad: int
    reasons: list[str]
    notes: dict[str, int]
    prompts: int
    completions: int
    rankings: int
    ratings: int
    tasks: int
    single: int


class MemberReply(BaseModel):
    user_id: int
    name: str
    role: str
    simulated: bool
    disabled: bool
    submitted: int
    skipped: int


class InvitationBody(Body):
    role: Literal["admin", "reviewer", "annotator"]
    name: Short = ""
    hours: Annotated[float, Field(gt=0, le=24 * 90)] = 72


class InvitationReply(BaseModel):
    id: int
    role: str
    name: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


class NewInvitationReply(InvitationReply):
    """``link`` is shown this once."""

    link: str


class RoleBody(Body):
    role: Literal["admin", "reviewer", "annotator"]


class TokenBody(Body):
    name: Name
    project_id: Id | None = None
    days: Annotated[float, Field(gt=0, le=3650)] | None = None


class TokenReply(BaseModel):
    id: int
    name: str
    prefix: str
    project_id: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewTokenReply(TokenReply):
    """``token`` is shown this once."""

    token: str


class AuditEntry(BaseModel):
    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditReply(BaseModel):
    entries: list[AuditEntry]
