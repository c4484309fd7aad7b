"""Ranking in a real browser: by keys, by mouse, by touch; ties, none, undo, drafts, two people."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import playwright.sync_api
import pytest
from browser_screen import drag, expect, handle, order, press, ready, slot, stored, submit
from browser_service import OTHER_NAME, Item, Service

Visit = Callable[..., Any]
_numbers = count()

FOUR = Item(
    "Why is the sky blue?",
    ["Short waves scatter more.", "Because of the sea.", "It is not.", "**Rayleigh** scattering."],
)


def new(service: Service, items: list[Item] | None = None, **settings: Any) -> tuple[int, str]:
    """A project of two items with four answers, and an annotator of it."""
    number = next(_numbers)
    project = service.project(f"ranking {number}", items or [FOUR, FOUR], **settings)
    return project, service.person(f"annotator {number}", annotator=project)


def test_rank_by_keyboard_only(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    expect(page.locator(".card[data-label=A]")).to_be_focused()
    press(page, "2 j 1 j 4 j 3")
    assert order(page) == {"1": "B", "2": "A", "3": "D", "4": "C"}
    expect(page.locator("#spoken")).to_contain_text("D: rank 3. B, then A, then D, then C")
    press(page, "k k k 4")
    assert order(page) == {"1": "B", "3": "D", "4": "AC"}
    expect(page.locator(".card[data-label=A]")).to_have_attribute("aria-label", "Answer A, Rank 4, tied with C")
    press(page, "0")
    assert order(page) == {"": "A", "1": "B", "3": "D", "4": "C"}
    press(page, "2")
    first = page.locator(".prompt")
    expect(first).to_contain_text("Why is the sky blue?")
    submit(page)
    ready(page)
    expect(page.locator(".toolbar")).to_contain_text("1 done · 1 to go")
    assert order(page) == {"": "ABCD"}
    assert stored(service, project, name) == [{"overall": [["B"], ["A"], ["D"], ["C"]]}]


def test_incomplete_order_is_not_sent(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "1 j 2 Control+Enter")
    expect(page.locator(".toast")).to_contain_text("Not complete: rank C, D too.")
    expect(page.locator(".card[data-label=C]")).to_be_focused()
    press(page, "9")
    expect(page.locator("#spoken")).to_contain_text("There is no 9 here; the last is 4")
    assert stored(service, project, name) == []


def test_rank_by_mouse(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    drag(page, handle(page, "A"), slot(page, 2))
    drag(page, handle(page, "B"), slot(page, 1))
    drag(page, handle(page, "C"), slot(page, 2))
    assert order(page) == {"1": "B", "2": "AC", "": "D"}
    # Between the first and the second place: those below move down.
    drag(page, handle(page, "D"), slot(page, 2), share=0.1)
    assert order(page) == {"1": "B", "2": "D", "3": "AC"}
    # A letter in the dock is dragged as well; and out of the order again.
    drag(page, slot(page, 3).locator(".chip", has_text="C"), slot(page, 4))
    assert order(page) == {"1": "B", "2": "D", "3": "A", "4": "C"}
    drag(page, slot(page, 1).locator(".chip"), page.locator(".slot.unranked"))
    assert order(page) == {"": "B", "2": "D", "3": "A", "4": "C"}
    # Buttons do the same, and a drop outside changes nothing.
    page.get_by_role("button", name="Rank 1 for answer B").click()
    drag(page, handle(page, "A"), page.locator(".prompt"))
    assert order(page) == {"1": "B", "2": "D", "3": "A", "4": "C"}
    with page.expect_response(lambda response: response.url.endswith("/submit") and response.ok):
        page.get_by_role("button", name="Submit").click()
    assert stored(service, project, name) == [{"overall": [["B"], ["D"], ["A"], ["C"]]}]


def test_drag_by_touch_and_give_up(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label", has_touch=True))
    start, end = handle(page, "A").bounding_box(), slot(page, 3).bounding_box()
    devtools = page.context.new_cdp_session(page)

    def touch(kind: str, box: dict[str, float] | None) -> None:
        points = [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}] if box else []
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", start)
    touch("touchMove", slot(page, 1).bounding_box())
    touch("touchMove", end)
    touch("touchEnd", None)
    assert order(page) == {"": "BCD", "3": "A"}
    page.mouse.move(start["x"] + 20, start["y"] + 20)
    page.mouse.down()
    page.mouse.move(end["x"] - 60, end["y"] + 10, steps=4)
    expect(page.locator(".ghost")).to_be_visible()
    page.keyboard.press("Escape")
    page.mouse.up()
    expect(page.locator(".ghost")).to_have_count(0)
    assert order(page) == {"": "BCD", "3": "A"}


def test_tie_is_a_tie(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "1 j 1 j 2 j 2")
    expect(page.locator(".card[data-label=D] .card-status")).to_have_text("Rank 2, tied with C")
    submit(page)
    assert stored(service, project, name) == [{"overall": [["A", "B"], ["C", "D"]]}]


def test_without_ties_others_move_down(service: Service, visit: Visit) -> None:
    project, name = new(service, allow_ties=False)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "1 j 1 j 1 j 4")
    assert order(page) == {"1": "C", "2": "B", "3": "A", "4": "D"}
    submit(page)
    assert stored(service, project, name) == [{"overall": [["C"], ["B"], ["A"], ["D"]]}]


def test_none_acceptable_with_and_without_an_order(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "1 n Control+Enter")
    expect(page.locator(".toast")).to_contain_text("rank B, C, D too, or clear the order")
    press(page, "k 0")
    submit(page)
    ready(page)
    press(page, "n 1 j 2 j 3 j 4")
    submit(page)
    assert stored(service, project, name) == [{"overall": []}, {"overall": [["A"], ["B"], ["C"], ["D"]]}]


def test_undo(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "1 j 2 n Control+z")
    expect(page.locator(".none")).to_have_attribute("aria-pressed", "false")
    press(page, "Control+z")
    assert order(page) == {"1": "A", "": "BCD"}
    press(page, "Control+z Control+z")
    assert order(page) == {"": "ABCD"}
    expect(page.locator("#spoken")).to_have_text("Nothing to undo")


def test_resume_after_reload_and_in_another_browser(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "2 j 1")
    page.locator(".comment summary").click()
    page.get_by_label("Comment on this item").fill("C repeats itself")
    # At once: nothing has reached the server yet, so it is this browser's copy.
    page.reload()
    ready(page)
    assert order(page) == {"1": "B", "2": "A", "": "CD"}
    with page.expect_response(lambda response: response.url.endswith("/draft") and response.ok):
        press(page, "j j 3")
    expect(page.locator(".saved")).to_have_text("Draft saved")
    other = ready(visit(name, f"/projects/{project}/label"))
    assert order(other) == {"1": "B", "2": "A", "3": "C", "": "D"}
    expect(other.get_by_label("Comment on this item")).to_have_value("C repeats itself")


def test_edit_the_previous_item(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "1 j 2 j 3 j 4")
    submit(page)
    ready(page)
    press(page, "1 p")
    expect(page.locator(".notice")).to_contain_text("You sent this already")
    assert order(page) == {"1": "A", "2": "B", "3": "C", "4": "D"}
    press(page, "j j j 1")
    submit(page)
    expect(page.locator(".toast")).to_contain_text("Change sent: version 2.")
    ready(page)
    # The draft of the item that was left is still there.
    assert order(page) == {"1": "A", "": "BCD"}
    assert stored(service, project, name)[-1] == {"overall": [["A", "D"], ["B"], ["C"]]}


def test_skip_and_flag(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    page.keyboard.press("f")
    page.get_by_label("Private").check()
    page.get_by_label("Comment, if you like").fill("a telephone number")
    page.get_by_role("dialog").get_by_role("button", name="Flag", exact=True).click()
    expect(page.locator(".toast")).to_contain_text("Flagged")
    for left in (1, 0):
        page.keyboard.press("s")
        page.get_by_role("dialog").get_by_role("button", name="Skip", exact=True).click()
        if left:
            expect(page.locator(".toolbar")).to_contain_text("0 done · 1 to go")
    expect(page.locator(".empty")).to_contain_text("All done")


def test_two_annotators_at_once(service: Service, visit: Visit) -> None:
    project, first = new(service, [Item(f"Question {i}", ["yes", "no"]) for i in range(2)])
    second = service.person("a second annotator", annotator=project)
    one, two = (ready(visit(name, f"/projects/{project}/label")) for name in (first, second))
    prompts = {page.locator(".prompt-body").inner_text() for page in (one, two)}
    assert prompts == {"Question 0", "Question 1"}
    press(one, "1 j 2")
    press(two, "1 j 1")
    submit(one)
    submit(two)
    for page in (one, two):
        expect(page.locator(".empty")).to_contain_text("All done")
    assert stored(service, project, first) == [{"overall": [["A"], ["B"]]}]
    assert stored(service, project, second) == [{"overall": [["A", "B"]]}]


def test_offline_then_online(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    page.context.set_offline(True)
    press(page, "1 j 2 j 3 j 3 Control+Enter")
    expect(page.locator(".empty")).to_contain_text("Your answer is kept in this browser")
    assert stored(service, project, name) == []
    waiting = page.evaluate("JSON.parse(Object.entries(localStorage).find(([k]) => k.includes('outbox'))[1])")
    page.context.set_offline(False)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    ready(page)
    assert stored(service, project, name) == [{"overall": [["A"], ["B"], ["C", "D"]]}]
    # The same answer once more, as after a lost reply: the same receipt, and still one answer.
    again = page.evaluate(
        """async ([task, body]) => {
          const token = document.querySelector('meta[name=csrf]').content;
          const headers = {'Content-Type': 'application/json', 'X-CSRF-Token': token};
          const options = {method: 'POST', headers, body: JSON.stringify(body)};
          return (await fetch(`/api/v1/tasks/${task}/submit`, options)).status;
        }""",
        [waiting[0]["taskId"], waiting[0]["body"]],
    )
    assert again == 200
    assert len(stored(service, project, name)) == 1


def test_what_was_begun_outlives_a_reload_without_a_connection(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    page.context.set_offline(True)
    press(page, "1 j 2")
    with pytest.raises(playwright.sync_api.Error, match="ERR_INTERNET_DISCONNECTED"):
        page.reload()
    page.context.set_offline(False)
    page.goto(f"{service.url}/projects/{project}/label")
    ready(page)
    assert order(page) == {"1": "A", "2": "B", "": "CD"}
    # The same with an answer that waits to be sent.
    press(page, "j j 3 j 4")
    page.context.set_offline(True)
    press(page, "Control+Enter")
    expect(page.locator(".empty")).to_contain_text("Your answer is kept in this browser")
    with pytest.raises(playwright.sync_api.Error, match="ERR_INTERNET_DISCONNECTED"):
        page.reload()
    page.context.set_offline(False)
    page.goto(f"{service.url}/projects/{project}/label")
    ready(page)
    assert stored(service, project, name) == [{"overall": [["A"], ["B"], ["C"], ["D"]]}]


def test_without_https_on_another_name(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = visit(None)
    page.goto(service.link(name).replace("127.0.0.1", OTHER_NAME))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/projects/*")
    page.goto(f"{service.url.replace('127.0.0.1', OTHER_NAME)}/projects/{project}/label")
    ready(page)
    assert page.evaluate("window.isSecureContext") is False
    press(page, "1 j 2 j 3 j 4")
    submit(page)
    assert stored(service, project, name) == [{"overall": [["A"], ["B"], ["C"], ["D"]]}]


def test_the_next_criterion_is_in_sight_on_a_phone(service: Service, visit: Visit) -> None:
    project, name = new(service, criteria=("helpful", "honest"))
    page = ready(visit(name, f"/projects/{project}/label", viewport={"width": 390, "height": 700}))
    press(page, "1 j 2 j 3 j 4")
    expect(page.locator(".criteria")).not_to_be_in_viewport()
    press(page, "Control+Enter")
    expect(page.locator(".criterion[aria-pressed=true]")).to_contain_text("Honest")
    tab, prompt = (page.locator(what).bounding_box() for what in (".criterion[aria-pressed=true]", ".prompt"))
    assert prompt["y"] + prompt["height"] <= tab["y"]


def test_several_criteria(service: Service, visit: Visit) -> None:
    project, name = new(service, criteria=("helpful", "honest", "harmless"))
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "1 j 2 j 3 j 4 Control+Enter")
    expect(page.locator(".criterion[aria-pressed=true]")).to_contain_text("Honest")
    assert order(page) == {"": "ABCD"}
    press(page, "4 j 3 j 2 j 1 Control+Enter 1 j 1 j 1 j 1 [")
    expect(page.locator(".criterion[aria-pressed=true]")).to_contain_text("Honest")
    assert order(page) == {"1": "D", "2": "C", "3": "B", "4": "A"}
    submit(page)
    assert stored(service, project, name) == [
        {
            "helpful": [["A"], ["B"], ["C"], ["D"]],
            "honest": [["D"], ["C"], ["B"], ["A"]],
            "harmless": [["A", "B", "C", "D"]],
        }
    ]


def test_a_or_b(service: Service, visit: Visit) -> None:
    project, name = new(service, [Item("Which?", ["this", "that"])] * 1 + [Item("And?", ["x", "y"])], mode="pairwise")
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "b")
    expect(page.get_by_role("button", name="B is better")).to_have_attribute("aria-pressed", "true")
    submit(page)
    ready(page)
    page.get_by_role("button", name="Tie").click()
    submit(page)
    assert stored(service, project, name) == [{"overall": [["B"], ["A"]]}, {"overall": [["A", "B"]]}]


def test_rating(service: Service, visit: Visit) -> None:
    project, name = new(service, mode="rating", rating_scale=5)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "5 j 3 j 3 j Control+Enter")
    expect(page.locator(".toast")).to_contain_text("Not complete: score D too.")
    press(page, "1")
    submit(page)
    assert stored(service, project, name) == [{"overall": [["A"], ["B", "C"], ["D"]]}]


def test_single_keys_can_be_switched_off(service: Service, visit: Visit) -> None:
    project, name = new(service)
    page = ready(visit(name, f"/projects/{project}/label"))
    press(page, "?")
    page.get_by_label("Single keys are on").uncheck()
    page.get_by_role("button", name="Close").click()
    press(page, "1 j")
    assert order(page) == {"": "ABCD"}
    page.get_by_role("button", name="Rank 1 for answer A").click()
    assert order(page) == {"1": "A", "": "BCD"}
