"""The JSON that the API takes and gives (docs/api.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Id = Annotated[int, Field(ge=1, le=2**62)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


def _storable(value: Any) -> Any:
    """PostgreSQL keeps no NUL, and UTF-8 no lone surrogate."""
    if isinstance(value, str) and ("\x00" in value or any("\ud800" <= c <= "\udfff" for c in value)):
        raise ValueError("holds a NUL or a lone surrogate, which cannot be stored")
    return value


Text = Annotated[str, BeforeValidator(_storable)]
Letter = Annotated[Text, Field(max_length=20)]
CriterionName = Annotated[Text, Field(min_length=1, max_length=60)]
Short = Annotated[Text, Field(max_length=100)]
Name = Annotated[Text, Field(min_length=1, max_length=100)]
Password = Annotated[Text, Field(max_length=200)]
Line = Annotated[Text, Field(max_length=500)]
FullLine = Annotated[Text, Field(min_length=1, max_length=500)]
Comment = Annotated[Text, Field(max_length=5000)]
Long = Annotated[Text, Field(max_length=20_000)]


class Body(BaseModel):
    """A request body; unknown fields are an error."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(BaseModel):
    """``code`` is stable; ``message`` is for people; ``field`` names the offending value or is empty."""

    code: str
    message: str
    field: str = ""


class ErrorReply(BaseModel):
    """Every response of 400 and above."""

    error: ErrorDetail


# --- signing in


class LinkBody(Body):
    token: Line


class EnterBody(Body):
    token: Line
    name: Short = ""
    password: Password = ""


class LoginBody(Body):
    name: Short
    password: Password


class PasswordBody(Body):
    password: Password


class LinkReply(BaseModel):
    kind: Literal["sign-in", "invitation"]
    name: str
    role: str
    project: str | None
    expires_at: datetime


class ProjectRole(BaseModel):
    id: int
    name: str
    role: str
    archived: bool


class SessionReply(BaseModel):
    user_id: int
    name: str
    owner: bool
    has_password: bool
    csrf_token: str
    projects: list[ProjectRole]


# --- projects


class CriterionBody(Body):
    name: CriterionName
    title: Short = ""
    short: Line = ""
    guidelines: Long = ""


class CriterionChange(Body):
    title: Name | None = None
    short: FullLine | None = None
    guidelines: Long | None = None


class ProjectChange(Body):
    description: Line | None = None
    mode: Literal["ranking", "pairwise", "rating"] | None = None
    rating_scale: int | None = None
    overlap: int | None = None
    max_overlap: int | None = None
    extra_above: float | None = None
    lease_seconds: int | None = None
    gold_share: float | None = None
    allow_ties: bool | None = None
    allow_none_acceptable: bool | None = None
    archived: bool | None = None


class ProjectBody(Body):
    name: Name
    description: Line = ""
    mode: Literal["ranking", "pairwise", "rating"] = "ranking"
    rating_scale: int = 5
    overlap: int = 1
    max_overlap: int = 0
    extra_above: float = 0.34
    lease_seconds: int = 1800
    gold_share: float = 0.1
    allow_ties: bool = True
    allow_none_acceptable: bool = True
    criteria: list[CriterionBody] = Field(default_factory=lambda: [CriterionBody(name="overall")], max_length=10)


class CriterionReply(BaseModel):
    name: str
    title: str
    short: str
    guidelines: str


class ProjectReply(BaseModel):
    id: int
    name: str
    role: str
    description: str
    mode: str
    rating_scale: int
    overlap: int
    max_overlap: int
    extra_above: float
    lease_seconds: int
    gold_share: float
    allow_ties: bool
    allow_none_acceptable: bool
    archived: bool
    criteria: list[CriterionReply]
    progress: dict[str, int]


class MyProgress(BaseModel):
    """``gold_accuracy`` is None before the first gold item."""

    submitted: int
    skipped: int
    leased: int
    left: int
    gold_answered: int
    gold_accuracy: float | None


# --- labelling


class MessageReply(BaseModel):
    role: str
    content: str


class ShownAnswer(BaseModel):
    label: str
    text: str


class JudgementBody(Body):
    tiers: list[list[Letter]] = Field(default_factory=list, max_length=9)
    none_acceptable: bool = False
    scores: dict[str, int] = Field(default_factory=dict, max_length=9)


class SubmitBody(Body):
    client_id: Annotated[str, Field(min_length=8, max_length=100, pattern=r"^[A-Za-z0-9_.:-]+$")]
    judgements: dict[CriterionName, JudgementBody] = Field(max_length=10)
    seconds_spent: Seconds | None = None
    comment: Comment = ""


class DraftBody(Body):
    draft: dict[str, Any]


class SkipBody(Body):
    reason: Line = ""


class FlagBody(Body):
    reason: Literal["broken", "unsafe", "private", "off-topic", "duplicate", "language", "other"]
    comment: Comment = ""


class ReceiptReply(BaseModel):
    submission_id: int
    task_id: str
    revision: int
    late: bool
    over_quota: bool
    created_at: datetime


class LeaseReply(BaseModel):
    task_id: str
    state: str
    lease_until: datetime
    lease_seconds_left: float


class TaskReply(LeaseReply):
    """What an annotator is shown. ``submitted`` is their own last answer, ``draft`` what they saved since."""

    project_id: int
    prompt: list[MessageReply]
    answers: list[ShownAnswer]
    draft: dict[str, Any] | None
    draft_at: datetime | None
    submitted: dict[str, JudgementBody] | None
    comment: str
    revision: int


class ClaimReply(BaseModel):
    task: TaskReply | None


class HistoryEntry(BaseModel):
    task_id: str
    state: str
    prompt_start: str
    submitted_at: datetime | None
    skip_reason: str


class HistoryReply(BaseModel):
    entries: list[HistoryEntry]
    total: int


class FlagReply(BaseModel):
    id: int
    task_id: str
    reason: str
    comment: str
    by: str
    created_at: datetime
    resolved_at: datetime | None
    resolution: str
