"""Records into the store and out of it, without loss: prompts, completions, rankings, ratings.

Records are added in batches, each a transaction of its own, so that people go on labelling meanwhile; the tasks that
follow from them are made last. Adding the same records again adds nothing, so an import that was cut short is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Any, TypeVar

from sqlalchemy import func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.feedback.store.answers import LETTERS, refresh_state, task_rankings, to_ranking
from humanward.feedback.store.audit import Actor, record
from humanward.feedback.store.models import (
    CompletionRow,
    Project,
    PromptRow,
    RankingRow,
    RatingRow,
    Task,
)
from humanward.feedback.store.people import require
from humanward.feedback.store.projects import criteria_of
from humanward.feedback.store.session import Store
from humanward.feedback.store.turns import disagreement, squash, turn
from humanward.records import Completion, Message, Prompt, Ranking, Rating, content_id

BATCH = 2000
Item = TypeVar("Item")


@dataclass
class Added:
    """How many records and tasks an import added; ``single`` prompts have one answer, which cannot be compared."""

    prompts: int = 0
    completions: int = 0
    rankings: int = 0
    ratings: int = 0
    tasks: int = 0
    single: int = 0


@dataclass
class _Start:
    """Where the numbering stood before an import."""

    position: int
    seq: int
    touched: set[str] = field(default_factory=set)


def add_feedback(
    store: Store,
    actor: Actor,
    project_id: int,
    feedback: Feedback,
    *,
    uncertainty: Mapping[str, float] | None = None,
    origin: str = "import",
) -> Added:
    """Add the records to a project; ``uncertainty`` by prompt id orders tasks. Raises InputError for one id with two
    contents or a prompt with more than nine answers.
    """
    added = Added()
    with store.read() as db:
        require(db, actor, project_id, "admin")
        start = _Start(_next_position(db, project_id), db.scalar(select(func.max(RankingRow.seq))) or 0)
    _add_all(store, project_id, feedback, start, added, origin)
    make_tasks(store, actor, project_id, start.position, start.seq, added, uncertainty or {})
    return added


def _add_all(store: Store, project_id: int, feedback: Feedback, start: _Start, added: Added, origin: str) -> None:
    position = start.position
    for prompts in _batches(feedback.prompts):
        rows = [_prompt_row(project_id, p, position + i) for i, p in enumerate(prompts)]
        position += len(rows)
        added.prompts += _insert(store, PromptRow, rows, project_id)
    for completions in _batches(feedback.completions):
        rows = [_completion_row(project_id, c, position + i) for i, c in enumerate(completions)]
        position += len(rows)
        added.completions += _insert(store, CompletionRow, rows, project_id)
    for rankings in _batches(feedback.rankings):
        added.rankings += _insert(
            store, RankingRow, [_ranking_row(project_id, r, origin) for r in rankings], project_id
        )
    for ratings in _batches(feedback.ratings):
        added.ratings += _insert(store, RatingRow, [_rating_row(project_id, r, origin) for r in ratings], project_id)


def make_tasks(
    store: Store,
    actor: Actor,
    project_id: int,
    from_position: int,
    after_seq: int,
    added: Added,
    uncertainty: Mapping[str, float],
) -> None:
    """Tasks for the answers that arrived from ``from_position`` on, and for the sets of answers that rankings name."""
    with store.read() as db:
        project = require(db, actor, project_id, "admin")
        arrived: dict[str, list[str]] = {}
        rows = db.execute(
            select(CompletionRow.prompt_id, CompletionRow.id)
            .where(CompletionRow.project_id == project_id, CompletionRow.position >= from_position)
            .order_by(CompletionRow.position)
        )
        for prompt_id, completion_id in rows:
            arrived.setdefault(prompt_id, []).append(completion_id)
        ranked = _ranked_sets(db, project_id, after_seq)
    specs: list[dict[str, Any]] = []
    for prompt_id in {**arrived, **ranked}:
        sets = _answer_sets(project, prompt_id, arrived.get(prompt_id, []), ranked.get(prompt_id, {}))
        if not sets and not ranked.get(prompt_id):
            added.single += 1
        specs += [_task_row(project, prompt_id, ids, uncertainty.get(prompt_id)) for ids in sets]
    position = from_position
    for batch in _batches(specs):
        rows = [spec | {"position": position + i} for i, spec in enumerate(batch)]
        position += len(rows)
        added.tasks += _insert(store, Task, rows, project_id)
    _settle_ranked(store, project_id, after_seq)
    with store.write() as db:
        record(
            db,
            store.now(),
            actor,
            "data.import",
            f"project {project_id}",
            project_id,
            **{name: getattr(added, name) for name in ("prompts", "completions", "rankings", "ratings", "tasks")},
        )


def _ranked_sets(db: Session, project_id: int, after_seq: int) -> dict[str, dict[frozenset[str], None]]:
    found: dict[str, dict[frozenset[str], None]] = {}
    rows = db.execute(
        select(RankingRow.prompt_id, RankingRow.tiers, RankingRow.shown_order).where(
            RankingRow.project_id == project_id, RankingRow.seq > after_seq, RankingRow.task_id.is_(None)
        )
    )
    for prompt_id, tiers, shown in rows:
        ids = frozenset(shown or [c for tier in tiers for c in tier])
        if len(ids) > 1:
            found.setdefault(prompt_id, {})[ids] = None
    return found


def _answer_sets(
    project: Project, prompt_id: str, arrived: list[str], ranked: Mapping[frozenset[str], None]
) -> list[list[str]]:
    """The sets that rankings name, and the answers that none names; in pairwise mode the pairs of the latter."""
    sets = [sorted(ids) for ids in ranked]
    named = set().union(*ranked) if ranked else set()
    rest = [answer for answer in arrived if answer not in named]
    if len(rest) > 1:
        if project.mode == "pairwise":
            sets += [list(pair) for pair in combinations(rest, 2)]
        else:
            sets.append(rest)
    for ids in sets:
        if len(ids) > len(LETTERS):
            raise InputError(
                f"prompt {prompt_id}: has {len(ids)} answers; people compare at most {len(LETTERS)} at once"
            )
    return sets


def task_id_of(project_id: int, prompt_id: str, completion_ids: Iterable[str]) -> str:
    """The id of the task on these answers: the same whenever it is made."""
    return content_id("task", str(project_id), prompt_id, *sorted(completion_ids))


def _task_row(project: Project, prompt_id: str, ids: list[str], uncertainty: float | None) -> dict[str, Any]:
    return {
        "id": task_id_of(project.id, prompt_id, ids),
        "project_id": project.id,
        "prompt_id": prompt_id,
        "completion_ids": ids,
        "quota": project.overlap,
        "reserved": 0,
        "opinions": 0,
        "available": True,
        "state": "open",
        "uncertainty": uncertainty,
        "turn": -squash(uncertainty),
        "adjudicated": False,
    }


def _settle_ranked(store: Store, project_id: int, after_seq: int) -> None:
    """Tie new rankings to their tasks; those by people count as opinions."""
    last = after_seq
    while True:
        with store.write() as db:
            rows = db.scalars(
                select(RankingRow)
                .where(RankingRow.project_id == project_id, RankingRow.seq > last, RankingRow.task_id.is_(None))
                .order_by(RankingRow.seq)
                .limit(BATCH)
            ).all()
            if not rows:
                return
            last = rows[-1].seq
            touched: dict[str, None] = {}
            for row in rows:
                ids = row.shown_order or [c for tier in row.tiers for c in tier]
                if len(ids) > 1:
                    row.task_id = task_id_of(project_id, row.prompt_id, ids)
                    touched[row.task_id] = None
            db.flush()
            project = db.get_one(Project, project_id)
            for task in db.scalars(select(Task).where(Task.id.in_(touched)).order_by(Task.id).with_for_update()):
                recount(db, project, task)


def recount(db: Session, project: Project, task: Task) -> None:
    """Opinions, disagreement and turn of a task from its rankings and leases.

    An opinion is somebody's, not a simulated annotator's, under a criterion of the project.
    """
    asked = {criterion.name for criterion in criteria_of(db, project.id)}
    live = task_rankings(db, task)
    people: dict[tuple[str, str], None] = {}
    by_criterion: dict[str, list[Any]] = {}
    for ranking in live:
        by_criterion.setdefault(ranking.criterion, []).append(ranking.tiers)
        if not ranking.simulated and ranking.criterion in asked:
            people[(ranking.annotator, ranking.annotator or ranking.id)] = None
    change = len(people) - task.opinions
    task.opinions = len(people)
    task.reserved = max(0, task.reserved + change)
    shares = [share for group in by_criterion.values() if (share := disagreement(group)) is not None]
    task.disagreement = max(shares, default=None)
    task.turn = turn(list(by_criterion.values()), task.uncertainty)
    refresh_state(task, project)


def load_feedback(store: Store, project_id: int) -> Feedback:
    """All records of a project in their order: what ``add_feedback`` was given, and what people did since."""
    with store.read() as db:
        return Feedback(
            tuple(stream_prompts(db, project_id)),
            tuple(stream_completions(db, project_id)),
            tuple(stream_rankings(db, project_id)),
            (),
            tuple(stream_ratings(db, project_id)),
        )


def stream_prompts(db: Session, project_id: int) -> Iterator[Prompt]:
    """One after another, in their order."""
    query = select(PromptRow).where(PromptRow.project_id == project_id).order_by(PromptRow.position)
    for row in _stream(db, query):
        yield to_prompt(row)


def stream_completions(db: Session, project_id: int) -> Iterator[Completion]:
    """One after another, in their order."""
    query = select(CompletionRow).where(CompletionRow.project_id == project_id).order_by(CompletionRow.position)
    for row in _stream(db, query):
        yield to_completion(row)


def stream_rankings(db: Session, project_id: int) -> Iterator[Ranking]:
    """One after another, as they came in."""
    query = select(RankingRow).where(RankingRow.project_id == project_id).order_by(RankingRow.seq)
    for row in _stream(db, query):
        yield to_ranking(row)


def stream_ratings(db: Session, project_id: int) -> Iterator[Rating]:
    """One after another, as they came in."""
    query = select(RatingRow).where(RatingRow.project_id == project_id).order_by(RatingRow.seq)
    for row in _stream(db, query):
        yield Rating(row.id, row.completion_id, row.criterion, row.value, row.annotator, row.created_at, row.simulated)


def to_prompt(row: PromptRow) -> Prompt:
    """The record that a row holds."""
    return Prompt(row.id, row.text, tuple(Message(**m) for m in row.messages), row.source, row.split)


def to_completion(row: CompletionRow) -> Completion:
    """The record that a row holds."""
    return Completion(row.id, row.prompt_id, row.text, row.model, row.ended, row.sampling)


def _stream(db: Session, query: Any) -> Iterator[Any]:
    for row in db.scalars(query.execution_options(yield_per=1000)):
        yield row
        db.expunge(row)


def _prompt_row(project_id: int, prompt: Prompt, position: int) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": prompt.id,
        "text": prompt.text,
        "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
        "source": prompt.source,
        "split": prompt.split,
        "position": position,
    }


def _completion_row(project_id: int, completion: Completion, position: int) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": completion.id,
        "prompt_id": completion.prompt_id,
        "text": completion.text,
        "model": completion.model,
        "ended": completion.ended,
        "sampling": completion.sampling,
        "position": position,
    }


def _ranking_row(project_id: int, ranking: Ranking, origin: str) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": ranking.id,
        "prompt_id": ranking.prompt_id,
        "tiers": [list(tier) for tier in ranking.tiers],
        "annotator": ranking.annotator,
        "none_acceptable": ranking.none_acceptable,
        "criterion": ranking.criterion,
        "shown_order": list(ranking.shown_order),
        "seconds_spent": ranking.seconds_spent,
        "created_at": ranking.created_at,
        "simulated": ranking.simulated,
        "origin": "simulated" if ranking.simulated else origin,
    }


def _rating_row(project_id: int, rating: Rating, origin: str) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": rating.id,
        "completion_id": rating.completion_id,
        "criterion": rating.criterion,
        "value": rating.value,
        "annotator": rating.annotator,
        "created_at": rating.created_at,
        "simulated": rating.simulated,
        "origin": "simulated" if rating.simulated else origin,
    }


_INSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_PLACES = {"position", "origin", "seq"}


def _insert(store: Store, table: Any, rows: list[dict[str, Any]], project_id: int) -> int:
    """Add the rows whose id is new; returns how many. Raises InputError for a known id with another content."""
    with store.write() as db:
        ids = [row["id"] for row in rows]
        known: dict[str, Any] = {}
        for some in _batches(ids, 500):
            query = select(table).where(table.id.in_(some), table.project_id == project_id)
            known |= {row.id: row for row in db.scalars(query)}
        fresh: dict[str, dict[str, Any]] = {}
        for row in rows:
            if table is not Task:
                _check_same(table, known.get(row["id"]) or fresh.get(row["id"]), row)
            if row["id"] not in known:
                fresh.setdefault(row["id"], row)
        if fresh:
            db.execute(insert(table), list(fresh.values()))
        return len(fresh)


def _check_same(table: Any, known: Any, row: dict[str, Any]) -> None:
    if known is None:
        return
    for name, value in row.items():
        old = known[name] if isinstance(known, dict) else getattr(known, name)
        # A split is the run's business and may be set later.
        if name not in _PLACES and name != "split" and old != value:
            kind = table.__tablename__.removesuffix("s")
            raise InputError(
                f"{kind} {row['id']!r}: names another {kind} in the project already ({name} differs); give each its own id"
            )


def _next_position(db: Session, project_id: int) -> int:
    tables: Sequence[Any] = (PromptRow, CompletionRow, Task)
    found = [db.scalar(select(func.max(t.position)).where(t.project_id == project_id)) for t in tables]
    return max((number + 1 for number in found if number is not None), default=0)


def _batches(items: Iterable[Item], size: int = BATCH) -> Iterator[list[Item]]:
    pending = iter(items)
    while batch := list(islice(pending, size)):
        yield batch
