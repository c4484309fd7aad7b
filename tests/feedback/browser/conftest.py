"""Chromium and the service for browser tests. What goes wrong in any page fails its test: errors, CSP, dialogs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

NAMES = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str:
    """What a browser test needs and is not there; empty when all is."""
    if not any(map(shutil.which, NAMES)):
        return "needs Chromium (Debian: apt-get install chromium)"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "needs playwright (pip install humanward[dev])"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session", autouse=True)
def _needs_browser() -> None:
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(f"{reason}, and CI may not leave its tests out")
        pytest.skip(reason)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One server for all tests of a worker; every test makes projects and people of its own."""
    from browser_service import Running

    with Running(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next(found for name in NAMES if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--host-resolver-rules=MAP label.test 127.0.0.1"]
        )
        yield browser
        browser.close()


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """What went wrong in the pages of a test; a test that expects something takes it out."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
def visit(service: Any, chromium: Any, faults: list[str]) -> Iterator[Callable[..., Any]]:
    """``visit(name, "/path")``: a page of that person, or of nobody, in a browser of its own."""
    contexts = []

    def open_page(name: str | None, path: str = "", **options: Any) -> Any:
        context = chromium.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **options}
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        if name:
            context.add_cookies([service.session(name)])
        page = context.new_page()
        watch(page, service.url, faults)
        if path:
            page.goto(service.url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()


def watch(page: Any, url: str, faults: list[str]) -> None:
    """Note every error, CSP report, dialog, and request to another server."""

    def on_console(message: Any) -> None:
        # Chromium reports CSP violations here too. That the API refused or was not reached is the pages' business.
        if message.type == "error" and "Failed to load resource" not in message.text:
            faults.append(f"console: {message.text[:300]}")

    def on_dialog(dialog: Any) -> None:
        faults.append(f"dialog: {dialog.message[:200]}")
        dialog.dismiss()

    def on_request(request: Any) -> None:
        if not request.url.startswith((url, url.replace("127.0.0.1", "label.test"), "blob:", "data:")):
            faults.append(f"request: {request.url[:200]}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: faults.append(f"error: {str(error)[:300]}"))
    page.on("dialog", on_dialog)
    page.on("request", on_request)
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation', (event) => "
        "console.error('CSP: ' + event.violatedDirective + ' ' + event.blockedURI))"
    )
