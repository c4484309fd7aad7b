"""Opening, migrating and refusing databases; records in and out without loss, also of real files."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest
import serving
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from making import items, make_project, person
from sqlalchemy import create_engine, func, inspect, select, text

from humanward.errors import InputError
from humanward.feedback.formats import FORMATS, import_files
from humanward.feedback.service.api_data import ENDING_OF
from humanward.feedback.store import people
from humanward.feedback.store.audit import TERMINAL
from humanward.feedback.store.loading import load_files, read_uncertainty
from humanward.feedback.store.models import Base, CompletionRow, Criterion, Project, RankingRow, Submission, Task
from humanward.feedback.store.projects import create_project
from humanward.feedback.store.session import Store, sqlite_url
from humanward.feedback.store.transfer import add_feedback, load_feedback
from humanward.feedback.store_commands import export_from_db
from humanward.records import Completion, Message, Prompt, Ranking, Rating


def check_schema(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_migrations_make_the_models_on_sqlite(tmp_path: Path) -> None:
    store = Store(sqlite_url(tmp_path / "deep" / "x.db"))
    check_schema(store)
    with store.engine.connect() as connection:
        pragma = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")
        }
    assert pragma == {"journal_mode": "wal", "foreign_keys": 1}
    store.close()


def test_the_migrations_make_the_models_on_postgresql(empty_postgres: str) -> None:
    store = Store(empty_postgres)
    check_schema(store)
    store.close()


def test_a_store_opened_again_is_the_same(url: str) -> None:
    first = Store(url)
    make_project(first, count=2)
    first.close()
    again = Store(url)
    with again.read() as db:
        assert db.scalar(select(func.count()).select_from(Task)) == 2
    again.close()


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    Store(url).close()
    with create_engine(url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match="newer humanward"):
        Store(url)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("nonsense", "no database URL"),
        ("mysql://x/y", "not supported"),
        ("sqlite://", "in memory"),
        ("postgresql://nobody:secret@127.0.0.1:1/x", "cannot be opened"),
    ],
)
def test_bad_urls_are_one_line_without_the_password(url: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as refused:
        Store(url)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is a text file and no database at all, by any means" * 20)
    with pytest.raises(InputError, match="no database of ours"):
        Store(sqlite_url(tmp_path / "x.db"))


def test_records_come_back_exactly(store: Store, tmp_path: Path) -> None:
    prompts = (
        Prompt("p1", "What?", (Message("system", "Be kind"), Message("user", "What?")), "mine", "train"),
        Prompt("p2", 'مرحبا = "x", +1\n\ttab \U0001f600', (), "", ""),
    )
    completions = (
        Completion("c1", "p1", "", "gpt-x", False, {"temperature": 0.7, "nested": {"a": [1, None]}}),
        Completion("c2", "p1", "=cmd|' /C calc'!A0", "", True, {}),
        Completion("c3", "p2", "z" * 30_000, "m"),
        Completion("c4", "p2", "y", "m"),
        # What would end a COPY or be taken for nothing, if it were not escaped.
        Completion("c5", "p2", "\\N", "\\."),
        Completion("c6", "p2", "\\.\r\n\\N\t\\t", ""),
    )
    rankings = (
        Ranking("r1", "p1", (("c2",), ("c1",)), "ada", False, "helpful", ("c1", "c2"), 3.25, "2026-01-01T00:00:00Z"),
        Ranking("r2", "p1", (), "ada", False, "helpful", ("c1", "c2")),
        Ranking("r3", "p2", (("c3", "c4"),), "", True, "own-1", (), None, "", True),
    )
    ratings = (Rating("a1", "c3", "overall", 0.25, "bob", "2026-01-01T00:00:00Z", False),)
    project = create_project(store, TERMINAL, "x")
    from humanward.feedback.files import Feedback

    given = Feedback(prompts, completions, rankings, (), ratings)
    add_feedback(store, TERMINAL, project.id, given)
    assert load_feedback(store, project.id) == given
    # Through a file and back into another project.
    out = tmp_path / "all.jsonl"
    export_from_db(out, store.url.render_as_string(hide_password=False), "x", "humanward")
    other = create_project(store, TERMINAL, "y")
    load_files(store, TERMINAL, other.id, [out])
    assert load_feedback(store, other.id) == given
    assert import_files([out], "humanward").feedback.rankings == rankings


def test_a_conflicting_record_is_refused_and_nothing_is_kept(store: Store) -> None:
    project = make_project(store, count=1)
    changed = items(2)
    from dataclasses import replace

    other = (replace(changed.completions[0], text="another text"), *changed.completions[1:])
    with pytest.raises(InputError, match="completion 'p0a': names another"):
        add_feedback(store, TERMINAL, project.id, replace(changed, completions=other))
    with store.read() as db:
        assert db.scalar(select(func.count()).select_from(CompletionRow)) == 3


def test_bad_rows_keep_nothing_or_with_skip_bad_the_others(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "x", "rejected": "y"} for i in range(2500)]
    rows[2400] = {"prompt": "q", "chosen": "x"}
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    project = create_project(store, TERMINAL, "x")
    with pytest.raises(InputError, match=r"pairs.jsonl line 2401: field 'rejected' is missing"):
        load_files(store, TERMINAL, project.id, [path], "trl")
    assert load_feedback(store, project.id).prompts == ()
    loaded = load_files(store, TERMINAL, project.id, [path], "trl", skip_bad=True)
    assert (loaded.rows, loaded.bad_rows, loaded.added.tasks, len(loaded.reasons)) == (2500, 1, 2499, 1)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("csv", 'q,"x\x00",2\n'),
        ("trl", {"prompt": "q\x00", "chosen": "x", "rejected": "y"}),
        ("humanward", {"prompt": {"id": "q", "text": "q", "messages": [{"role": "user", "content": "\x00"}]}}),
    ],
)
def test_what_a_database_cannot_keep_is_named_by_its_line(store: Store, tmp_path: Path, name: str, row: Any) -> None:
    path = tmp_path / ("x.csv" if name == "csv" else "x.jsonl")
    good = (
        {"prompt": {"id": "p", "text": "p"}} if name == "humanward" else {"prompt": "p", "chosen": "a", "rejected": "b"}
    )
    lines = (
        ["prompt,completion,rank", "p,a,1", "p,b,2", "q,y,1", row] if name == "csv" else map(json.dumps, (good, row))
    )
    path.write_text("\n".join(lines))
    project = create_project(store, TERMINAL, "x")
    with pytest.raises(InputError, match=r"x\.(jsonl line 2|csv line 5): holds a NUL character"):
        load_files(store, TERMINAL, project.id, [path], name)
    loaded = load_files(store, TERMINAL, project.id, [path], name, skip_bad=True)
    # In the table the other answer to q is left alone, which is no ranking.
    assert (loaded.rows - loaded.bad_rows, loaded.bad_rows) == ((2, 2) if name == "csv" else (1, 1))


def test_a_row_may_say_how_uncertain_somebody_is(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "q", "chosen": "x", "rejected": "y"}
    path.write_text(json.dumps(row | {"uncertainty": 1.5}) + "\n" + json.dumps(row | {"prompt": "r"}))
    project = create_project(store, TERMINAL, "x")
    load_files(store, TERMINAL, project.id, [path], "trl")
    with store.read() as db:
        assert list(db.scalars(select(Task.uncertainty).order_by(Task.position))) == [1.5, None]
    path.write_text(json.dumps(row | {"uncertainty": -1}))
    with pytest.raises(InputError, match="field 'uncertainty'"):
        load_files(store, TERMINAL, project.id, [path], "trl")
    beside = tmp_path / "doubt.jsonl"
    beside.write_text('{"prompt_id": "p", "uncertainty": 2}\n')
    assert read_uncertainty(beside) == {"p": 2.0}
    beside.write_text('{"prompt_id": "p", "uncertainty": "much"}\n')
    with pytest.raises(InputError, match="line 1, field 'uncertainty'"):
        read_uncertainty(beside)


@pytest.mark.parametrize(
    ("path", "rows", "prompts", "rankings", "tasks"),
    [
        ("oasst_en100/en_100_tree.jsonl.gz", 100, 212, 212, 212),
        ("pandalm_testset/testset-v1.json.gz", 999, 170, 2997, 999),
        ("qa_feedback_dev/dev_feedback.json.gz", 500, 500, 478 + 22 * 6, 478 + 22 * 6),
        ("hh_rlhf_harmless/harmless-base.test.subset.jsonl.gz", 1914, None, 1914, None),
        ("hh_rlhf_helpful_seed/helpful-base.seed.subset.jsonl.gz", 824, None, 824, None),
    ],
)
def test_real_files_import_with_their_counts(
    shared: Path, tmp_path: Path, path, rows, prompts, rankings, tasks
) -> None:
    store = Store(sqlite_url(tmp_path / "x.db"))
    project = create_project(store, TERMINAL, "real")
    loaded = load_files(store, TERMINAL, project.id, [shared / "data" / path])
    assert (loaded.rows, loaded.bad_rows, loaded.added.rankings) == (rows, 0, rankings)
    if prompts is not None:
        assert (loaded.added.prompts, loaded.added.tasks) == (prompts, tasks)
    in_memory = import_files([shared / "data" / path], "auto").feedback
    feedback = load_feedback(store, project.id)
    assert (feedback.prompts, feedback.completions, feedback.rankings) == (
        in_memory.prompts,
        in_memory.completions,
        in_memory.rankings,
    )
    assert load_files(store, TERMINAL, project.id, [shared / "data" / path]).added.rankings == 0
    store.close()


def test_a_new_project_asks_for_what_the_file_judged(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt,completion,rank,criterion\nq,a,1,helpful\nq,b,2,helpful\nq,a,2,harmless\nq,b,1,harmless\n")
    project = create_project(store, TERMINAL, "x")
    load_files(store, TERMINAL, project.id, [path], adopt_criteria=True)
    with store.read() as db:
        rows = db.scalars(select(Criterion).order_by(Criterion.position)).all()
    assert [row.name for row in rows] == ["helpful", "harmless"]
    assert "least harm" in rows[1].short or "harm" in rows[1].short


def test_csv_neutralises_formulas(store: Store, tmp_path: Path) -> None:
    from humanward.feedback.files import Feedback

    texts = ["=1+1", "+1", "-1", "@x", "\t=1", "fine"]
    prompt = Prompt("p", "=HYPERLINK(1)")
    completions = tuple(Completion(f"c{i}", "p", t, "") for i, t in enumerate(texts))
    ranking = Ranking("r", "p", tuple((c.id,) for c in completions), "ada")
    project = create_project(store, TERMINAL, "x")
    add_feedback(store, TERMINAL, project.id, Feedback((prompt,), completions, (ranking,)))
    export_from_db(tmp_path / "x.csv", store.url.render_as_string(hide_password=False), "x", "csv")
    import csv

    with (tmp_path / "x.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t")]
    back = import_files([tmp_path / "x.csv"], "csv").feedback
    assert [c.text for c in back.completions] == texts


def test_every_written_format_comes_out_of_a_store(store: Store, tmp_path: Path) -> None:
    from dataclasses import replace

    ranking = Ranking("r", "p0", (("p0b",), ("p0a", "p0c")), "ada")
    rating = Rating("a", "p0a", "overall", 1.0, "ada")
    project = create_project(store, TERMINAL, "x")
    add_feedback(store, TERMINAL, project.id, replace(items(1), rankings=(ranking,), ratings=(rating,)))
    for name in [name for name, form in FORMATS.items() if form.write]:
        out = tmp_path / f"{name}.{ENDING_OF.get(name, 'jsonl')}"
        result = export_from_db(out, store.url.render_as_string(hide_password=False), "x", name)
        assert result.rows > 0, name
        assert import_files([out], name).rows > 0, name


def test_tables_are_indexed_for_the_next_task(store: Store) -> None:
    names = {index["name"] for index in inspect(store.engine).get_indexes("tasks")}
    assert {"ix_tasks_next", "ix_tasks_state", "ix_tasks_prompt"} <= names


@pytest.mark.slow
def test_what_was_confirmed_survives_kill_9(url: str) -> None:
    store = Store(url)
    project = make_project(store, count=60, answers=2)
    ada = person(store, "ada", project)
    _, token = people.create_token(store, ada, "x")
    port = serving.free_port()
    confirmed = []
    for stop_after in (15, 10):
        server = serving.start(url, port)
        base = f"http://127.0.0.1:{port}"
        serving.wait_for(port, server)
        with httpx2.Client(base_url=f"{base}/api/v1", headers={"authorization": f"Bearer {token}"}) as client:
            for _ in range(stop_after):
                task = client.post(f"/projects/{project.id}/claim").json()["task"]
                body = {"client_id": f"c-{task['task_id']}", "judgements": {"overall": {"tiers": [["A"], ["B"]]}}}
                reply = client.post(f"/tasks/{task['task_id']}/submit", json=body)
                assert reply.status_code == 200
                confirmed.append(reply.json()["submission_id"])
        server.send_signal(signal.SIGKILL)
        server.wait()
    with store.read() as db:
        assert list(db.scalars(select(Submission.id).order_by(Submission.id))) == confirmed
        assert db.scalar(select(func.count()).select_from(RankingRow)) == 25
        assert db.scalar(select(func.count()).select_from(Project)) == 1
    store.close()


def test_simulated_annotators_rank_a_project_and_stay_marked(store: Store, tmp_path: Path) -> None:
    from humanward.feedback.store.progress import my_progress
    from humanward.feedback.store.quality import gold_of, project_quality
    from humanward.feedback.store.roster import roster
    from humanward.feedback.store.simulating import Team, read_scores, simulate_into

    project = make_project(store, count=4, criteria=("helpful", "honest"))
    path = tmp_path / "scores.jsonl"
    ids = [completion.id for completion in items(4).completions]
    path.write_text("\n".join(json.dumps({"completion_id": c, "score": "abc".index(c[-1])}) for c in ids))
    added = simulate_into(store, TERMINAL, project.id, read_scores(path), Team(annotators=2, noise=0.0))
    assert added.rankings == 16
    feedback = load_feedback(store, project.id)
    assert all(ranking.simulated for ranking in feedback.rankings)
    assert {ranking.tiers[0][0][-1] for ranking in feedback.rankings} == {"c"}
    assert {p["name"]: p["simulated"] for p in roster(store)["people"]} == {"simulated-1": True, "simulated-2": True}
    with store.read() as db:
        assert {t.opinions for t in db.scalars(select(Task))} == {0}
        report = project_quality(db, project.id, gold_of(db, project.id), resamples=100)
        assert my_progress(db, 1, project.id)["left"] == 4
    assert report["statistics"]["simulated"] == 16
    assert simulate_into(store, TERMINAL, project.id, read_scores(path), Team(annotators=2, noise=0.0)).rankings == 0
    with pytest.raises(InputError, match="has no score"):
        simulate_into(store, TERMINAL, project.id, {}, Team())
    # Nobody signs in as a simulated annotator.
    with store.read() as db:
        user = people.user_named(db, "simulated-1")
    assert user is not None
    with pytest.raises(InputError):
        people.sign_in_link(store, TERMINAL, user.id)


def test_a_snapshot_does_not_see_what_comes_in_meanwhile(store: Store) -> None:
    project = make_project(store, count=1)
    count = select(func.count()).select_from(CompletionRow)
    with store.snapshot() as db:
        assert db.scalar(count) == 3
        add_feedback(store, TERMINAL, project.id, items(2))
        assert db.scalar(count) == 3
    with store.read() as db:
        assert db.scalar(count) == 6
