"""What the pages need beside the data: Markdown as a tree of allowed elements, and the formats of files by name.

Markdown never becomes HTML here: the parser's tokens become nested JSON, and the page builds elements of an allow-list
from it. So there is no string of markup anywhere that could hold a script.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from humanward.feedback.formats import FORMATS
from humanward.feedback.service.auth import Me
from humanward.feedback.service.schemas import Body, Text

router = APIRouter(tags=["pages"])
LONGEST = 100_000
"""Characters of a text that are read as Markdown; longer ones are shown as they are."""
SCHEMES = ("http", "https", "mailto")
PLAIN = {
    "paragraph": "p",
    "blockquote": "blockquote",
    "bullet_list": "ul",
    "list_item": "li",
    "em": "em",
    "strong": "strong",
    "s": "s",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
}
Tree = list[Any]
_markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


class Assets(StaticFiles):
    """The files under /static/: kept by browsers, and asked for again by their ETag, so that no page mixes versions."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """As its parent, with ``Cache-Control: no-cache``."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


class RenderBody(Body):
    texts: list[Annotated[Text, Field(max_length=1_000_000)]] = Field(max_length=200)


class RenderReply(BaseModel):
    """``trees[i]`` is a list of nodes, or null where ``texts[i]`` is too long to be read as Markdown.

    A node is a text, or ``{"tag", "children"}`` with ``href``, ``language``, ``start`` or ``align`` where it has one.
    """

    trees: list[list[Any] | None]


class FormatReply(BaseModel):
    name: str
    summary: str
    written: bool


@router.post("/render")
def render(body: RenderBody, _actor: Me) -> RenderReply:
    """Texts as trees of allowed elements: no raw HTML, no images, links to http, https and mailto alone."""
    return RenderReply(trees=[markdown_tree(text) if len(text) <= LONGEST else None for text in body.texts])


@router.get("/formats")
def list_formats(_actor: Me) -> list[FormatReply]:
    """The formats that can be imported, and which of them can be exported."""
    return [
        FormatReply(name=name, summary=form.summary, written=form.write is not None) for name, form in FORMATS.items()
    ]


def markdown_tree(text: str) -> Tree:
    """The text's Markdown (CommonMark, tables, strike-through) as nodes; see ``RenderReply``."""
    return _children(SyntaxTreeNode(_markdown.parse(text)))


def _children(node: SyntaxTreeNode) -> Tree:
    found: Tree = []
    for child in node.children:
        found.extend(_node(child))
    return found


def _node(node: SyntaxTreeNode) -> Tree:
    """The nodes that a token becomes; what is not known becomes the text in it."""
    kind = node.type
    if kind in ("text", "html_inline", "html_block"):
        return [node.content]
    if kind == "softbreak":
        return ["\n"]
    if kind in ("hardbreak", "hr"):
        return [{"tag": "br" if kind == "hardbreak" else "hr", "children": []}]
    if kind == "code_inline":
        return [{"tag": "code", "children": [node.content]}]
    if kind in ("fence", "code_block"):
        language = node.info.split()[0][:30] if kind == "fence" and node.info.strip() else ""
        return [{"tag": "pre", "children": [node.content.removesuffix("\n")], "language": language}]
    if kind == "image":
        return [{"tag": "image", "children": [node.content], "href": str(node.attrs.get("src", ""))}]
    children = _children(node)
    if kind == "inline" or (kind == "paragraph" and node.hidden):
        return children
    if kind == "heading":
        return [{"tag": node.tag, "children": children}]
    if kind == "ordered_list":
        return [{"tag": "ol", "children": children, "start": int(node.attrs.get("start", 1))}]
    if kind in ("th", "td"):
        align = str(node.attrs.get("style", "")).removeprefix("text-align:")
        return [{"tag": kind, "children": children, "align": align}]
    if kind == "link":
        href = str(node.attrs.get("href", ""))
        return [{"tag": "a", "children": children, "href": href}] if _may_be_opened(href) else children
    return [{"tag": PLAIN[kind], "children": children}] if kind in PLAIN else children


def _may_be_opened(href: str) -> bool:
    try:
        parts = urlsplit(href)
    except ValueError:
        return False
    return parts.scheme.lower() in SCHEMES and bool(parts.netloc or parts.scheme == "mailto")
