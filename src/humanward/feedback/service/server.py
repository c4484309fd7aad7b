"""Starting the service: the store, its owner, the run's project, and uvicorn."""

from __future__ import annotations

import getpass
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import select

from humanward.errors import InputError
from humanward.feedback.service.app import build_app
from humanward.feedback.service.settings import ServiceSettings
from humanward.feedback.store import people
from humanward.feedback.store.audit import TERMINAL
from humanward.feedback.store.models import User
from humanward.feedback.store.runs import check_run, load_run
from humanward.feedback.store.session import Store


def serve(
    url: str,
    host: str,
    settings: ServiceSettings,
    *,
    run: Path | None = None,
    overlap: int = 1,
    criteria: tuple[str, ...] = (),
    browser: Callable[[str], Any] | None = None,
    announce: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Serve until Ctrl-C; ``announce`` is told the database, the address and the link.

    Raises InputError when the port is taken or the run has nothing to rank.
    """
    if run is not None:
        check_run(run)
    store = Store(url)
    _claim_port(host, settings.port)
    first = f"{settings.public_url or f'http://127.0.0.1:{settings.port}'}"
    try:
        if run is not None:
            project, added = load_run(store, run, overlap=overlap, criteria=criteria)
            say(f"{run}: {added.tasks} new tasks; rankings go to {store.shown_url}")
            first_page = f"{first}/projects/{project.id}/label"
        else:
            first_page = f"{first}/"
        link = f"{first}/enter#{owner_link(store)}"
        say(f"labelling service on {first_page} (Ctrl-C stops it)")
        say(f"one-time sign-in link, good for an hour: {link}")
        if announce is not None:
            announce({"db": store.shown_url, "url": first_page, "link": link})
        if browser is not None:
            timer = threading.Timer(1.0, browser, [link])
            timer.daemon = True
            timer.start()
        uvicorn.run(
            build_app(store, settings),
            host=host,
            port=settings.port,
            log_level="warning",
            # Only a proxy on this machine is believed about addresses.
            proxy_headers=bool(settings.public_url),
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    finally:
        store.close()


def owner_link(store: Store) -> str:
    """A token that signs the server's owner in once; the first start makes the owner, named as this user."""
    with store.read() as db:
        owner = db.scalar(select(User).where(User.owner.is_(True), User.disabled.is_(False)).order_by(User.id).limit(1))
    if owner is None:
        owner = people.add_user(store, _free_name(store), owner=True)
    return people.sign_in_link(store, TERMINAL, owner.id)


def say(line: str) -> None:
    """A line for the person at the terminal."""
    print(line, file=sys.stderr, flush=True)


def _free_name(store: Store) -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = "owner"
    with store.read() as db:
        return name if people.user_named(db, name) is None else f"{name}-owner"


def _claim_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--host {host} --port {port}: cannot be listened on ({error.strerror}); choose another"
            ) from None
