"""What the feedback commands do with ``--db``: the same as on a run directory, on a project of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from humanward.errors import InputError
from humanward.feedback.extra import need_collect
from humanward.feedback.formats import ExportResult, export_file
from humanward.feedback.quality.gold import Gold
from humanward.records import Ranking, to_json, write_jsonl

RUN_ONLY = "--run and --db: give exactly one of them"


def check_place(run: Path | None, db: str | None) -> None:
    """Raise InputError unless exactly one of --run and --db is given."""
    if (run is None) is (db is None):
        raise InputError(RUN_ONLY)


def place_of(run: Path | None, db: str | None, project: str) -> tuple[str | None, str]:
    """(the database, its project) to read: those given, or a run's own store once anything is ranked in it.

    Without a database, the files of the run. Raises InputError unless exactly one of --run and --db is given.
    """
    check_place(run, db)
    if run is None or not (run / "feedback.db").exists():
        return db, project
    need_collect()
    from sqlalchemy import select

    from humanward.feedback.store.models import RankingRow
    from humanward.feedback.store.projects import project_named
    from humanward.feedback.store.runs import RUN_PROJECT, store_of_run
    from humanward.feedback.store.session import Store, sqlite_url

    url = sqlite_url(store_of_run(run))
    store = Store(url)
    try:
        with store.read() as session:
            found = project_named(session, RUN_PROJECT)
            ranked = found and session.scalar(select(RankingRow.seq).where(RankingRow.project_id == found.id).limit(1))
    finally:
        store.close()
    return (url, RUN_PROJECT) if ranked else (None, project)


def import_into_db(
    files: Sequence[Path],
    db: str,
    project: str,
    form: str,
    *,
    skip_bad: bool,
    criteria: Sequence[str],
    uncertainty: Path | None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(summary, reasons of bad rows). A project that is not there is made, for the criteria that the file names."""
    need_collect()
    from humanward.feedback.store.audit import TERMINAL
    from humanward.feedback.store.loading import load_files, read_uncertainty
    from humanward.feedback.store.projects import CriterionSpec, create_project, project_named
    from humanward.feedback.store.session import Store

    if not project:
        raise InputError("--project: is missing; name the project to import into (it is made if it is not there)")
    doubts = read_uncertainty(uncertainty) if uncertainty else {}
    store = Store(db)
    try:
        with store.read() as session:
            found = project_named(session, project)
        new = found is None
        if found is None:
            specs = [CriterionSpec(name) for name in criteria or ("overall",)]
            found = create_project(store, TERMINAL, project, criteria=specs)
        elif criteria:
            raise InputError(f"--criterion: project {project!r} is there already and has its criteria; leave it out")
        try:
            loaded = load_files(
                store,
                TERMINAL,
                found.id,
                files,
                form,
                skip_bad=skip_bad,
                uncertainty=doubts,
                adopt_criteria=new and not criteria,
            )
        except InputError:
            if new:
                drop_empty(store, found.id)
            raise
    finally:
        store.close()
    summary = {
        "db": store.shown_url,
        "project": project,
        "rows": loaded.rows,
        "good": loaded.rows - loaded.bad_rows,
        "bad": loaded.bad_rows,
        **{f"new_{name}" if name != "single" else "single": count for name, count in vars(loaded.added).items()},
        "notes": loaded.notes,
    }
    return summary, loaded.reasons


def drop_empty(store: Any, project_id: int) -> None:
    """Take away a project that was made for an import which then failed."""
    from sqlalchemy import delete, update

    from humanward.feedback.store.audit import TERMINAL, record
    from humanward.feedback.store.models import AuditRow, Criterion, Project

    with store.write() as session:
        name = session.get(Project, project_id).name
        session.execute(delete(Criterion).where(Criterion.project_id == project_id))
        session.execute(update(AuditRow).where(AuditRow.project_id == project_id).values(project_id=None))
        session.execute(delete(Project).where(Project.id == project_id))
        record(session, store.now(), TERMINAL, "project.drop_empty", f"project {project_id}", name=name)


def export_from_db(output: Path, db: str, project: str, form: str) -> ExportResult:
    """A project of a store in a format; our own is written as it is read, so that memory stays flat."""
    store, chosen = _project(db, project)
    from humanward.feedback.store.runs import feedback_for
    from humanward.feedback.store.transfer import stream_completions, stream_prompts, stream_rankings, stream_ratings

    try:
        if form != "humanward":
            return export_file(output, form, feedback_for(store, chosen.id, form))

        def rows() -> Iterator[dict[str, Any]]:
            # One transaction, so that nothing comes in between the parts.
            with store.snapshot() as session:
                for kind, stream in (
                    ("prompt", stream_prompts),
                    ("completion", stream_completions),
                    ("ranking", stream_rankings),
                    ("rating", stream_ratings),
                ):
                    for record in stream(session, chosen.id):
                        yield {kind: to_json(record)}

        return ExportResult(write_jsonl(output, rows()), 0)
    finally:
        store.close()


def rankings_of_db(db: str, project: str) -> tuple[list[Ranking], Gold, str]:
    """(all rankings of a project, its gold items, where they are)."""
    store, chosen = _project(db, project)
    from humanward.feedback.store.quality import gold_of
    from humanward.feedback.store.transfer import stream_rankings

    try:
        with store.read() as session:
            rankings = list(stream_rankings(session, chosen.id))
            return rankings, gold_of(session, chosen.id), f"{store.shown_url}, project {chosen.name}"
    finally:
        store.close()


def _project(db: str, project: str) -> tuple[Any, Any]:
    need_collect()
    from humanward.feedback.store.projects import the_project
    from humanward.feedback.store.session import Store

    store = Store(db)
    try:
        with store.read() as session:
            return store, the_project(session, project)
    except InputError:
        store.close()
        raise
