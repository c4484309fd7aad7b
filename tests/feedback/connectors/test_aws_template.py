"""template: a real Liquid engine renders hostile texts as text and nothing else; an unsafe page is refused."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser
from typing import Any

import liquid
import pytest
from markupsafe import Markup

from humanward.errors import InputError
from humanward.feedback.connectors.template import (
    PROBE_RESPONSES,
    PROBE_SOURCE,
    check_rendered,
    default_guidelines,
    probe_input,
    render_template,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "'><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "</crowd-text-ranking></crowd-form><svg onload=alert(1)>",
    "{{ task.input.responses }} {% include 'x' %} {{ 7 | times: 6 }}",
    "&lt;script&gt; &amp;#39; &#x27; \\u003cscript\\u003e",
    "javascript:alert(1)",
    "]\" x='[",
    "a, comma, and \"quotes\", and 'apostrophes'",
    "line\nbreak\ttab \\ back\\\\slash",
    "\u2028\u202e\u0627\u0644\u0639 \U0001f600 \u00e9",
    "<!-- --!> ]]> <![CDATA[",
    "",
]


class Page(HTMLParser):
    """Elements with attributes, what was left open, and the text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag}: an attribute twice"
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def only(self, tag: str) -> dict[str, str | None]:
        (found,) = (attributes for name, attributes in self.elements if name == tag)
        return found


def rendered(template: str, source: str, responses: list[str], *, trusted_json: bool = False) -> str:
    """The page as a Liquid engine with autoescape fills it in; with ``trusted_json`` to_json is not escaped."""
    engine = liquid.Environment(autoescape=True)
    dumps = (lambda value: Markup(json.dumps(value))) if trusted_json else json.dumps
    engine.filters["to_json"] = dumps
    return str(engine.from_string(template).render(task={"input": {"source": source, "responses": responses}}))


def test_the_template_as_it_is() -> None:
    page = Page(render_template(["helpful", "honest"], allow_ties=False))
    assert page.open == []
    assert page.elements[0] == ("script", {"src": "https://assets.crowd.aws/crowd-html-elements-v2.js"})
    assert [tag for tag, _ in page.elements[1:4]] == ["crowd-form", "crowd-text-ranking", "short-instructions"]
    element = page.only("crowd-text-ranking")
    assert element["name"] == "textRanking"
    assert element["text"] == "{{ task.input.source }}"
    assert element["responses"] == "{{ task.input.responses | to_json }}"
    assert json.loads(element["ordinal-ranking-dimensions"] or "") == [
        {"name": "helpful", "allowTie": False},
        {"name": "honest", "allowTie": False},
    ]
    assert "skip_autoescape" not in render_template(["helpful"])
    assert "No two answers may share a rank" in page.text
    assert "Which answer does most for what the person wants to get done?" in page.text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(text: str) -> None:
    template = render_template(["overall"])
    page = Page(rendered(template, text, [text, "other", text + text]))
    element = page.only("crowd-text-ranking")
    assert element["text"] == text
    assert json.loads(element["responses"] or "") == [text, "other", text + text]
    assert set(element) == {"name", "ordinal-ranking-dimensions", "text", "responses"}
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in Page(template).elements]
    assert page.open == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_criteria_and_guidelines_stay_texts(text: str) -> None:
    plain = Page(render_template(["overall"], guidelines="Rank."))
    if "{" not in text and text:
        page = Page(rendered(render_template([text], guidelines="Rank."), "q", ["a", "b"]))
        named = json.loads(page.only("crowd-text-ranking")["ordinal-ranking-dimensions"] or "")
        assert named == [{"name": text, "allowTie": True}]
        assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    page = Page(rendered(render_template(["overall"], guidelines=f"Rank.\n\n{text}\n\nEnd."), "q", ["a", "b"]))
    assert page.only("crowd-text-ranking")["text"] == "q"
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(tag in ("img", "svg") for tag, _ in page.elements)
    if "{{" in text:
        assert "{{ 7 | times: 6 }}" in page.text


def test_markdown_of_guidelines() -> None:
    page = render_template(
        ["mine"], guidelines="# Title\n\n- **one** ![x](https://a.example/x.png)\n- [y](javascript:z)"
    )
    assert "<h1>Title</h1>" in page
    assert "<strong>one</strong>" in page
    assert "<img" not in page
    assert 'href="javascript' not in page
    assert "Which answer is best by this criterion alone?" in default_guidelines(["mine"])
    assert "**share a rank**" in default_guidelines(["helpful"])


def test_braces_in_a_criterion_and_long_guidelines_are_refused() -> None:
    with pytest.raises(InputError, match=r"--criterion '\{\{x\}\}': has a brace"):
        render_template(["{{x}}"])
    with pytest.raises(InputError, match=r"--guidelines: the page would have \d+ characters, 128000 fit"):
        render_template(["x"], guidelines="a" * 128_000)


def render_probe(**options: Any) -> str:
    value = json.loads(probe_input())
    return rendered(render_template(["overall"]), value["source"], value["responses"], **options)


def test_a_page_that_escapes_everything_passes() -> None:
    check_rendered(render_probe())
    check_rendered(f"<html><head><script>window.started = true</script></head><body>{render_probe()}</body></html>")


def test_pages_that_do_not_are_refused() -> None:
    template = render_template(["overall"])
    value = {
        "{{ task.input.source }}": PROBE_SOURCE,
        "{{ task.input.responses | to_json }}": json.dumps(PROBE_RESPONSES),
    }

    def filled(escape: Any, only: str = "") -> str:
        page = template
        for place, text in value.items():
            page = page.replace(place, escape(text) if only in place else html.escape(text))
        return page

    check_rendered(filled(html.escape))
    for page, reason in (
        (render_probe(trusted_json=True), "answers' attribute"),
        (filled(str), "the prompt's attribute"),
        (filled(lambda text: html.escape(text, quote=False)), "the prompt's attribute"),
        (filled(lambda text: html.escape(html.escape(text))), "the prompt's attribute"),
        (filled(lambda text: html.escape(text, quote=False), "responses"), "the answers' attribute"),
        (filled(lambda text: html.escape(html.escape(text)), "responses"), "the answers' attribute"),
        ("", "it has 0 elements crowd-text-ranking, not 1"),
        (filled(html.escape) * 2, "it has 2 elements"),
        (filled(html.escape) + "<p onclick='alert(1)'>", "a text became an event handler"),
        (filled(html.escape) + "<script>alert(1)</script>", "a text became a script"),
    ):
        with pytest.raises(InputError, match=f"is not safe for hostile texts: .*{reason}.*; nothing was published"):
            check_rendered(page)
