"""The labelling screen as a test sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from browser_service import Service
from sqlalchemy import select

from humanward.feedback.store.models import Assignment, RankingRow, Submission, Task

try:
    from playwright.sync_api import expect
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("needs playwright (pip install humanward[dev])", allow_module_level=True)

# Long enough for a machine that does much else; nothing waits this long when all is well.
expect.set_options(timeout=20_000)

__all__ = ["drag", "expect", "handle", "order", "press", "ready", "slot", "stored", "submit"]


def ready(page: Any) -> Any:
    """The page once a task is on the screen."""
    page.locator("#view[data-state=task] .card").first.wait_for()
    return page


def order(page: Any) -> dict[str, str]:
    """Letters by place, as the dock shows them: ``{"1": "B", "2": "AC", "": "D"}``; empty places are left out."""
    slots = page.locator(".slot").evaluate_all(
        """slots => slots.map((slot) => [
          slot.dataset.place,
          [...slot.querySelectorAll('.chip')].map((chip) => chip.textContent).join(''),
        ])"""
    )
    return {place: letters for place, letters in slots if letters}


def press(page: Any, keys: str) -> None:
    """One key after another, separated by blanks."""
    for key in keys.split():
        page.keyboard.press(key)


def drag(page: Any, start: Any, slot: Any, share: float = 0.5) -> None:
    """Drag by the mouse onto ``share`` of a slot's width."""
    start.scroll_into_view_if_needed()
    box, end = start.bounding_box(), slot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] - 30, steps=3)
    page.mouse.move(end["x"] + end["width"] * share, end["y"] + end["height"] / 2, steps=3)
    page.mouse.up()


def slot(page: Any, place: int) -> Any:
    """The box of a place."""
    return page.locator(f".slot[data-place='{place}']")


def handle(page: Any, label: str) -> Any:
    """The handle of a card."""
    return page.locator(f".card[data-label={label}] .handle")


def submit(page: Any) -> None:
    """Send by the keyboard and wait until the server has it."""
    with page.expect_response(lambda response: response.url.endswith("/submit") and response.ok):
        page.keyboard.press("Control+Enter")


def stored(service: Service, project: int, name: str) -> list[dict[str, list[list[str]]]]:
    """What the store holds of somebody: by submission, tiers by criterion, in the letters that were shown."""
    return list(_stored(service, project, name))


def _stored(service: Service, project: int, name: str) -> Iterator[dict[str, list[list[str]]]]:
    with service.store.read() as db:
        rows = db.scalars(
            select(Submission)
            .join(Task, Task.id == Submission.task_id)
            .where(Task.project_id == project, Submission.user_id == service.ids[name])
            .order_by(Submission.id)
        )
        for submission in rows:
            own = db.scalar(
                select(Assignment).where(
                    Assignment.task_id == submission.task_id, Assignment.user_id == submission.user_id
                )
            )
            letter = dict(zip(own.shown_order, "ABCDEFGHI", strict=False))
            rankings = db.scalars(select(RankingRow).where(RankingRow.submission_id == submission.id))
            yield {row.criterion: [sorted(letter[c] for c in tier) for tier in row.tiers] for row in rankings}
