"""``humanward collect`` and ``humanward users``, and a run that takes its rankings from the service."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import serving
from making import items
from typer.testing import CliRunner

from humanward.cli import app
from humanward.errors import InputError
from humanward.feedback import extra
from humanward.feedback.store import people, tasks
from humanward.feedback.store.answers import Answer, Judgement, adjudicate, submit
from humanward.feedback.store.audit import TERMINAL, Actor
from humanward.feedback.store.runs import collected, load_run, settled, store_of_run
from humanward.feedback.store.session import Store, sqlite_url
from humanward.preferences import derive_preferences
from humanward.records import Ranking, write_jsonl


def call(*words: object) -> dict:
    """A command's JSON."""
    result = CliRunner().invoke(app, [str(word) for word in (*words, "--json")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with prompts and completions."""
    folder = tmp_path / "run"
    folder.mkdir()
    feedback = items(3)
    write_jsonl(folder / "prompts.jsonl", feedback.prompts)
    write_jsonl(folder / "completions.jsonl", feedback.completions)
    return folder


def rank(store: Store, someone: Actor, project_id: int, best_first: str) -> str:
    """Take the next task and order it; returns its id."""
    own = tasks.claim(store, someone, project_id)
    assert own is not None
    letter = {completion[-1]: "ABC"[i] for i, completion in enumerate(own.shown_order)}
    judgement = Judgement(tuple((letter[c],) for c in best_first))
    submit(store, someone, own.task_id, Answer(f"client-{own.id}", {"overall": judgement}))
    return own.task_id


def test_a_runs_answers_go_in_and_rankings_come_back(run: Path) -> None:
    earlier = Ranking("r1", "p2", (("p2a",), ("p2b",), ("p2c",)), "zoe")
    robot = Ranking("r2", "p1", (("p1a",), ("p1b",), ("p1c",)), "simulated-1", simulated=True)
    write_jsonl(run / "rankings.jsonl", [earlier, robot])
    store = Store(sqlite_url(store_of_run(run)))
    project, added = load_run(store, run)
    # What somebody ranked in the terminal counts; simulated rankings stay outside.
    assert (added.tasks, added.rankings) == (3, 1)
    assert load_run(store, run)[1].tasks == 0
    user = people.add_user(store, "ada", owner=True)
    ada = Actor(user.id, "ada", True)
    rank(store, ada, project.id, "cba")
    task_id = rank(store, ada, project.id, "bac")
    assert tasks.claim(store, ada, project.id) is None
    # A reviewer's decision stands in place of the rankings of its task; letters are those of the ids in order.
    adjudicate(store, ada, task_id, Answer("decide-1", {"overall": Judgement((("A",), ("B", "C")))}))
    store.close()
    feedback = collected(run)
    assert {(r.prompt_id, r.annotator, r.tiers[0]) for r in feedback.rankings} == {
        ("p2", "zoe", ("p2a",)),
        ("p0", "ada", ("p0c",)),
        ("p1", "ada (adjudication)", ("p1a",)),
    }
    assert derive_preferences(feedback.prompts, feedback.completions, feedback.rankings).pairs == 3 + 3 + 2
    # The run's own commands read what was ranked there, also before any stage wrote it into files.
    (run / "rankings.jsonl").unlink()
    assert call("feedback", "stats", "--run", run)["rankings"] == 4
    out = run.parent / "pairs.jsonl"
    assert call("feedback", "export", "--run", run, "--format", "trl", "--output", out)["rows"] == 3 + 3 + 2
    assert call("feedback", "export", "--run", run, "--output", out)["rows"] == 3 + 9 + 4


def test_what_is_missing_is_said_in_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no feedback\.db; rank with `humanward collect"):
        collected(run)
    store = Store(sqlite_url(store_of_run(run)))
    with pytest.raises(InputError, match=r"no project 'run' \(there are: none\)"):
        collected(run)
    load_run(store, run)
    with pytest.raises(InputError, match="nothing was ranked"):
        collected(run)
    store.close()
    (run / "completions.jsonl").unlink()
    with pytest.raises(InputError, match="holds no completions yet; run `humanward sample"):
        load_run(Store(sqlite_url(tmp_path / "x.db")), run)


def test_settled_keeps_the_last_decision() -> None:
    plain = Ranking("r1", "p", (("a",), ("b",)), "ada")
    first = Ranking("r2", "p", (("b",), ("a",)), "chief (adjudication)")
    second = Ranking("r3", "p", (("a", "b"),), "other (adjudication)")
    elsewhere = Ranking("r4", "p", (("a",), ("c",)), "ada")
    assert settled((plain, first, second, elsewhere)) == (second, elsewhere)


def test_weights_in_proportion_to_trust() -> None:
    feedback = items(1, 2)
    rankings = [Ranking(f"r{who}", "p0", (("p0a",), ("p0b",)), who) for who in ("ada", "bob", "eve")]
    found = derive_preferences(
        feedback.prompts, feedback.completions, rankings, trust={"ada": 0.9, "bob": 0.3, "eve": 0.0}
    )
    assert [p.weight for p in found.preferences] == pytest.approx([0.75, 0.25, 0.0])


def test_users_are_invited_listed_and_locked_out(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/team.db"
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "q", "chosen": "x", "rejected": "y"}\n')
    made = call("feedback", "import", pairs, "--db", db, "--project", "demo", "--criterion", "harmless")
    assert (made["good"], made["new_tasks"]) == (1, 1)
    invited = call("users", "invite", "--db", db, "--project", "demo", "--role", "reviewer", "--name", "Ada")
    store = Store(db)
    signed = people.enter(store, invited["link"].split("#")[1])
    listed = call("users", "list", "--db", db)
    assert listed["people"][0]["roles"] == {"demo": "reviewer"}
    assert listed["invitations"] == []
    link = call("users", "link", "Ada", "--db", db)["link"]
    call("users", "revoke", "--db", db, "--name", "Ada")
    assert people.actor_of_cookie(store, signed.cookie) is None
    with pytest.raises(InputError, match="used, over or unknown"):
        people.enter(store, link.split("#")[1])
    second = call("users", "invite", "--db", db)
    call("users", "revoke", "--db", db, "--invitation", second["id"])
    assert call("users", "list", "--db", db)["invitations"] == []
    stats = call("feedback", "stats", "--db", db)
    assert (stats["rankings"], stats["quality"]["annotators"][0]["reliability"]["value"]) == (1, None)
    store.close()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["users", "list"], "give exactly one of them"),
        (["users", "list", "--db", "sqlite:///x.db", "--run", "."], "give exactly one of them"),
        (["users", "list", "--run", "nowhere"], "no such run directory"),
        (["users", "list", "--run", "{}"], "has no labelling service yet; start it with `humanward collect"),
        (["collect", "--run", "{}", "--no-open"], "holds no completions yet; run `humanward sample"),
        (["users", "invite", "--db", "sqlite:///{}/x.db"], "--project: is missing; name one of: none"),
        (["users", "link", "nobody", "--db", "sqlite:///{}/x.db"], "there is nobody of that name"),
        (["feedback", "stats"], "give exactly one of them"),
        (["feedback", "import", "x.jsonl", "--db", "sqlite:///{}/x.db"], "--project: is missing"),
        (["collect", "--db", "sqlite:///{}/x.db", "--public-url", "label.example.org"], "is no address"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=re.escape(reason)) as refused:
        CliRunner().invoke(app, [word.format(tmp_path) for word in words], catch_exceptions=False)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "feedback.db").exists()


def test_a_failed_import_leaves_no_project_behind(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/team.db"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "q", "chosen": "x"}\n')
    words = ["feedback", "import", str(bad), "--format", "trl", "--db", db, "--project", "demo"]
    with pytest.raises(InputError, match="field 'rejected' is missing"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    with pytest.raises(InputError, match="there are: none"):
        call("feedback", "stats", "--db", db, "--project", "demo")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "alembic" else object())
    with pytest.raises(
        InputError, match=r"alembic: is not installed; install the extra: pip install 'humanward\[collect\]'"
    ):
        extra.need_collect()


def test_collect_prints_a_link_that_signs_in_once(run: Path) -> None:
    port = serving.free_port()
    command = [
        sys.executable,
        "-m",
        "humanward.cli",
        "collect",
        "--run",
        str(run),
        "--port",
        str(port),
        "--no-open",
        "--json",
    ]
    command[1:3] = ["-c", "from humanward.cli import main; main()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    server = subprocess.Popen(command, text=True, env=environment, **pipes)
    try:
        assert server.stderr is not None
        assert server.stdout is not None
        lines = [server.stderr.readline() for _ in range(3)]
        assert "3 new tasks" in lines[0]
        found = re.search(r"(http://127\.0\.0\.1:\d+)/enter#(\S+)", lines[2])
        assert found
        base, token = found.groups()
        facts = json.loads(server.stdout.readline())
        assert (facts["link"], facts["url"]) == (found[0], f"{base}/projects/1/label")
        serving.wait_for(port, server)
        with httpx2.Client(base_url=base) as client:
            session = client.post("/api/v1/session/enter", json={"token": token}).json()
            assert session["owner"] is True
            headers = {"x-csrf-token": session["csrf_token"]}
            claimed = client.post(f"/api/v1/projects/{session['projects'][0]['id']}/claim", headers=headers)
            assert len(claimed.json()["task"]["answers"]) == 3
            assert client.post("/api/v1/session/enter", json={"token": token}).status_code == 410
        second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == 2
        assert "cannot be listened on" in second.stderr
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


def test_an_owner_invited_from_the_terminal_may_make_projects(tmp_path: Path) -> None:
    from humanward.feedback.store.projects import create_project

    db = f"sqlite:///{tmp_path}/team.db"
    invited = call("users", "invite", "--db", db, "--role", "owner", "--name", "Chief")
    store = Store(db)
    chief = people.enter(store, invited["link"].split("#")[1]).actor
    assert chief.owner
    assert create_project(store, chief, "new").name == "new"
    assert TERMINAL.user_id is None
    store.close()
