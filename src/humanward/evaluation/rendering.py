"""A template of ``templates/`` with its styles and scripts put into it: a page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from humanward.evaluation import cells

FILTERS = {
    "number": cells.number,
    "plain": cells.plain,
    "percent": cells.percent,
    "typeset": cells.typeset,
    "duration": cells.duration,
}


def render(template: str, styles: Sequence[str], context: Mapping[str, Any], *, script: str | None = None) -> str:
    """The page as one string; a name that the context lacks is an error.

    ``styles`` and ``script`` name files beside the template, which finds their text under ``style`` and ``script``.
    """
    loader = jinja2.PackageLoader("humanward.evaluation", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= FILTERS

    def text(name: str) -> str:
        return loader.get_source(environment, name)[0]

    shared = {"style": Markup("".join(map(text, styles)))}
    if script is not None:
        shared["script"] = Markup(text(script))
    return environment.get_template(template).render({**context, **shared})
