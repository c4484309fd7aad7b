"""The service over HTTP: the rules of security, roles, idempotency, and what an annotator never sees."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from making import make_project, person
from sqlalchemy import select
from starlette.testclient import TestClient

from humanward.feedback.service.app import build_app
from humanward.feedback.service.settings import ServiceSettings, settings_for
from humanward.feedback.store import people
from humanward.feedback.store.attempts import forget, wait_for
from humanward.feedback.store.audit import TERMINAL
from humanward.feedback.store.models import ApiToken, Attempt, BrowserSession, Invitation, Project, Task, User
from humanward.feedback.store.session import Store

BASE = "http://127.0.0.1:8765"


class Browser:
    """Somebody's browser: keeps cookies, sends the CSRF token and the Origin as browsers do."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.headers = {"origin": BASE}

    def enter(self, token: str, **more: str) -> dict:
        reply = self.post("/session/enter", {"token": token, **more})
        assert reply.status_code == 200, reply.text
        self.headers["x-csrf-token"] = reply.json()["csrf_token"]
        return reply.json()

    def get(self, path: str):
        return self.client.get(f"/api/v1{path}")

    def post(self, path: str, body: object = None, method: str = "POST"):
        return self.client.request(method, f"/api/v1{path}", json=body, headers=self.headers)


@pytest.fixture
def project(store: Store) -> Project:
    return make_project(store, count=3)


@pytest.fixture
def visit(store: Store) -> Iterator:
    """A new browser on one server, signed in as somebody when a name is given."""
    app = build_app(store)
    clients: list[TestClient] = []

    def open_browser(name: str = "", project: Project | None = None, role: str = "annotator", **more) -> Browser:
        client = TestClient(app, base_url=BASE)
        clients.append(client)
        browser = Browser(client)
        if name:
            someone = person(store, name, project, role, **more)
            assert someone.user_id is not None
            browser.enter(people.sign_in_link(store, TERMINAL, someone.user_id))
        return browser

    yield open_browser
    for client in clients:
        client.close()


def claim(browser: Browser, project: Project) -> dict:
    return browser.post(f"/projects/{project.id}/claim").json()["task"]


def answer(task: dict, client_id: str = "client-0001", **more) -> dict:
    tiers = [[shown["label"]] for shown in task["answers"]]
    return {"client_id": client_id, "judgements": {"overall": {"tiers": tiers}}, **more}


# --- signing in ---------------------------------------------------------------------------------------------------


def test_an_invitation_makes_a_person_once(store: Store, visit, project: Project) -> None:
    chief = visit("chief", project, "admin")
    made = chief.post(f"/projects/{project.id}/invitations", {"role": "annotator", "name": "Ada"}).json()
    token = made["link"].split("#")[1]
    ada = visit()
    assert ada.post("/session/link", {"token": token}).json()["project"] == "demo"
    session = ada.enter(token, password="correct horse battery")
    assert (session["name"], session["projects"][0]["role"]) == ("Ada", "annotator")
    again = visit().post("/session/enter", {"token": token, "name": "Eve"})
    assert (again.status_code, again.json()["error"]["code"]) == (410, "link_gone")
    other = visit()
    reply = other.post("/session/login", {"name": "Ada", "password": "correct horse battery"})
    assert reply.status_code == 200


def test_a_revoked_or_old_link_is_worthless(store: Store, visit, project: Project, clock) -> None:
    chief = visit("chief", project, "admin")
    made = chief.post(f"/projects/{project.id}/invitations", {"role": "annotator"}).json()
    assert chief.post(f"/projects/{project.id}/invitations/{made['id']}", method="DELETE").status_code == 204
    late = chief.post(f"/projects/{project.id}/invitations", {"role": "annotator", "hours": 1}).json()
    clock.advance(3601)
    for link in (made["link"], late["link"]):
        reply = visit().post("/session/enter", {"token": link.split("#")[1], "name": "Eve"})
        assert reply.status_code == 410


def test_nobody_signs_in_with_a_guessed_name_or_an_empty_password(store: Store, visit, project: Project) -> None:
    visit("ada", project)
    for body in (
        {"name": "ada", "password": ""},
        {"name": "admin", "password": "admin"},
        {"name": "ada", "password": "password123"},
    ):
        reply = visit().post("/session/login", body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "wrong_credentials")


def test_login_attempts_are_limited_by_name_and_address(store: Store, project: Project) -> None:
    with TestClient(build_app(store, ServiceSettings(login_attempts=3)), base_url=BASE) as client:
        codes = [
            client.post("/api/v1/session/login", json={"name": "ada", "password": "x"}).status_code for _ in range(5)
        ]
        assert codes == [401, 401, 401, 429, 429]
        assert client.post("/api/v1/session/enter", json={"token": "x"}).status_code == 429


def test_attempts_come_back_after_the_window(store: Store, clock: Any) -> None:
    def wait(*keys: str) -> float:
        return wait_for(store, keys, limit=2, window=10)

    assert [wait("a"), wait("a"), wait("a", "b")] == [0, 0, 10]
    # A refused attempt counts for none of its keys.
    assert [wait("b"), wait("b"), wait("b")] == [0, 0, 10]
    forget(store, ("b",))
    assert wait("b") == 0
    clock.advance(10.5)
    assert wait("a") == 0
    with store.read() as db:
        # What is over has been cleared away, and names are kept as hashes.
        assert list(db.scalars(select(Attempt.key))) == [people.digest("a")]


def test_attempts_are_counted_for_all_servers_together(store: Store, project: Project) -> None:
    settings = ServiceSettings(login_attempts=3)
    body = {"name": "ada", "password": "x"}
    codes = []
    for _ in range(5):
        # As after a restart, or by another server on the same database.
        with TestClient(build_app(store, settings), base_url=BASE) as client:
            codes.append(client.post("/api/v1/session/login", json=body).status_code)
    assert codes == [401, 401, 401, 429, 429]


def test_attempts_that_come_at_once_are_all_counted(store: Store) -> None:
    def attempt(number: int) -> bool:
        return wait_for(store, ("address", f"name {number % 2}"), limit=5, window=100) == 0

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(attempt, range(24))) == 5


def test_secrets_are_kept_as_hashes(store: Store, visit, project: Project) -> None:
    ada = visit("ada", project)
    secret = ada.post("/tokens", {"name": "script"}).json()["token"]
    ada.post("/session/password", {"password": "a long password"}, method="PUT")
    cookie = ada.client.cookies["humanward_8765"]
    with store.read() as db:
        assert db.scalars(select(ApiToken.token_hash)).one() == people.digest(secret)
        assert people.digest(cookie) in set(db.scalars(select(BrowserSession.token_hash)))
        password = db.scalars(select(User.password_hash).where(User.name == "ada")).one()
        assert password is not None
        assert password.startswith("$argon2id$")
        everything = " ".join(map(str, (*db.scalars(select(Invitation.token_hash)), *db.scalars(select(User.name)))))
    assert secret not in everything
    assert cookie not in everything


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(store: Store, project: Project) -> None:
    someone = person(store, "ada", project)
    assert someone.user_id
    for settings, words in (
        (ServiceSettings(), {"httponly", "samesite=lax", "path=/"}),
        (settings_for("127.0.0.1", 80, "https://label.example.org"), {"httponly", "samesite=lax", "path=/", "secure"}),
    ):
        host = "https://label.example.org" if settings.secure else BASE
        with TestClient(build_app(store, settings), base_url=host) as client:
            token = people.sign_in_link(store, TERMINAL, someone.user_id)
            cookie = client.post("/api/v1/session/enter", json={"token": token}).headers["set-cookie"].lower()
            assert words <= {part.strip() for part in cookie.split(";")}
            assert cookie.startswith("__host-humanward=" if settings.secure else "humanward_8765=")


def test_signing_out_and_locking_out_end_sessions_and_tokens(store: Store, visit, project: Project) -> None:
    from humanward.feedback.store.roster import lock_out

    ada, bob = visit("ada", project), visit("bob", project)
    secret = bob.post("/tokens", {"name": "script"}).json()["token"]
    assert ada.post("/session/logout").status_code == 204
    assert ada.get("/session").status_code == 401
    lock_out(store, TERMINAL, "bob")
    assert bob.get("/session").status_code == 401
    reply = visit().client.get("/api/v1/session", headers={"authorization": f"Bearer {secret}"})
    assert reply.status_code == 401


# --- CSRF, Origin, Host, size, headers ----------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "0" * 64])
def test_a_change_without_the_csrf_token_is_refused(store: Store, visit, project: Project, token) -> None:
    ada = visit("ada", project)
    ada.headers.pop("x-csrf-token")
    if token is not None:
        ada.headers["x-csrf-token"] = token
    reply = ada.post(f"/projects/{project.id}/claim")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "csrf")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1.evil.example:8765"},
        {"origin": BASE, "sec-fetch-site": "cross-site"},
        {"origin": BASE, "sec-fetch-site": "same-site"},
    ],
)
def test_a_change_from_another_site_is_refused_even_with_the_token(visit, project: Project, headers: dict) -> None:
    ada = visit("ada", project)
    ada.headers.update(headers)
    for path in (f"/projects/{project.id}/claim", "/session/login"):
        reply = ada.post(path, {})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "cross_origin")


def test_behind_a_proxy_the_public_origin_counts_and_not_the_host_header(store: Store, project: Project) -> None:
    settings = settings_for("127.0.0.1", 8765, "https://label.example.org")
    someone = person(store, "ada", project)
    assert someone.user_id
    with TestClient(build_app(store, settings), base_url="https://label.example.org") as client:
        token = people.sign_in_link(store, TERMINAL, someone.user_id)
        origin = {"origin": "https://label.example.org"}
        session = client.post("/api/v1/session/enter", json={"token": token}, headers=origin).json()
        # The proxy passes its own name for the server on.
        headers = {**origin, "host": "127.0.0.1:8765", "x-csrf-token": session["csrf_token"]}
        cookies = {"cookie": f"{settings.cookie}={client.cookies[settings.cookie]}"}
        reply = client.post(f"/api/v1/projects/{project.id}/claim", headers=headers | cookies)
        assert reply.status_code == 200
        evil = client.post(f"/api/v1/projects/{project.id}/claim", headers=headers | {"origin": "https://evil.example"})
        assert evil.status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::", "localhost.evil.example:8765"])
def test_an_unknown_host_is_refused(visit, host: str) -> None:
    reply = visit().client.get("/healthz", headers={"host": host})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unknown_host")


def test_large_bodies_are_refused_with_and_without_a_length(visit, project: Project) -> None:
    ada = visit("ada", project)

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 50_000

    path = f"/api/v1/projects/{project.id}/claim"
    for content in (b" " * 2_000_000, endless()):
        reply = ada.client.post("/api/v1/session/login", content=content, headers=ada.headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")
    assert ada.client.post(path, headers=ada.headers).status_code == 200


def test_every_response_has_the_headers(visit, project: Project) -> None:
    ada = visit("ada", project)
    for path in ("/healthz", "/api/v1/session", "/api/v1/nothing", "/openapi.json"):
        headers = ada.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_pages_have_a_strict_policy_with_a_fresh_nonce(visit) -> None:
    policies = [visit().client.get("/sign-in").headers["content-security-policy"] for _ in range(2)]
    assert policies[0] != policies[1]
    for policy in policies:
        assert "unsafe" not in policy
        assert "script-src 'nonce-" in policy
        assert policy.startswith("default-src 'none'")
        assert "base-uri 'none'" in policy
        assert "frame-ancestors 'none'" in policy


# --- roles, and other people's things -----------------------------------------------------------------------------

REVIEWERS = ["items", "flags", "quality"]
ADMINS = ["people", "invitations", "audit", "export"]


@pytest.mark.parametrize(
    ("role", "allowed"), [("annotator", []), ("reviewer", REVIEWERS), ("admin", REVIEWERS + ADMINS)]
)
def test_roles(visit, project: Project, role: str, allowed: list[str]) -> None:
    ada = visit("ada", project, role)
    codes = {path: ada.get(f"/projects/{project.id}/{path}").status_code for path in REVIEWERS + ADMINS}
    assert codes == {path: 200 if path in allowed else 403 for path in codes}


def test_nothing_of_another_project_is_seen_or_changed(store: Store, visit, project: Project) -> None:
    other = make_project(store, count=1, name="secret")
    eve = visit("eve", other, "admin")
    ada = visit("ada", project)
    task = claim(ada, project)
    body = answer(task)
    submission = ada.post(f"/tasks/{task['task_id']}/submit", body).json()["submission_id"]
    flag = ada.post(f"/tasks/{task['task_id']}/flag", {"reason": "unsafe"}).json()["id"]
    invitation, _ = people.invite(store, TERMINAL, project_id=project.id, role="annotator")
    with store.read() as db:
        ada_id = db.scalars(select(User.id).where(User.name == "ada")).one()
    p, t = f"/projects/{project.id}", f"/tasks/{task['task_id']}"
    tries = [
        *[("GET", f"{p}{path}", None) for path in ("", "/me", "/history", "/items", "/flags", "/quality", "/people")],
        *[("GET", f"{p}{path}", None) for path in ("/invitations", "/audit", "/export")],
        ("PATCH", p, {"overlap": 9}),
        ("POST", f"{p}/claim", None),
        ("POST", f"{p}/invitations", {"role": "admin"}),
        ("POST", f"{p}/import", None),
        ("PATCH", f"{p}/people/{ada_id}", {"role": "admin"}),
        ("DELETE", f"{p}/people/{ada_id}", None),
        ("DELETE", f"{p}/invitations/{invitation.id}", None),
        ("DELETE", f"/projects/{other.id}/invitations/{invitation.id}", None),
        ("PATCH", f"{p}/criteria/overall", {"title": "x"}),
        *[("GET", f"{t}{path}", None) for path in ("", "/review")],
        *[("POST", f"{t}{path}", {}) for path in ("/renew", "/skip", "/release")],
        ("PUT", f"{t}/draft", {"draft": {}}),
        ("POST", f"{t}/submit", answer(task, "client-0002")),
        ("POST", f"{t}/adjudicate", answer(task, "client-0003")),
        ("POST", f"{t}/flag", {"reason": "other"}),
        ("PUT", f"{t}/gold", {"gold": None}),
        ("PATCH", t, {"excluded": True}),
        ("POST", f"/submissions/{submission}/verdict", {"accepted": False}),
        ("POST", f"/flags/{flag}/resolve", {}),
    ]
    for method, path, value in tries:
        reply = eve.post(path, value, method)
        assert (method, path, reply.status_code) == (method, path, 404)
        assert reply.json()["error"]["code"] == "not_found"


def test_an_annotator_reaches_no_other_annotators_work(store: Store, visit, project: Project) -> None:
    ada, bob = visit("ada", project), visit("bob", project)
    task = claim(ada, project)
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "/draft", {"draft": {"mine": 1}}),
        ("POST", "/submit", answer(task)),
        ("POST", "/skip", {}),
    ):
        assert bob.post(f"/tasks/{task['task_id']}{path}", body, method).status_code == 404


def test_a_token_of_one_project_reaches_no_other_and_makes_no_tokens(store: Store, visit, project: Project) -> None:
    other = make_project(store, count=1, name="other")
    chief = visit("chief", owner=True)
    secret = chief.post("/tokens", {"name": "script", "project_id": project.id}).json()["token"]
    program = visit().client
    program.headers["authorization"] = f"Bearer {secret}"
    assert program.get(f"/api/v1/projects/{project.id}").status_code == 200
    assert program.get(f"/api/v1/projects/{other.id}").status_code == 404
    assert [p["name"] for p in program.get("/api/v1/projects").json()] == ["demo"]
    assert program.post("/api/v1/projects", json={"name": "more"}).status_code == 403
    assert program.post("/api/v1/tokens", json={"name": "more"}).status_code == 403
    # No CSRF token: a program has no cookie that a browser could be tricked into sending.
    assert program.post(f"/api/v1/projects/{project.id}/claim").status_code == 200
    number = chief.get("/tokens").json()[0]["id"]
    assert chief.post(f"/tokens/{number}", method="DELETE").status_code == 204
    assert program.get(f"/api/v1/projects/{project.id}").status_code == 401


def test_nobody_revokes_anothers_token(store: Store, visit, project: Project) -> None:
    ada, bob = visit("ada", project), visit("bob", project)
    number = ada.post("/tokens", {"name": "script"}).json()["id"]
    assert bob.post(f"/tokens/{number}", method="DELETE").status_code == 404


def test_annotators_see_no_ids_or_models_of_answers(store: Store, visit, project: Project) -> None:
    ada = visit("ada", project)
    task = claim(ada, project)
    shown = json.dumps(task) + ada.get(f"/tasks/{task['task_id']}").text
    assert "secret-model" not in shown
    with store.read() as db:
        ids = db.scalars(select(Task.completion_ids).where(Task.id == task["task_id"])).one()
    assert not [completion_id for completion_id in ids if f'"{completion_id}"' in shown]


# --- the work itself ----------------------------------------------------------------------------------------------


def test_claim_draft_submit_edit_over_http(visit, project: Project) -> None:
    ada = visit("ada", project)
    task = claim(ada, project)
    path = f"/tasks/{task['task_id']}"
    assert ada.post(f"{path}/draft", {"draft": {"A": 1}}, "PUT").json()["state"] == "leased"
    assert claim(ada, project)["draft"] == {"A": 1}
    refused = ada.post(f"{path}/submit", {"client_id": "client-0001", "judgements": {"overall": {"tiers": [["A"]]}}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "not_weak_order")
    assert refused.json()["error"]["field"] == "judgements.overall.tiers"
    assert claim(ada, project)["draft"] == {"A": 1}
    first = ada.post(f"{path}/submit", answer(task, seconds_spent=4.5, comment="close"))
    assert first.json() == ada.post(f"{path}/submit", answer(task, seconds_spent=4.5, comment="close")).json()
    other = ada.post(f"{path}/submit", answer(task, seconds_spent=5))
    assert (other.status_code, other.json()["error"]["code"]) == (409, "client_id_used")
    edit = ada.post(f"{path}/submit", answer(task, "client-0002"))
    assert edit.json()["revision"] == 2
    seen = ada.get(path).json()
    assert (seen["state"], seen["revision"], seen["draft"]) == ("submitted", 2, None)
    assert seen["submitted"]["overall"]["tiers"] == [["A"], ["B"], ["C"]]
    assert ada.get(f"/projects/{project.id}/history").json()["total"] == 1
    assert ada.get(f"/projects/{project.id}/me").json()["submitted"] == 1


def test_review_shows_everybodys_answers_in_one_order(visit, store: Store) -> None:
    project = make_project(store, count=1, overlap=2, name="two")
    for name in ("ada", "bob"):
        browser = visit(name, project)
        task = claim(browser, project)
        texts = {shown["label"]: shown["text"] for shown in task["answers"]}
        best_first = sorted(texts, key=lambda label: texts[label], reverse=name == "bob")
        body = {"client_id": "client-0001", "judgements": {"overall": {"tiers": [[label] for label in best_first]}}}
        assert browser.post(f"/tasks/{task['task_id']}/submit", body).status_code == 200
    chief = visit("chief", project, "reviewer")
    items = chief.get(f"/projects/{project.id}/items?order=disagreement").json()["entries"]
    assert items[0]["disagreement"] == 1.0
    review = chief.get(f"/tasks/{task['task_id']}/review").json()
    assert [o["judgements"]["overall"]["tiers"] for o in review["opinions"]] == [
        [["A"], ["B"], ["C"]],
        [["C"], ["B"], ["A"]],
    ]
    assert review["consensus"]["overall"] == [["A", "B", "C"]]
    assert "secret-model" not in json.dumps(review)
    decided = {"client_id": "client-0009", "judgements": {"overall": {"tiers": [["B"], ["A", "C"]]}}}
    assert chief.post(f"/tasks/{task['task_id']}/adjudicate", decided).status_code == 200
    after = chief.get(f"/tasks/{task['task_id']}/review").json()
    assert after["adjudication"]["judgements"]["overall"]["tiers"] == [["B"], ["A", "C"]]


def test_import_over_http_names_the_bad_row_and_keeps_nothing(visit, store: Store, project: Project) -> None:
    chief = visit("chief", project, "admin")
    rows = [{"prompt": "q", "chosen": "x", "rejected": "y"}, {"prompt": "q", "chosen": 1, "rejected": "y"}]
    content = "\n".join(map(json.dumps, rows)).encode()
    path = f"/api/v1/projects/{project.id}/import?format=trl&filename=pairs.jsonl"
    refused = chief.client.post(path, content=content, headers=chief.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "bad_input")
    assert "upload line 2, field 'chosen'" in refused.json()["error"]["message"]
    assert chief.get(f"/projects/{project.id}").json()["progress"]["tasks"] == 3
    kept = chief.client.post(f"{path}&skip_bad=true", content=content, headers=chief.headers).json()
    assert (kept["rows"], kept["good"], kept["bad"], kept["tasks"]) == (2, 1, 1, 1)
    exported = chief.client.get(f"/api/v1/projects/{project.id}/export?format=csv")
    assert exported.headers["content-disposition"] == 'attachment; filename="demo-csv.csv"'


def test_the_docs_name_every_endpoint_and_no_other(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(GET|POST|PUT|PATCH|DELETE) (/[^`?\s]*)", text, re.MULTILINE)
    named = {(method, re.sub(r"\{\w+\}", "{}", path)) for method, path in rows}
    store = Store(f"sqlite:///{tmp_path}/x.db")
    paths = build_app(store).openapi()["paths"]
    store.close()
    served = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path.removeprefix("/api/v1")))
        for path, methods in paths.items()
        for method in methods
        if path.startswith("/api/v1")
    }
    assert named == served


def test_a_database_that_gives_up_is_503_and_nothing_is_kept(
    store: Store, visit, project: Project, monkeypatch
) -> None:
    from sqlalchemy.exc import OperationalError

    from humanward.feedback.store import answers

    ada = visit("ada", project)
    task = claim(ada, project)

    def give_up(*_: object) -> None:
        raise OperationalError("UPDATE tasks", {}, Exception("deadlock detected"))

    with monkeypatch.context() as patched:
        patched.setattr(answers, "_store_judgements", give_up)
        refused = ada.post(f"/tasks/{task['task_id']}/submit", answer(task))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
        assert refused.headers["retry-after"] == "1"
    assert ada.post(f"/tasks/{task['task_id']}/submit", answer(task)).json()["revision"] == 1
