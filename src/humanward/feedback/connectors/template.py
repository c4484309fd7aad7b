"""The worker's page: crowd-text-ranking in a Liquid template; the check that the service escapes hostile texts in it.

The service fills in ``task.input`` and escapes what it fills in; nothing here asks it not to. What humanward itself
writes into the template (criteria, guidelines) is escaped for HTML and holds no brace that Liquid could read.
https://docs.aws.amazon.com/sagemaker/latest/dg/sms-ui-template-crowd-text-ranking.html
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

from humanward.errors import InputError
from humanward.feedback.connectors.limits import TEMPLATE
from humanward.feedback.guidelines import DEFAULTS

ELEMENT = "crowd-text-ranking"
ANSWER_NAME = "textRanking"
_PAGE = """<script src="https://assets.crowd.aws/crowd-html-elements-v2.js"></script>
<crowd-form>
  <crowd-text-ranking
    name="{name}"
    ordinal-ranking-dimensions='{dimensions}'
    text='{{{{ task.input.source }}}}'
    responses='{{{{ task.input.responses | to_json }}}}'
  >
    <short-instructions>
{guidelines}
    </short-instructions>
  </crowd-text-ranking>
</crowd-form>
"""
PROBE_SOURCE = (
    "<script>alert(1)</script>' onmouseover='alert(2)' \" onfocus=\"alert(3) "
    "&lt;b&gt; {{ 7 | times: 6 }} \\ \u00e9\u4e2d\nend"
)
PROBE_RESPONSES = (
    "it's a 'quote'><img src=x onerror=alert(4)>",
    '"></crowd-text-ranking><script>alert(5)</script>',
    'a, b, [c], {{ d }} {% raw %} </short-instructions> &amp; &#39; \\" \\u003c \u2028 \U0001f600\r\n\tend',
)


def render_template(criteria: Sequence[str], *, allow_ties: bool = True, guidelines: str | None = None) -> str:
    """The template; ``guidelines`` is Markdown (raw HTML in it stays text), by default those of the criteria.

    Raises InputError where it is longer than a template may be.
    """
    for name in criteria:
        if "{" in name or "}" in name:
            raise InputError(
                f"--criterion {name!r}: has a brace, which the template would read; use letters and spaces"
            )
    dimensions = json.dumps([{"name": name, "allowTie": allow_ties} for name in criteria], separators=(",", ":"))
    for character in "&<>'":
        dimensions = dimensions.replace(character, f"\\u{ord(character):04x}")
    from markdown_it import MarkdownIt

    text = default_guidelines(criteria, allow_ties=allow_ties) if guidelines is None else guidelines
    shown = MarkdownIt("commonmark", {"html": False}).disable("image").render(text).rstrip()
    shown = shown.replace("{", "&#123;").replace("}", "&#125;")
    page = _PAGE.format(name=ANSWER_NAME, dimensions=dimensions, guidelines=shown)
    if len(page) > TEMPLATE:
        raise InputError(f"--guidelines: the page would have {len(page)} characters, {TEMPLATE} fit; shorten them")
    return page


def default_guidelines(criteria: Sequence[str], *, allow_ties: bool = True) -> str:
    """What a worker reads beside the answers, in Markdown: how to rank, then the guidelines of each criterion."""
    ties = (
        "Answers that are equally good **share a rank**."
        if allow_ties
        else "No two answers may share a rank; where you see no difference, decide by a detail."
    )
    parts = [f"Read the prompt and **every** answer, then rank the answers. **1 is the best.** {ties}"]
    for name in criteria:
        if name in DEFAULTS:
            parts.append(DEFAULTS[name].text)
        else:
            parts.append(f"# {name}\n\nWhich answer is best by this criterion alone?")
    return "\n\n".join(parts)


def probe_input() -> str:
    """Task input, as JSON, that breaks out of the page wherever a text is not escaped."""
    return json.dumps({"source": PROBE_SOURCE, "responses": list(PROBE_RESPONSES)}, ensure_ascii=False)


def check_rendered(page: str) -> None:
    """Raise InputError unless the rendered page shows the probe as text, in the two attributes and nowhere else."""
    found = _Reader()
    found.feed(page)
    found.close()
    shown = [attributes for tag, attributes in found.elements if tag == ELEMENT]
    attributes = [(name, value or "") for _, own in found.elements for name, value in own.items()]
    reason = ""
    if len(shown) != 1:
        reason = f"it has {len(shown)} elements {ELEMENT}, not 1"
    elif (shown[0].get("text") or "") != PROBE_SOURCE:
        reason = "the prompt's attribute does not hold the prompt"
    elif _responses(shown[0]) != list(PROBE_RESPONSES):
        reason = "the answers' attribute does not hold the answers"
    elif any(name.startswith("on") and "alert(" in value for name, value in attributes):
        reason = "a text became an event handler"
    elif "alert(" in found.script:
        reason = "a text became a script"
    if reason:
        raise InputError(
            f"the page that AWS renders is not safe for hostile texts: {reason}; nothing was published. "
            "--no-render-check publishes all the same: only where you wrote every prompt and answer yourself"
        )


def _responses(attributes: dict[str, str | None]) -> Any:
    try:
        return json.loads(attributes.get("responses") or "")
    except ValueError:
        return None


class _Reader(HTMLParser):
    """Every element with its attributes, entities decoded, and the text of all scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.script = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.script += data
