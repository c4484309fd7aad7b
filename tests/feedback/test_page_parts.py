"""Markdown as a tree: nothing in it but texts and elements of the allow-list, whatever was written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanward.feedback.service.page_parts import LONGEST, RenderBody, markdown_tree, render
from humanward.feedback.store.audit import TERMINAL

sys.path.insert(0, str(Path(__file__).parent / "browser"))

from xss_corpus import CORPUS

BLOCKS = {"p", "blockquote", "ul", "ol", "li", "pre", "hr", "h1", "h2", "h3", "h4", "h5", "h6"}
ALLOWED = BLOCKS | {"em", "strong", "s", "code", "br", "a", "image", "table", "thead", "tbody", "tr", "th", "td"}


def nodes(tree: list[Any]) -> Iterator[dict[str, Any]]:
    """All elements of a tree."""
    for node in tree:
        if not isinstance(node, str):
            yield node
            yield from nodes(node["children"])


def check(text: str) -> None:
    for node in nodes(markdown_tree(text)):
        assert node["tag"] in ALLOWED
        assert set(node) <= {"tag", "children", "href", "language", "start", "align"}
        if node["tag"] == "a":
            assert urlsplit(node["href"]).scheme in ("http", "https", "mailto")


@pytest.mark.parametrize("text", CORPUS)
def test_the_corpus_becomes_allowed_elements(text: str) -> None:
    check(text)


@given(st.lists(st.sampled_from([*"*_`[]()<>!#|-\n 1a.:&;\\", "javascript:", "](", "http://", "```"]), max_size=60))
def test_any_markdown_becomes_allowed_elements(parts: list[str]) -> None:
    check("".join(parts))


def test_markdown_as_people_know_it() -> None:
    assert markdown_tree("A **b** `c`  \nd") == [
        {
            "tag": "p",
            "children": [
                "A ",
                {"tag": "strong", "children": ["b"]},
                " ",
                {"tag": "code", "children": ["c"]},
                {"tag": "br", "children": []},
                "d",
            ],
        }
    ]
    assert markdown_tree("3. x\n4. y") == [
        {"tag": "ol", "start": 3, "children": [{"tag": "li", "children": [t]} for t in "xy"]}
    ]
    assert markdown_tree("```python x\n1 < 2\n```") == [{"tag": "pre", "language": "python", "children": ["1 < 2"]}]
    assert markdown_tree("![a cat](https://example.org/cat.png)") == [
        {"tag": "p", "children": [{"tag": "image", "children": ["a cat"], "href": "https://example.org/cat.png"}]}
    ]
    assert markdown_tree("[x](https://example.org)") == [
        {"tag": "p", "children": [{"tag": "a", "children": ["x"], "href": "https://example.org"}]}
    ]
    # No address that can be opened elsewhere: the words stay.
    assert markdown_tree("[x](/projects/1)") == [{"tag": "p", "children": ["x"]}]
    assert markdown_tree("<b>x</b>") == [{"tag": "p", "children": ["<b>x</b>"]}]


def test_a_text_that_is_too_long_is_left_as_it_is() -> None:
    assert render(RenderBody(texts=["x" * (LONGEST + 1), "y"]), TERMINAL).trees == [
        None,
        [{"tag": "p", "children": ["y"]}],
    ]
