"""The tables of the store. Rankings, ratings, submissions, verdicts and the audit log are only ever added to.

Ids of prompts and completions are those of the records (records.py), unique within a project. Times are UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROLES = ("admin", "reviewer", "annotator")
MODES = ("ranking", "pairwise", "rating")


class UtcTime(TypeDecorator[datetime]):
    """A point in time, always aware and in UTC (SQLite keeps no time zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """In UTC; naive for SQLite, whose texts then sort by time."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Names of constraints are fixed, so that migrations can change them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcTime,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON,
        str: Text,
    }


Key = BigInteger().with_variant(Integer, "sqlite")
Name = String(200)


class User(Base):
    """A person, or a simulated annotator (which can never sign in). ``owner`` may do everything on this server."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    password_hash: Mapped[str | None]
    owner: Mapped[bool] = mapped_column(Boolean, default=False)
    simulated: Mapped[bool] = mapped_column(Boolean, default=False)
    disabled: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime]


class Project(Base):
    """What is judged, how, and by how many people.

    Each task wants ``overlap`` opinions, and one more at a time up to ``max_overlap`` while the share of pairs that its
    annotators judge differently is above ``extra_above``.
    """

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    mode: Mapped[str] = mapped_column(String(20), default="ranking")
    rating_scale: Mapped[int] = mapped_column(Integer, default=5)
    overlap: Mapped[int] = mapped_column(Integer, default=1)
    max_overlap: Mapped[int] = mapped_column(Integer, default=1)
    extra_above: Mapped[float] = mapped_column(Float, default=0.34)
    lease_seconds: Mapped[int] = mapped_column(Integer, default=1800)
    gold_share: Mapped[float] = mapped_column(Float, default=0.1)
    allow_ties: Mapped[bool] = mapped_column(Boolean, default=True)
    allow_none_acceptable: Mapped[bool] = mapped_column(Boolean, default=True)
    archived: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime]


class Criterion(Base):
    """What people judge by; Markdown. ``short`` is always in sight, ``guidelines`` in a drawer."""

    __tablename__ = "criteria"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(60))
    title: Mapped[str] = mapped_column(Name)
    short: Mapped[str]
    guidelines: Mapped[str]
    position: Mapped[int] = mapped_column(Integer)


class Membership(Base):
    """A person's role in a project."""

    __tablename__ = "memberships"
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime]


class Invitation(Base):
    """A one-time link, kept as a hash: with ``user_id`` it signs that person in, without it makes a new one."""

    __tablename__ = "invitations"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id"), index=True)
    role: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(Name, default="")
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    used_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    revoked_at: Mapped[datetime | None]


class BrowserSession(Base):
    """A browser that is signed in; its cookie is kept as a hash."""

    __tablename__ = "sessions"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class ApiToken(Base):
    """A program's key, kept as a hash; ``prefix`` lets people tell theirs apart. With ``project_id`` for it alone."""

    __tablename__ = "api_tokens"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(Name)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Attempt(Base):
    """Recent attempts to sign in by one key (an address or a name, kept as a hash); ``times`` in seconds since 1970."""

    __tablename__ = "attempts"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    times: Mapped[list[Any]]
    last: Mapped[datetime] = mapped_column(UtcTime, index=True)


class PromptRow(Base):
    """A Prompt of a project; ``position`` is its place in the order of arrival."""

    __tablename__ = "prompts"
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    id: Mapped[str] = mapped_column(Name, primary_key=True)
    text: Mapped[str]
    messages: Mapped[list[Any]]
    source: Mapped[str]
    split: Mapped[str] = mapped_column(String(20))
    position: Mapped[int] = mapped_column(Key)


class CompletionRow(Base):
    """A Completion of a project; the model's name never leaves towards annotators."""

    __tablename__ = "completions"
    __table_args__ = (
        ForeignKeyConstraint(["project_id", "prompt_id"], ["prompts.project_id", "prompts.id"]),
        Index(None, "project_id", "prompt_id"),
    )
    project_id: Mapped[int] = mapped_column(Key, primary_key=True)
    id: Mapped[str] = mapped_column(Name, primary_key=True)
    prompt_id: Mapped[str] = mapped_column(Name)
    text: Mapped[str]
    model: Mapped[str]
    ended: Mapped[bool] = mapped_column(Boolean)
    sampling: Mapped[dict[str, Any]]
    position: Mapped[int] = mapped_column(Key)


class Task(Base):
    """Some answers to one prompt, to be judged by ``quota`` people.

    ``reserved`` counts opinions given and live leases; ``available`` is True while reserved < quota and the task is
    neither gold nor excluded. ``turn`` orders the tasks, the lowest first (turns.py). ``gold`` holds the tiers by
    criterion when the right answer is known.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        ForeignKeyConstraint(["project_id", "prompt_id"], ["prompts.project_id", "prompts.id"]),
        Index("ix_tasks_next", "project_id", "available", "turn", "position"),
        Index("ix_tasks_state", "project_id", "state", "position"),
        Index("ix_tasks_prompt", "project_id", "prompt_id"),
    )
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    prompt_id: Mapped[str] = mapped_column(Name)
    completion_ids: Mapped[list[Any]]
    position: Mapped[int] = mapped_column(Key)
    quota: Mapped[int] = mapped_column(Integer)
    reserved: Mapped[int] = mapped_column(Integer, default=0)
    opinions: Mapped[int] = mapped_column(Integer, default=0)
    available: Mapped[bool] = mapped_column(Boolean, default=True)
    state: Mapped[str] = mapped_column(String(20), default="open")  # open, done, gold, excluded
    uncertainty: Mapped[float | None] = mapped_column(Float)
    turn: Mapped[float] = mapped_column(Float, default=0.0)
    disagreement: Mapped[float | None] = mapped_column(Float)
    gold: Mapped[dict[str, Any] | None]
    adjudicated: Mapped[bool] = mapped_column(Boolean, default=False)


class Assignment(Base):
    """One person's work on one task, never two for the same: leased, submitted, skipped, expired or released."""

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("task_id", "user_id"),
        Index("ix_assignments_leases", "project_id", "state", "lease_until"),
        Index("ix_assignments_user", "user_id", "project_id", "state"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    state: Mapped[str] = mapped_column(String(20))
    gold: Mapped[bool] = mapped_column(Boolean, default=False)
    shown_order: Mapped[list[Any]]
    claimed_at: Mapped[datetime]
    lease_until: Mapped[datetime]
    draft: Mapped[dict[str, Any] | None]
    draft_at: Mapped[datetime | None]
    submitted_at: Mapped[datetime | None]
    skip_reason: Mapped[str] = mapped_column(Text, default="")


class Submission(Base):
    """One revision of an answer as it came in. ``kind`` is answer or adjudication; ``late`` when the lease was over."""

    __tablename__ = "submissions"
    __table_args__ = (
        UniqueConstraint("user_id", "client_id"),
        UniqueConstraint("task_id", "user_id", "kind", "revision"),
        Index("ix_submissions_project", "project_id", "id"),
    )
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[str] = mapped_column(String(20))
    revision: Mapped[int] = mapped_column(Integer)
    client_id: Mapped[str] = mapped_column(String(100))
    body_hash: Mapped[str] = mapped_column(String(64))
    seconds_spent: Mapped[float | None] = mapped_column(Float)
    comment: Mapped[str]
    late: Mapped[bool] = mapped_column(Boolean)
    over_quota: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime]


class RankingRow(Base):
    """A Ranking as in records.py. ``seq`` is the order of arrival; ``origin`` is collect, import, adjudication,
    simulated or rejected (a withdrawal by a reviewer).
    """

    __tablename__ = "rankings"
    __table_args__ = (
        UniqueConstraint("project_id", "id"),
        Index("ix_rankings_task", "task_id"),
        Index("ix_rankings_project", "project_id", "seq"),
        Index("ix_rankings_prompt", "project_id", "prompt_id"),
    )
    seq: Mapped[int] = mapped_column(Key, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    id: Mapped[str] = mapped_column(Name)
    prompt_id: Mapped[str] = mapped_column(Name)
    tiers: Mapped[list[Any]]
    annotator: Mapped[str] = mapped_column(Name)
    none_acceptable: Mapped[bool] = mapped_column(Boolean)
    criterion: Mapped[str] = mapped_column(Name)
    shown_order: Mapped[list[Any]]
    seconds_spent: Mapped[float | None] = mapped_column(Float)
    created_at: Mapped[str] = mapped_column(String(64))
    simulated: Mapped[bool] = mapped_column(Boolean)
    origin: Mapped[str] = mapped_column(String(20))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    task_id: Mapped[str | None] = mapped_column(ForeignKey("tasks.id"))
    submission_id: Mapped[int | None] = mapped_column(ForeignKey("submissions.id"))


class RatingRow(Base):
    """A Rating as in records.py, value 0 to 1."""

    __tablename__ = "ratings"
    __table_args__ = (UniqueConstraint("project_id", "id"), Index("ix_ratings_project", "project_id", "seq"))
    seq: Mapped[int] = mapped_column(Key, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    id: Mapped[str] = mapped_column(Name)
    completion_id: Mapped[str] = mapped_column(Name)
    criterion: Mapped[str] = mapped_column(Name)
    value: Mapped[float] = mapped_column(Float)
    annotator: Mapped[str] = mapped_column(Name)
    created_at: Mapped[str] = mapped_column(String(64))
    simulated: Mapped[bool] = mapped_column(Boolean)
    origin: Mapped[str] = mapped_column(String(20))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    task_id: Mapped[str | None] = mapped_column(ForeignKey("tasks.id"))
    submission_id: Mapped[int | None] = mapped_column(ForeignKey("submissions.id"))


class Flag(Base):
    """Somebody says that something is wrong with a task."""

    __tablename__ = "flags"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    reason: Mapped[str] = mapped_column(String(40))
    comment: Mapped[str]
    created_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    resolution: Mapped[str] = mapped_column(Text, default="")


class Verdict(Base):
    """A reviewer's word on a person's answer; the last one of a person and task counts."""

    __tablename__ = "verdicts"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    submission_id: Mapped[int] = mapped_column(ForeignKey("submissions.id"), index=True)
    reviewer_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    accepted: Mapped[bool] = mapped_column(Boolean)
    comment: Mapped[str]
    created_at: Mapped[datetime]


class AuditRow(Base):
    """Who changed what, when. ``actor`` is the name at that time, kept even when the person goes."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_project", "project_id", "id"),)
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    at: Mapped[datetime]
    actor_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    actor: Mapped[str] = mapped_column(Name)
    action: Mapped[str] = mapped_column(String(60))
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id"))
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]
