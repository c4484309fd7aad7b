"""Records into the store and out of it, without loss: prompts, completions, rankings, ratings.

An import is one transaction: all of it is there, with the tasks that follow from it, or nothing. Memory stays flat, as
records go through in batches. Adding the same records again adds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

import psycopg
from sqlalchemy import JSON, Table, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.feedback.store.answers import LETTERS
from humanward.feedback.store.audit import Actor, record
from humanward.feedback.store.models import CompletionRow, Project, PromptRow, RankingRow, RatingRow, Task
from humanward.feedback.store.people import require
from humanward.feedback.store.projects import MOST_CRITERIA, CriterionSpec, replace_criteria
from humanward.feedback.store.session import Store
from humanward.feedback.store.settling import batches, recount, to_ranking
from humanward.feedback.store.turns import squash
from humanward.records import Completion, Message, Prompt, Ranking, Rating, content_id

BATCH = 2000
LOOK_AGAIN = 8
"""PostgreSQL looks at a table anew whenever an import has added so many times as many rows as before."""


@dataclass
class Added:
    """How many records and tasks an import added; ``single`` prompts have one answer, which cannot be compared."""

    prompts: int = 0
    completions: int = 0
    rankings: int = 0
    ratings: int = 0
    tasks: int = 0
    single: int = 0


class Importer:
    """An import under way, within one transaction: ``add`` any number of times, then ``finish``.

    ``uncertainty`` by prompt id orders tasks; ``origin`` says where rankings come from.
    """

    def __init__(self, db: Session, store: Store, actor: Actor, project: Project, origin: str = "import") -> None:
        self.db, self.store, self.actor, self.project, self.origin = db, store, actor, project, origin
        self.added = Added()
        self.uncertainty: dict[str, float] = {}
        self.first_position = self.position = _next_position(db, project.id)
        self.last_seq = db.scalar(select(func.max(RankingRow.seq))) or 0
        self.inserted: dict[str, int] = {}
        self.counted: dict[str, int] = {}

    def add(self, feedback: Feedback) -> None:
        """Add records; what they refer to was added before or is in the store. Raises InputError for one id with two
        contents.
        """
        project_id, added = self.project.id, self.added
        for prompts in batches(feedback.prompts):
            added.prompts += self._insert(PromptRow, [_prompt_row(project_id, p) for p in prompts], True)
        for completions in batches(feedback.completions):
            added.completions += self._insert(
                CompletionRow, [_completion_row(project_id, c) for c in completions], True
            )
        for rankings in batches(feedback.rankings):
            added.rankings += self._insert(RankingRow, [_ranking_row(project_id, r, self.origin) for r in rankings])
        for ratings in batches(feedback.ratings):
            added.ratings += self._insert(RatingRow, [_rating_row(project_id, r, self.origin) for r in ratings])

    def adopt_criteria(self) -> None:
        """Let the project, which is new and empty, ask for the criteria that the rankings name, if there are any."""
        names = list(
            self.db.scalars(
                select(RankingRow.criterion)
                .where(RankingRow.project_id == self.project.id)
                .group_by(RankingRow.criterion)
                .order_by(func.min(RankingRow.seq))
                .limit(MOST_CRITERIA)
            )
        )
        if names:
            replace_criteria(self.db, self.project.id, [CriterionSpec(name) for name in names])

    def finish(self) -> Added:
        """Make the tasks and write the audit line. Raises InputError for a prompt with more than nine answers."""
        self._make_tasks()
        self._settle_rankings()
        counts = {
            name: getattr(self.added, name) for name in ("prompts", "completions", "rankings", "ratings", "tasks")
        }
        project_id = self.project.id
        record(self.db, self.store.now(), self.actor, "data.import", f"project {project_id}", project_id, **counts)
        return self.added

    def _make_tasks(self) -> None:
        """Tasks for the answers that arrived, and for the sets of answers that rankings of theirs name."""
        project_id = self.project.id
        arrived = self.db.execute(
            select(CompletionRow.prompt_id, CompletionRow.id, PromptRow.position)
            .join(PromptRow, (PromptRow.project_id == project_id) & (PromptRow.id == CompletionRow.prompt_id))
            .where(CompletionRow.project_id == project_id, CompletionRow.position >= self.first_position)
            .order_by(CompletionRow.prompt_id, CompletionRow.position)
            .execution_options(yield_per=BATCH)
        )
        by_prompt = ((key, [(r[1], r[2]) for r in rows]) for key, rows in groupby(arrived, key=lambda row: row[0]))
        for some in batches(by_prompt):
            ranked = _ranked_sets(self.db, project_id, [prompt_id for prompt_id, _ in some], self.last_seq)
            rows = []
            for prompt_id, answers in some:
                named = ranked.get(prompt_id, {})
                sets = self._answer_sets(prompt_id, [answer for answer, _ in answers], named)
                self.added.single += not sets
                rows += [self._task_row(prompt_id, ids, answers[0][1]) for ids in sets]
            self.added.tasks += self._insert(Task, rows)

    def _answer_sets(
        self, prompt_id: str, arrived: Sequence[str], ranked: Mapping[frozenset[str], None]
    ) -> list[list[str]]:
        """The sets that rankings name, and the answers that none names; in pairwise mode the pairs of the latter."""
        sets = [sorted(ids) for ids in ranked]
        named = set().union(*ranked) if ranked else set()
        rest = [answer for answer in arrived if answer not in named]
        if len(rest) > 1:
            sets += [list(pair) for pair in combinations(rest, 2)] if self.project.mode == "pairwise" else [rest]
        if too_many := next((ids for ids in sets if len(ids) > len(LETTERS)), None):
            raise InputError(
                f"prompt {prompt_id}: has {len(too_many)} answers, but people compare at most {len(LETTERS)} at once; "
                "sample fewer for each prompt"
            )
        return sets

    def _task_row(self, prompt_id: str, ids: Sequence[str], position: int) -> dict[str, Any]:
        uncertainty = self.uncertainty.get(prompt_id)
        return {
            "id": task_id_of(self.project.id, prompt_id, ids),
            "project_id": self.project.id,
            "prompt_id": prompt_id,
            "completion_ids": list(ids),
            "position": position,
            "quota": self.project.overlap,
            "reserved": 0,
            "opinions": 0,
            "available": True,
            "state": "open",
            "uncertainty": uncertainty,
            "turn": -squash(uncertainty),
            "adjudicated": False,
        }

    def _settle_rankings(self) -> None:
        """Tie the new rankings to their tasks, made now where no answers of theirs arrived; count the opinions."""
        last = self.last_seq
        while True:
            rows = self.db.execute(
                select(
                    RankingRow.seq, RankingRow.prompt_id, RankingRow.tiers, RankingRow.shown_order, PromptRow.position
                )
                .join(PromptRow, (PromptRow.project_id == self.project.id) & (PromptRow.id == RankingRow.prompt_id))
                .where(
                    RankingRow.project_id == self.project.id, RankingRow.seq > last, RankingRow.submission_id.is_(None)
                )
                .order_by(RankingRow.seq)
                .limit(BATCH)
            ).all()
            if not rows:
                return
            last = rows[-1].seq
            ties: list[dict[str, Any]] = []
            tasks: dict[str, dict[str, Any]] = {}
            for seq, prompt_id, tiers, shown, position in rows:
                ids = sorted(shown or [c for tier in tiers for c in tier])
                if len(ids) > 1:
                    row = self._task_row(prompt_id, ids, position)
                    tasks[row["id"]] = row
                    ties.append({"seq": seq, "task_id": row["id"]})
            self.added.tasks += self._insert(Task, list(tasks.values()))
            if ties:
                self.db.execute(update(RankingRow), ties)
            recount(self.db, self.project, list(tasks))

    def _insert(self, table: Any, rows: list[dict[str, Any]], placed: bool = False) -> int:
        """Add the rows whose id is new; returns how many."""
        known: dict[str, Any] = {}
        project_id = self.project.id
        for some in batches([row["id"] for row in rows], 500):
            found = self.db.execute(
                select(table.__table__).where(table.id.in_(some), table.project_id == project_id)
            ).mappings()
            known |= {row["id"]: row for row in found}
        fresh: dict[str, dict[str, Any]] = {}
        for row in rows:
            old = known.get(row["id"]) or fresh.get(row["id"])
            if old is None:
                fresh[row["id"]] = row
            elif table is not Task:
                _check_same(table, old, row)
        if placed:
            for row in fresh.values():
                row["position"] = self.position
                self.position += 1
        if fresh:
            fill(self.db, table.__table__, list(fresh.values()))
        self._count(table.__tablename__, len(fresh))
        return len(fresh)

    def _count(self, table: str, more: int) -> None:
        """Have PostgreSQL look at a table that grew: in one that it takes for tiny it looks for ids by whole scans."""
        now = self.inserted[table] = self.inserted.get(table, 0) + more
        if not self.store.sqlite and now >= max(BATCH, self.counted.get(table, 0) * LOOK_AGAIN):
            self.db.execute(text(f"ANALYZE {table}"))
            self.counted[table] = now


def fill(db: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows of the same columns: on PostgreSQL by COPY, as an INSERT for each takes several times as long."""
    if db.get_bind().dialect.name == "sqlite":
        db.execute(insert(table), rows)
        return
    db.flush()
    names = {name: isinstance(table.c[name].type, JSON) for name in rows[0]}
    statement = f"COPY {table.name} ({', '.join(names)}) FROM STDIN"
    connection: Any = db.connection().connection.driver_connection
    try:
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row([_cell(row[name], as_json) for name, as_json in names.items()])
    except psycopg.Error as error:
        raise DBAPIError.instance(statement, None, error, psycopg.Error) from error


def _cell(value: Any, as_json: bool) -> Any:
    return json.dumps(value) if as_json and value is not None else value


@contextmanager
def importing(store: Store, actor: Actor, project_id: int, origin: str = "import") -> Iterator[Importer]:
    """An import by an admin of the project: finished, and on the disk, when the block ends."""
    with store.write() as db:
        project = require(db, actor, project_id, "admin")
        if store.sqlite is False:
            # Two imports into one project would otherwise give the same positions.
            db.execute(select(Project.id).where(Project.id == project_id).with_for_update())
            db.execute(text("SET LOCAL enable_seqscan = off"))
        importer = Importer(db, store, actor, project, origin)
        yield importer
        importer.finish()


def add_feedback(
    store: Store,
    actor: Actor,
    project_id: int,
    feedback: Feedback,
    *,
    uncertainty: Mapping[str, float] | None = None,
    origin: str = "import",
) -> Added:
    """Add records to a project in one go; see ``Importer``."""
    with importing(store, actor, project_id, origin) as importer:
        importer.uncertainty.update(uncertainty or {})
        importer.add(feedback)
    return importer.added


def _ranked_sets(
    db: Session, project_id: int, prompt_ids: Sequence[str], after_seq: int
) -> dict[str, dict[frozenset[str], None]]:
    found: dict[str, dict[frozenset[str], None]] = {}
    for some in batches(prompt_ids, 500):
        rows = db.execute(
            select(RankingRow.prompt_id, RankingRow.tiers, RankingRow.shown_order).where(
                RankingRow.project_id == project_id, RankingRow.prompt_id.in_(some), RankingRow.seq > after_seq
            )
        )
        for prompt_id, tiers, shown in rows:
            ids = frozenset(shown or [c for tier in tiers for c in tier])
            if len(ids) > 1:
                found.setdefault(prompt_id, {})[ids] = None
    return found


def task_id_of(project_id: int, prompt_id: str, completion_ids: Iterable[str]) -> str:
    """The id of the task on these answers: the same whenever it is made."""
    return content_id("task", str(project_id), prompt_id, *sorted(completion_ids))


def load_feedback(store: Store, project_id: int) -> Feedback:
    """All records of a project in their order: what ``add_feedback`` was given, and what people did since."""
    with store.snapshot() as db:
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


def _prompt_row(project_id: int, prompt: Prompt) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": prompt.id,
        "text": prompt.text,
        "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
        "source": prompt.source,
        "split": prompt.split,
    }


def _completion_row(project_id: int, completion: Completion) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": completion.id,
        "prompt_id": completion.prompt_id,
        "text": completion.text,
        "model": completion.model,
        "ended": completion.ended,
        "sampling": completion.sampling,
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


_PLACES = {"position", "origin", "seq", "split"}
"""What may differ between two copies of a record; a split is the run's business and may be set later."""


def _check_same(table: Any, old: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        if name not in _PLACES and old[name] != value:
            kind = table.__tablename__.removesuffix("s")
            raise InputError(
                f"{kind} {row['id']!r}: names another {kind} in the project ({name} differs); give each its own id"
            )


def _next_position(db: Session, project_id: int) -> int:
    tables: Sequence[Any] = (PromptRow, CompletionRow)
    found = [db.scalar(select(func.max(t.position)).where(t.project_id == project_id)) for t in tables]
    return max((number + 1 for number in found if number is not None), default=0)
