"""What people write stays text, in every page, under the real Content-Security-Policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from browser_screen import expect, press, ready, submit
from browser_service import Item, Service
from sqlalchemy import select
from xss_corpus import CORPUS, RUN

from humanward.feedback.store import answers, people, projects, tasks
from humanward.feedback.store.audit import TERMINAL
from humanward.feedback.store.models import Assignment

Visit = Callable[..., Any]
PER_ITEM = 9
ODD = """() => {
  const strange = ['IFRAME', 'OBJECT', 'EMBED', 'IMG', 'VIDEO', 'BASE', 'META', 'LINK', 'STYLE', 'MATH'];
  const addresses = ['href', 'src', 'action', 'formaction', 'xlink:href', 'data'];
  return [...document.querySelectorAll('body *')].filter((element) => {
    const tag = element.tagName.toUpperCase();
    const odd = ({name, value}) => name.startsWith('on') || (name === 'style' && value.includes('url'))
      || (addresses.includes(name) && !/^(https?:|mailto:|[/]|#)/.test(value));
    return strange.includes(tag) || (tag === 'SCRIPT' && !element.nonce) || [...element.attributes].some(odd);
  }).map((element) => element.outerHTML.slice(0, 200));
}"""


def clean(page: Any) -> None:
    """Nothing in the page runs, or could."""
    assert page.evaluate(ODD) == []
    assert page.evaluate("window.pwned") is None
    links = page.locator(".prose a").evaluate_all("links => links.map((a) => [a.protocol, a.rel, a.target])")
    assert all(scheme in ("http:", "https:", "mailto:") for scheme, _, _ in links)
    assert all("noopener" in rel and target == "_blank" for _, rel, target in links)


@pytest.fixture(scope="module")
def hostile(service: Service) -> int:
    """A project that is hostile wherever somebody may write: its number."""
    chunks = [CORPUS[i : i + PER_ITEM] for i in range(0, len(CORPUS), PER_ITEM)]
    items = [
        Item(chunk[0] if i % 2 else (("system", chunk[1]), ("user", chunk[0])), chunk) for i, chunk in enumerate(chunks)
    ]
    evil = f"<img src=x onerror={RUN}>"
    project = service.project("{{ 7 * 7 }}<script>alert(1)</script>", items, description=evil, overlap=3)
    text = "\n\n".join(CORPUS)[:19_000]
    projects.change_criterion(
        service.store,
        TERMINAL,
        project,
        "overall",
        {"title": evil, "short": f"{evil} [x](javascript:{RUN})", "guidelines": text},
    )
    for name in (evil, f'"><svg onload={RUN}>'):
        service.person(name, annotator=project)
        write(service, project, name)
    service.person("the admin", admin=project)
    people.invite(service.store, TERMINAL, project_id=project, role="annotator", name=f"<svg onload={RUN}>")
    return project


def write(service: Service, project: int, name: str) -> None:
    """Comments, flags and skips of somebody, each with a piece of the corpus."""
    actor = service.actor(name)
    own = tasks.claim(service.store, actor, project)
    for number, text in enumerate(CORPUS):
        if number % 20 == 0:
            tasks.flag(service.store, actor, own.task_id, "other", text)
    for reason in CORPUS[:2]:
        tasks.skip(service.store, actor, own.task_id, reason)
        own = tasks.claim(service.store, actor, project)
    while own is not None and own.state == "leased":
        letters = "ABCDEFGHI"[: len(own.shown_order)]
        order = answers.Judgement(tuple((letter,) for letter in letters))
        said = answers.Answer(f"client-{own.task_id}", {"overall": order}, 3.0, "\n".join(CORPUS)[:4900])
        answers.submit(service.store, actor, own.task_id, said)
        own = tasks.claim(service.store, actor, project)


def test_the_watch_sees_what_it_must(service: Service, visit: Visit, faults: list[str]) -> None:
    """The control: without the pages' care, a script would be noticed."""
    page = visit(None, "/sign-in")
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<img src=x onerror=alert(1)>'")
    with pytest.raises(Exception, match="TrustedScriptURL"):
        page.evaluate("document.createElement('script').src = '/static/dom.js'")
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://evil.example/pixel.png'}))")
    page.evaluate("document.body.append(document.createElement('iframe'))")
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    assert any(fault.startswith("console: CSP: img-src https://evil.example") for fault in faults)
    assert page.evaluate(ODD) != []
    faults.clear()
    page.evaluate("setTimeout(() => alert('seen'))")
    page.wait_for_timeout(200)
    assert faults == ["dialog: seen"]
    faults.clear()


def test_prompts_and_completions(service: Service, hostile: int, visit: Visit) -> None:
    """Every piece of the corpus as a prompt and as an answer, formatted and plain, and sent."""
    name = service.person("reader of it all", annotator=hostile)
    page = ready(visit(name, f"/projects/{hostile}/label"))
    seen = ""
    for number in range(len(CORPUS)):
        clean(page)
        page.locator(".switch-text").click()
        clean(page)
        seen += page.locator("main").inner_text()
        page.locator(".switch-text").click()
        if number == 0:
            page.keyboard.press("g")
            expect(page.locator(".drawer .prose")).to_contain_text("onerror")
            clean(page)
            page.keyboard.press("Escape")
        for link in page.locator(".card a").all():
            assert link.get_attribute("href").startswith("https://")
        press(page, " j ".join(["1"] * page.locator(".card").count()))
        submit(page)
        page.locator("#view[data-state=task] .slot.unranked .chip, .empty").first.wait_for()
        if page.locator(".empty").count():
            break
    missing = [text for text in CORPUS if "".join(text.split()) not in "".join(seen.split()) and "\x01" not in text]
    assert missing == []
    assert "49" not in seen


@pytest.mark.parametrize("screen", ["", "label", "history", "items", "quality", "data", "people", "settings", "audit"])
def test_every_screen_shows_it_as_text(service: Service, hostile: int, visit: Visit, screen: str) -> None:
    page = visit("the admin", f"/projects/{hostile}/{screen}".rstrip("/"))
    page.wait_for_load_state("networkidle")
    assert page.title().split(" · ")[1] == "{{ 7 * 7 }}<script>alert(1)</script>"
    for summary in page.locator("summary").all()[:5]:
        summary.click()
    clean(page)


def test_home_and_names(service: Service, hostile: int, visit: Visit) -> None:
    name = f"<img src=x onerror={RUN}>"
    page = visit(name, "/")
    expect(page.locator(".who")).to_have_text(name)
    expect(page.locator("h2")).to_have_text("{{ 7 * 7 }}<script>alert(1)</script>")
    clean(page)
    page.goto(f"{service.url}/account")
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Make a token").click()
    expect(page.locator("tbody th")).to_have_text(name)
    clean(page)


def test_comments_in_review(service: Service, hostile: int, visit: Visit) -> None:
    page = visit("the admin", f"/projects/{hostile}/review#flagged")
    page.locator("tbody th a").first.click()
    expect(page.locator(".facts .said .prose").first).to_contain_text("<script>")
    expect(page.locator(".facts .notice").first).to_contain_text("Flagged: other")
    clean(page)
    page.get_by_role("button", name="Close flag").first.click()
    expect(page.locator(".facts .notice").first).to_contain_text("Was flagged")
    clean(page)


def test_imports(service: Service, visit: Visit) -> None:
    project = service.project("imports", [])
    name = service.person("importer", admin=project)
    lines = []
    for number, text in enumerate(CORPUS[:18]):
        one, two = ({"id": f"c{number}{k}", "prompt_id": f"p{number}", "text": text + k, "model": text} for k in "ab")
        ranking = {
            "id": f"r{number}",
            "prompt_id": f"p{number}",
            "tiers": [[one["id"]], [two["id"]]],
            "annotator": text[:90],
        }
        lines += [
            {"prompt": {"id": f"p{number}", "text": text}},
            {"completion": one},
            {"completion": two},
            {"ranking": ranking},
        ]
    page = visit(name, f"/projects/{project}/data")
    file = {
        "name": f"<img src=x onerror={RUN}>.jsonl",
        "mimeType": "text/plain",
        "buffer": "\n".join(map(json.dumps, lines)).encode(),
    }
    page.locator("input[type=file]").set_input_files([file])
    page.get_by_role("button", name="Import").click()
    expect(page.locator("[role=status] .notice")).to_contain_text("18 prompts")
    clean(page)
    bad = json.dumps({"prompt": {"id": f"<svg onload={RUN}>", "text": 3}}).encode()
    page.locator("input[type=file]").set_input_files([file | {"buffer": bad}])
    page.get_by_role("button", name="Import").click()
    expect(page.locator(".problem")).to_contain_text("upload")
    clean(page)
    for screen in ("quality", "items", "audit"):
        page.goto(f"{service.url}/projects/{project}/{screen}")
        page.wait_for_load_state("networkidle")
        clean(page)
    with service.store.read() as db:
        assert db.scalar(select(Assignment.id).where(Assignment.project_id == project)) is None
    page.goto(f"{service.url}/projects/{project}/items")
    page.locator("tbody th a").first.click()
    expect(page.locator(".facts tbody th").first).to_contain_text(CORPUS[0])
    clean(page)


def test_sign_in_leads_to_no_other_site(service: Service, visit: Visit) -> None:
    name = service.person("careful", password=True)
    for evil in ("https://evil.example/", "//evil.example/", "/\\evil.example", f"javascript:{RUN}"):
        page = visit(None, f"/sign-in?next={evil}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill("correct horse battery")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{service.url}/**")
        page.locator("h1", has_text="Projects").wait_for()
        page.context.close()
