"""schemathesis over the OpenAPI document: whatever is sent, no 500, and what comes back is as documented."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from making import make_project, person

from humanward.feedback.service.app import build_app
from humanward.feedback.store.people import create_token
from humanward.feedback.store.session import Store
from humanward.feedback.store.tasks import claim


@pytest.mark.filterwarnings("ignore")
def test_no_request_makes_a_500(tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    store = Store(f"sqlite:///{tmp_path}/feedback.db")
    project = make_project(store, count=3)
    owner = person(store, "owner", owner=True)
    own = claim(store, owner, project.id)
    assert own is not None
    _, token = create_token(store, owner, "schemathesis")
    app = build_app(store)
    headers = {"authorization": f"Bearer {token}", "host": "127.0.0.1:8765"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    known = {"project_id": project.id, "task_id": own.task_id}
    seen: dict[int, int] = {}

    def ask(case) -> None:  # type: ignore[no-untyped-def]
        # Half of the time a project and a task that exist, so that more than the look-up is reached.
        if len(str(case.body)) % 2 == 0:
            case.path_parameters.update({k: v for k, v in known.items() if k in case.path_parameters})
        reply = case.call(headers=headers)
        seen[reply.status_code] = seen.get(reply.status_code, 0) + 1
        assert reply.status_code < 500, (case.method, case.path, case.body, reply.text)
        if reply.status_code >= 400:
            assert reply.json()["error"]["code"]

    operations = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operation in schema.get_all_operations():
            one = operation.ok()
            operations += 1
            _run(one, ask)
    assert operations > 40
    assert set(seen) >= {200, 404, 422}
    store.close()


def _run(operation, check) -> None:  # type: ignore[no-untyped-def]
    """The check on generated cases of one operation."""

    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case) -> None:  # type: ignore[no-untyped-def]
        check(case)

    run()
