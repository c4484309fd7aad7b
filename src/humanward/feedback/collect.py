"""``humanward collect`` and ``humanward users``: the labelling service and its people."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from humanward.errors import InputError
from humanward.feedback.extra import need_collect

users_app = typer.Typer(help="The people of a labelling service.", no_args_is_help=True, rich_markup_mode=None)

RunOption = Annotated[
    Path | None, typer.Option("--run", help="A run directory; its store is feedback.db in it.", file_okay=False)
]
DbOption = Annotated[
    str | None, typer.Option("--db", help="A database: sqlite:///FILE or postgresql://USER@HOST/NAME.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def store_url(run: Path | None, db: str | None) -> str:
    """The database that --run or --db names; raises InputError unless exactly one does."""
    if (run is None) is (db is None):
        raise InputError("--run and --db: give exactly one of them")
    if db is not None:
        return db
    assert run is not None
    if not run.is_dir():
        raise InputError(f"{run}: no such run directory; check --run")
    from humanward.feedback.store.runs import store_of_run
    from humanward.feedback.store.session import sqlite_url

    return sqlite_url(store_of_run(run))


def collect(
    run: RunOption = None,
    db: DbOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8765,
    public_url: Annotated[
        str,
        typer.Option("--public-url", help="The address in people's browsers when a proxy stands before the server."),
    ] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="A further name the server is reached by; may be repeated.")
    ] = None,
    overlap: Annotated[int, typer.Option(min=1, max=100, help="With --run: opinions wanted on each prompt.")] = 1,
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            "--criterion", help="With --run: overall, helpful, honest, harmless or your own; may be repeated."
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the browser on the sign-in link.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Start the labelling service: on the completions of a run, or on a team's database.

    Prints a one-time sign-in link for its owner. Ctrl-C stops it; everything that was confirmed is kept.

    Example: humanward collect --run runs/mine
    """
    need_collect(server=True)
    from humanward.feedback.service.server import serve
    from humanward.feedback.service.settings import settings_for

    settings = settings_for(host, port, public_url, tuple(allow_host or ()))
    url = store_url(run, db)
    serve(
        url,
        host,
        settings,
        run=run,
        overlap=overlap,
        criteria=tuple(criterion or ()),
        browser=_browser(open_browser),
        announce=(lambda facts: typer.echo(json.dumps(facts, ensure_ascii=False))) if as_json else None,
    )


def _browser(wanted: bool) -> Any:
    return webbrowser.open if wanted else None


@users_app.command("invite")
def invite(
    run: RunOption = None,
    db: DbOption = None,
    project: Annotated[str, typer.Option("--project", help="The project; may be left out if there is one.")] = "",
    role: Annotated[
        str, typer.Option("--role", help="admin, reviewer, annotator; owner: of the whole server.")
    ] = "annotator",
    name: Annotated[str, typer.Option("--name", help="A name to suggest.")] = "",
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="How long the link works.")] = 72,
    base: Annotated[str, typer.Option("--url", help="The address of the server.")] = "http://127.0.0.1:8765",
    as_json: JsonOption = False,
) -> None:
    """Print a one-time link that lets somebody join.

    Example: humanward users invite --db sqlite:///team.db --project harmless --role annotator
    """
    store = _open(run, db)
    from humanward.feedback.store import people
    from humanward.feedback.store.audit import TERMINAL
    from humanward.feedback.store.projects import the_project

    with store.read() as session:
        project_id = None if role == "owner" else the_project(session, project).id
    row, token = people.invite(store, TERMINAL, project_id=project_id, role=role, name=name, hours=hours)
    facts = {
        "id": row.id,
        "role": role,
        "link": f"{base.rstrip('/')}/enter#{token}",
        "expires_at": row.expires_at.isoformat(),
    }
    _tell(facts, as_json)


@users_app.command("link")
def link(
    name: Annotated[str, typer.Argument(help="Whom to sign in.")],
    run: RunOption = None,
    db: DbOption = None,
    base: Annotated[str, typer.Option("--url", help="The address of the server.")] = "http://127.0.0.1:8765",
    as_json: JsonOption = False,
) -> None:
    """Print a one-time link that signs in somebody who is there already.

    Example: humanward users link ada --db sqlite:///team.db
    """
    store = _open(run, db)
    from humanward.feedback.store import people
    from humanward.feedback.store.audit import TERMINAL

    with store.read() as session:
        user = people.user_named(session, name)
    if user is None:
        raise InputError(f"{name}: there is nobody of that name; see humanward users list")
    token = people.sign_in_link(store, TERMINAL, user.id)
    _tell({"name": name, "link": f"{base.rstrip('/')}/enter#{token}"}, as_json)


@users_app.command("list")
def list_users(run: RunOption = None, db: DbOption = None, as_json: JsonOption = False) -> None:
    """List people, their roles, and open invitations.

    Example: humanward users list --db sqlite:///team.db
    """
    store = _open(run, db)
    from humanward.feedback.store.roster import roster

    content = roster(store)
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    people = Table(title="People", title_justify="left")
    for column in ("name", "projects", "owner", "simulated", "disabled"):
        people.add_column(column)
    for user in content["people"]:
        roles = ", ".join(f"{project}: {role}" for project, role in user["roles"].items())
        people.add_row(user["name"], roles, *("yes" if user[k] else "" for k in ("owner", "simulated", "disabled")))
    links = Table(title="Open invitations", title_justify="left")
    for column in ("id", "project", "role", "name", "expires"):
        links.add_column(column)
    for row in content["invitations"]:
        links.add_row(str(row["id"]), row["project"], row["role"], row["name"], row["expires_at"])
    console = Console()
    console.print(people)
    console.print(links)


@users_app.command("revoke")
def revoke(
    run: RunOption = None,
    db: DbOption = None,
    invitation: Annotated[int | None, typer.Option("--invitation", help="The number of an open invitation.")] = None,
    name: Annotated[str, typer.Option("--name", help="A person: ends their sessions, tokens and access.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Revoke an invitation, or lock a person out; what the person did stays.

    Example: humanward users revoke --db sqlite:///team.db --name mallory
    """
    if (invitation is None) is (not name):
        raise InputError("--invitation and --name: give exactly one of them")
    store = _open(run, db)
    from humanward.feedback.store.audit import TERMINAL
    from humanward.feedback.store.people import revoke_invitation
    from humanward.feedback.store.roster import lock_out

    if invitation is not None:
        revoke_invitation(store, TERMINAL, invitation)
    else:
        lock_out(store, TERMINAL, name)
    _tell({"revoked": name or f"invitation {invitation}"}, as_json)


@users_app.command("simulate")
def simulate(
    scores: Annotated[Path, typer.Option("--scores", help='JSON lines of {"completion_id", "score"}.')],
    run: RunOption = None,
    db: DbOption = None,
    project: Annotated[str, typer.Option("--project", help="The project; may be left out if there is one.")] = "",
    annotators: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    overlap: Annotated[
        int | None, typer.Option(min=1, help="How many of them rank each prompt; all by default.")
    ] = None,
    noise: Annotated[
        float, typer.Option(min=0, help="Standard deviation of their error, in units of the score.")
    ] = 0.5,
    tie_width: Annotated[float, typer.Option(min=0, help="Answers closer than this are ties.")] = 0.0,
    position_bias: Annotated[float, typer.Option(help="Added to the answer shown first, less to the next.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Decides every random choice.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Let simulated annotators rank a project's answers by a score with noise; marked as simulated everywhere.

    Example: humanward users simulate --db sqlite:///team.db --project demo --scores scores.jsonl
    """
    store = _open(run, db)
    from humanward.feedback.store.audit import TERMINAL
    from humanward.feedback.store.projects import the_project
    from humanward.feedback.store.simulating import Team, read_scores, simulate_into

    with store.read() as session:
        chosen = the_project(session, project)
    team = Team(annotators, overlap, noise, tie_width, position_bias, seed=seed)
    added = simulate_into(store, TERMINAL, chosen.id, read_scores(scores), team)
    _tell(
        {"project": chosen.name, "annotators": annotators, "new_rankings": added.rankings, "simulated": True}, as_json
    )


def _open(run: Path | None, db: str | None) -> Any:
    need_collect()
    from humanward.feedback.store.runs import store_of_run
    from humanward.feedback.store.session import Store

    url = store_url(run, db)
    if run is not None and not store_of_run(run).exists():
        raise InputError(f"{run}: has no labelling service yet; start it with `humanward collect --run {run}`")
    return Store(url)


def _tell(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")
