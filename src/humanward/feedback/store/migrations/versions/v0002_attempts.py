"""Attempts to sign in, counted for all servers on a store together"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import humanward.feedback.store.models

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("times", sa.JSON(), nullable=False),
        sa.Column("last", humanward.feedback.store.models.UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_last"), "attempts", ["last"])
