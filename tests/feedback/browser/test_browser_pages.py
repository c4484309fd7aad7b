"""The other screens: signing in, inviting, reviewing, quality, data, settings; and how all of them look to machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from browser_screen import expect, order, press, ready
from browser_service import PASSWORD, Item, Service

from humanward.feedback.store import answers, people, tasks
from humanward.feedback.store.audit import TERMINAL

Visit = Callable[..., Any]
_numbers = count()
MARKDOWN = """## Why

1. Short waves **scatter**.
2. See [this](https://example.org/page).

```python
print(1)
```

| a | b |
| - | - |
| 1 | 2 |
"""
LONG = "A long answer goes on and on. " * 300
SKY = Item("Why is the sky blue?", [MARKDOWN, LONG, "It is not.", "Because of the sea."])
SCREENS = ["", "label", "history", "review", "items", "quality", "data", "people", "settings", "audit"]


def judge(service: Service, project: int, name: str, *orders: str) -> None:
    """Submit orders of letters as the store numbers the answers (``prompt-0`` is a)."""
    for wanted in orders:
        own = tasks.claim(service.store, service.actor(name), project)
        letter = {"abcd"[int(completion[-1])]: "ABCD"[i] for i, completion in enumerate(own.shown_order)}
        tiers = tuple((letter[each],) for each in wanted)
        answer = answers.Answer(
            f"client-{name}-{own.task_id}"[:90].replace(" ", "-"), {"overall": answers.Judgement(tiers)}, 12.0, ""
        )
        answers.submit(service.store, service.actor(name), own.task_id, answer)


@pytest.fixture(scope="module")
def team(service: Service) -> int:
    """A project with an admin ("boss") and two who differ about an item."""
    project = service.project("team", [SKY, Item("And at night?", ["Dark.", "Stars."])], overlap=2, gold_share=0.0)
    service.person("boss", admin=project)
    for name, wanted in (("ann", "abcd"), ("bea", "dcba")):
        service.person(name, annotator=project)
        judge(service, project, name, wanted, "ab")
    return project


# --- signing in


def test_one_time_link(service: Service, visit: Visit) -> None:
    project = service.project("links", [SKY])
    name = service.person("linked", annotator=project)
    link = service.link(name)
    page = visit(None)
    page.goto(link)
    assert "#" not in page.url
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/projects/*")
    expect(page.locator("h1")).to_have_text("links")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    again = visit(None)
    again.goto(link)
    expect(again.locator("h1")).to_have_text("This link works no more")


def test_password_and_where_one_was(service: Service, visit: Visit) -> None:
    project = service.project("passwords", [SKY])
    name = service.person("with a password", password=True, annotator=project)
    page = visit(None, f"/sign-in?next=/projects/{project}/label")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill("wrong wrong wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    ready(page)
    # The session ends elsewhere; the page sends its reader to sign in and back.
    page.context.clear_cookies()
    press(page, "1")
    page.wait_for_url("**/sign-in?next=*")


def test_invitation(service: Service, visit: Visit, team: int) -> None:
    boss = visit("boss", f"/projects/{team}/people")
    boss.locator("select[name=role]").first.select_option("reviewer")
    boss.get_by_role("button", name="Make a link").click()
    link = boss.locator(".secret").inner_text()
    page = visit(None)
    page.goto(link)
    expect(page.locator("h1")).to_have_text("You are invited to team")
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_role("alert")).to_contain_text("name")
    page.get_by_label("Your name").fill("Zoë Ñandú")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Join").click()
    page.wait_for_url(f"**/projects/{team}")
    expect(page.locator(".tabs")).to_contain_text("Quality")
    expect(page.locator(".tabs")).not_to_contain_text("People")
    page.goto(f"{service.url}/projects/{team}/people")
    expect(page.locator("h1")).to_have_text("There is nothing here for you")
    boss.reload()
    expect(boss.get_by_role("rowheader", name="Zoë Ñandú")).to_be_visible()
    boss.get_by_role("button", name="Remove Zoë Ñandú").click()
    expect(boss.locator(".toast")).to_contain_text("no longer a member")


# --- the work of reviewers and admins


def test_review_and_decide(service: Service, visit: Visit, team: int) -> None:
    page = visit("boss", f"/projects/{team}/review")
    page.get_by_role("link", name="Why is the sky blue?").click()
    expect(page.locator(".facts")).to_contain_text("100 % of pairs differ")
    expect(page.get_by_role("rowheader")).to_have_text(["ann", "bea"])
    press(page, "1 j 2 j 3 j 4 Control+Enter")
    expect(page.locator(".toast")).to_contain_text("Decided")
    expect(page.locator(".empty")).to_contain_text("Nothing to review")


def test_quality_dashboard(service: Service, visit: Visit, team: int) -> None:
    page = visit("boss", f"/projects/{team}/quality")
    expect(page.get_by_role("img", name="Agreement with intervals")).to_be_visible()
    row = page.locator("tbody tr", has_text="ann").first
    expect(row).to_contain_text("12 s")
    expect(page.locator(".figures")).to_contain_text("2 of 2")
    # They reverse each other on the sky and agree on the night.
    unsettled = page.get_by_label("Least settled items")
    expect(unsettled.locator("tbody tr")).to_have_count(2)
    unsettled.get_by_role("link").first.click()
    expect(page.locator(".prompt")).to_contain_text("Why is the sky blue?")


def test_items_are_found_and_taken_out(service: Service, visit: Visit, team: int) -> None:
    page = visit("boss", f"/projects/{team}/items")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_label("Search").fill("night")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Take out").click()
    expect(page.locator("tbody .tag")).to_have_text("Taken out")
    page.get_by_role("button", name="Put back").click()
    expect(page.locator("tbody .tag").first).to_have_text("Done")


def test_new_project_import_gold_and_export(service: Service, visit: Visit, tmp_path: Path) -> None:
    name = service.person("the owner", owner=True)
    page = visit(name, "/")
    if not page.get_by_role("button", name="Make the project").is_visible():
        page.locator("summary", has_text="New project").click()
    page.get_by_label("Name", exact=True).fill("made here")
    page.get_by_label("Honest").check()
    page.get_by_role("button", name="Make the project").click()
    page.wait_for_url("**/data")
    rows = [
        {"prompt": "Say hi", "chosen": "Hi!", "rejected": "No."},
        {"prompt": "Say bye", "chosen": "Bye!", "rejected": "No."},
    ]
    file = {"name": "pairs.jsonl", "mimeType": "text/plain", "buffer": "\n".join(map(json.dumps, rows)).encode()}
    page.locator("input[type=file]").set_input_files([file])
    page.get_by_role("button", name="Import").click()
    expect(page.locator("[role=status] .notice")).to_contain_text(
        "2 rows read, 0 left out. New: 2 prompts, 4 answers, 2 rankings, 2 items."
    )
    page.reload()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as humanward").click()
    assert download.value.suggested_filename == "made_here-humanward.jsonl"
    assert json.loads(Path(download.value.path()).read_text().splitlines()[0])["prompt"]["text"] == "Say hi"
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as label-studio").click()
    assert download.value.suggested_filename == "made_here-label-studio.json"
    page.get_by_role("link", name="Download as kto").click()
    expect(page.locator(".toast")).to_contain_text("made here: there are no ratings to write in format 'kto'")
    page.get_by_role("link", name="Items").click()
    page.get_by_role("link", name="Say hi").click()
    expect(page.locator(".facts")).to_contain_text("imported")
    press(page, "1 j 2 ] 1 k 1")
    page.get_by_role("button", name="Make gold").click()
    expect(page.locator(".facts")).to_contain_text("Gold: A > B; A = B")


def test_gold_by_scores(service: Service, visit: Visit) -> None:
    project = service.project("gold scores", [SKY], mode="rating", rating_scale=5)
    name = service.person("gold maker", admin=project)
    page = visit(name, f"/projects/{project}/items")
    page.locator("tbody a").first.click()
    page.get_by_role("button", name="Make gold").click()
    expect(page.locator(".toast")).to_contain_text("score the answers first")
    press(page, "5 j 3 j 3 j 1")
    page.get_by_role("button", name="Make gold").click()
    expect(page.locator(".facts")).to_contain_text("Gold: A > B = C > D")


def test_settings_and_guidelines(service: Service, visit: Visit) -> None:
    project = service.project("changing", [SKY])
    name = service.person("changer", admin=project)
    page = visit(name, f"/projects/{project}/settings")
    page.get_by_label("Opinions on each item").fill("0")
    page.get_by_role("button", name="Keep settings").click()
    expect(page.get_by_role("alert").first).to_contain_text("overlap")
    page.get_by_label("Opinions on each item").fill("3")
    page.get_by_label("“None acceptable” is offered").uncheck()
    page.get_by_role("button", name="Keep settings").click()
    expect(page.locator(".toast")).to_contain_text("Settings kept.")
    page.locator("details summary").click()
    page.get_by_label("Guidelines").fill("# Ours\n\nBe *kind*.")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator(".toast")).to_contain_text("Kept.")
    page.goto(f"{service.url}/projects/{project}/label")
    ready(page)
    expect(page.get_by_role("button", name="None acceptable")).to_have_count(0)
    press(page, "g")
    expect(page.locator(".drawer em")).to_have_text("kind")
    press(page, "Escape")
    expect(page.locator(".drawer")).to_be_hidden()


def test_lease_that_runs_out(service: Service, visit: Visit) -> None:
    project = service.project("short", [SKY, SKY], lease_seconds=30)
    name = service.person("slow", annotator=project)
    page = visit(name)
    page.clock.install()
    page.goto(f"{service.url}/projects/{project}/label")
    ready(page)
    expect(page.locator(".lease")).to_contain_text("0:")
    # Nobody moves: the lease is not renewed.
    page.clock.fast_forward(60_000)
    page.clock.run_for(2_000)
    expect(page.locator(".lease-over")).to_contain_text("somebody else may get it")
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator(".lease-over")).to_have_count(0)
    press(page, "1 j 2 j 3 j 4 Control+Enter")
    expect(page.locator(".toast")).to_contain_text("Sent.")


# --- how it looks


def test_formatted_answers(service: Service, visit: Visit) -> None:
    project = service.project("formats", [SKY, Item("مرحبا بكم", ["أهلاً", "Hello"])])
    page = ready(visit(service.person("looker", annotator=project), f"/projects/{project}/label"))
    card = page.locator(".card", has_text="scatter").first
    expect(card.locator("pre")).to_have_text("print(1)")
    expect(card.locator("td")).to_have_text(["1", "2"])
    expect(card.locator("a")).to_have_attribute("href", "https://example.org/page")
    expect(card).to_contain_text("this (example.org)")
    tall = page.locator(".card", has_text="goes on")
    toggle = tall.locator(".show-all")
    expect(toggle).to_have_text("Show all (2,100 words)")
    assert tall.locator(".edged.more-below").count() == 1
    toggle.click()
    assert tall.locator(".card-body").evaluate("body => body.scrollHeight <= body.clientHeight + 2")
    toggle.click()
    page.locator(".switch-text").click()
    expect(page.locator(".card", has_text="## Why").locator("pre")).to_have_count(0)
    press(page, "n")
    page.locator(".switch-text").click()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".prompt-body")).to_have_text("مرحبا بكم")
    assert page.locator(".prompt-body p").evaluate("p => getComputedStyle(p).direction") == "rtl"
    assert page.locator(".card p", has_text="Hello").evaluate("p => getComputedStyle(p).direction") == "ltr"


def test_nine_answers_on_a_phone(service: Service, visit: Visit) -> None:
    project = service.project("nine", [Item("Nine?", [f"Answer {i}. {MARKDOWN}" for i in range(9)])])
    name = service.person("on a phone", annotator=project)
    page = ready(
        visit(
            name, f"/projects/{project}/label", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
        )
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for label in "ABCDEFGHI":
        page.get_by_role("button", name=f"Rank 2 for answer {label}").tap()
    assert order(page) == {"2": "ABCDEFGHI"}
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.locator(".task-page button:visible, .handle:visible").evaluate_all(
        """all => all.map((each) => [each.textContent, each.getBoundingClientRect()])
          .filter(([, box]) => box.height < 44 || box.width < 44)
          .map(([text, box]) => `${text}: ${box.width} x ${box.height}`)"""
    )
    assert small == []
    page.get_by_role("button", name="Submit").tap()
    expect(page.locator(".empty")).to_contain_text("All done")


def test_dark_as_the_system_and_by_choice(service: Service, visit: Visit, team: int) -> None:
    page = visit("boss", f"/projects/{team}", color_scheme="dark")

    def darkness() -> float:
        return page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")

    assert darkness() < 50
    page.get_by_role("button", name="Theme: auto").click()
    assert darkness() > 200
    page.reload()
    assert darkness() > 200
    page.get_by_role("button", name="Theme: light").click()
    assert darkness() < 50


def axe(page: Any, *rules: str) -> list[str]:
    """The serious and critical findings of axe-core, all rules or some."""
    import axe_playwright_python

    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{v['id']} ({v['impact']}): {node['html'][:160]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_by_machine(service: Service, visit: Visit, team: int, screen: str) -> None:
    """Nothing serious for axe-core in either theme, and nothing wider than a phone."""
    page = visit("boss", f"/projects/{team}/{screen}".rstrip("/"))
    page.wait_for_load_state("networkidle")
    for summary in page.locator("main summary").all()[:3]:
        summary.click()
    assert axe(page) == []
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert axe(page, "color-contrast") == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_axe_on_the_task(service: Service, visit: Visit) -> None:
    project = service.project("checked", [SKY], criteria=("helpful", "honest"))
    page = ready(visit(service.person("checked person", annotator=project), f"/projects/{project}/label"))
    press(page, "1 j 1 j 2 n g")
    expect(page.locator(".drawer .prose")).to_be_visible()
    assert axe(page) == []
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert axe(page, "color-contrast") == []
    page.locator(".drawer").get_by_role("button", name="Close").click()
    press(page, "?")
    assert axe(page) == []
    broken = "() => document.querySelectorAll('dialog button').forEach(b => b.replaceChildren())"
    page.evaluate(broken)
    assert any(finding.startswith("button-name") for finding in axe(page)), "axe sees a button without a name"


def test_axe_before_signing_in(service: Service, visit: Visit, team: int) -> None:
    _, token = people.invite(service.store, TERMINAL, project_id=team, role="annotator")
    for path in ("/sign-in", f"/enter#{token}", "/enter#nonsense"):
        page = visit(None, path)
        page.wait_for_load_state("networkidle")
        assert axe(page) == []
