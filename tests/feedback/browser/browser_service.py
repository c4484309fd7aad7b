"""A real server on a free port, with people who are in, for browser tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from humanward.feedback.files import Feedback
from humanward.feedback.service.app import build_app
from humanward.feedback.service.settings import ServiceSettings
from humanward.feedback.store import people, projects
from humanward.feedback.store.audit import TERMINAL
from humanward.feedback.store.session import Store, sqlite_url
from humanward.feedback.store.transfer import add_feedback
from humanward.records import Completion, Message, Prompt

OTHER_NAME = "label.test"
PASSWORD = "correct horse battery"


@dataclass
class Item:
    """A prompt (a text, or the turns of a chat) and its answers."""

    prompt: str | tuple[tuple[str, str], ...]
    answers: Sequence[str]


@dataclass
class Service:
    """The server; everything that a test prepares goes through the store, everything it checks through the browser."""

    store: Store
    url: str
    cookie: str
    ids: dict[str, int] = field(default_factory=dict)

    def project(
        self, name: str, items: Sequence[Item], *, criteria: Sequence[str] = ("overall",), **settings: object
    ) -> int:
        """A project with these items; its number."""
        made = projects.create_project(
            self.store,
            TERMINAL,
            name,
            projects.ProjectSettings(**settings),  # type: ignore[arg-type]
            [projects.CriterionSpec(criterion) for criterion in criteria],
        )
        if items:
            add_feedback(self.store, TERMINAL, made.id, records(name, items))
        return made.id

    def person(self, name: str, *, password: bool = False, owner: bool = False, **roles: int) -> str:
        """Somebody new with roles, as ``annotator=project``; the name."""
        self.ids[name] = people.add_user(self.store, name, owner=owner).id
        if password:
            people.set_password(self.store, self.actor(name), PASSWORD)
        for role, project in roles.items():
            self.member(name, project, role)
        return name

    def member(self, name: str, project: int, role: str = "annotator") -> None:
        """Give somebody a role in a project."""
        _, token = people.invite(self.store, TERMINAL, project_id=project, role=role)
        people.join(self.store, self.actor(name), token)

    def actor(self, name: str) -> people.Actor:
        """Whoever has that name, as signed in."""
        token = people.sign_in_link(self.store, TERMINAL, self.ids[name])
        return people.enter(self.store, token).actor

    def link(self, name: str) -> str:
        """A one-time link."""
        return f"{self.url}/enter#{people.sign_in_link(self.store, TERMINAL, self.ids[name])}"

    def session(self, name: str) -> dict[str, str]:
        """A signed-in person's cookie, as Playwright takes it."""
        token = people.sign_in_link(self.store, TERMINAL, self.ids[name])
        return {"name": self.cookie, "value": people.enter(self.store, token).cookie, "url": self.url}


def records(name: str, items: Sequence[Item]) -> Feedback:
    """The items as prompts and completions; ids count up."""
    prompts, completions = [], []
    for number, item in enumerate(items):
        prompt_id = f"{name}-{number}"
        if isinstance(item.prompt, str):
            prompts.append(Prompt(prompt_id, item.prompt))
        else:
            turns = tuple(Message(role, content) for role, content in item.prompt)
            prompts.append(Prompt(prompt_id, item.prompt[-1][1], turns))
        for place, answer in enumerate(item.answers):
            completions.append(Completion(f"{prompt_id}-{place}", prompt_id, answer, f"model-{place}"))
    return Feedback(tuple(prompts), tuple(completions))


class Running:
    """Uvicorn in a thread of its own, as ``with Running(folder) as service``."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.store = Store(sqlite_url(folder / "feedback.db"))
        # A name that browsers do not trust as they trust 127.0.0.1: as a team's server without https.
        hosts = ServiceSettings().hosts | {OTHER_NAME}
        settings = ServiceSettings(hosts, self.port, login_attempts=1000)
        config = uvicorn.Config(build_app(self.store, settings), port=self.port, log_level="error")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.service = Service(self.store, f"http://127.0.0.1:{self.port}", settings.cookie)

    def __enter__(self) -> Service:
        self.thread.start()
        until = time.monotonic() + 20
        while not self.server.started:
            if time.monotonic() > until or not self.thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.02)
        return self.service

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=10)
        self.store.close()
