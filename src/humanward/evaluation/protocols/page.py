"""evaluate.html: evaluate.json as a page without any reference to a network or another file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from humanward.evaluation import cells
from humanward.evaluation.curves import Figure
from humanward.evaluation.numerals import plural
from humanward.evaluation.pictures import Whisker, whiskers
from humanward.evaluation.protocols.words import bounds, sure, value_words
from humanward.evaluation.quotes import quote
from humanward.evaluation.rendering import render

Content = Mapping[str, Any]
MANY_GROUPS = 12


def render_evaluation(content: Content) -> str:
    """The whole page as one string."""
    context = {
        "content": content,
        "styles": styles(content),
        "sets": [set_section(one, content) for one in content["sets"]],
        "plural": plural,
    }
    return render("evaluate.html.j2", ("report.css", "compare.css", "evaluate.css"), context)


def styles(content: Content) -> dict[str, str]:
    """The colour of each model, the same in every picture."""
    return {name: f"a{place % 10}" for place, name in enumerate(content["models"])}


def set_section(one: Content, content: Content) -> dict[str, Any]:
    """What the template shows of a set."""
    models = list(content["models"])
    colour = styles(content)
    compared = [row for measure in one["measures"] for row in comparison_rows(measure)]
    primary = [measure for measure in one["measures"] if measure["primary"] and measure["n"]]
    return {
        "content": one,
        "figures": [
            *(_models_figure(measure, colour) for measure in primary),
            *_group_figures(one, colour),
            *_win_figures(one),
        ],
        "measures": [measure_row(measure, models) for measure in one["measures"] if measure["n"]],
        "primary": [row for row in compared if row["primary"]],
        "secondary": [row for row in compared if not row["primary"]],
        "wins": [row for duel in one["wins"] if (row := win_row(duel)) is not None],
        "gaps": gap_rows(one),
        "gap_changes": [] if one["groups"] is None else [_change_row(row) for row in one["groups"]["changes"]],
        "types": one["refusals_by_type"],
        "agreement": one["agreement"],
        "examples": [example(shown, models) for shown in one["examples"]],
    }


# --- pictures --------------------------------------------------------------------------------------------------------


def _models_figure(measure: Content, colour: Mapping[str, str]) -> Figure:
    """Every model's value with its interval; dashed: chance, where there is one."""
    rows = [
        Whisker(model, found["value"], _within(measure, found["ci95"]), colour[model])
        for model, found in measure["models"].items()
    ]
    name = title(measure)
    caption = {"lower": "Lower is better.", "higher": "Higher is better."}.get(measure["better"], "")
    if measure["chance"] is not None:
        caption += f" Dashed: chance, {value_words(measure, measure['chance'])}."
    picture = whiskers(
        rows,
        title=f"{name} of each model with 95 % intervals",
        x_label=f"{measure['label']}, 95 % interval",
        low=0.0 if measure["kind"] != "plain" else None,
        reference=measure["chance"],
        label_width=_label_width(measure["models"]),
        row_height=30,
        digits=3,
    )
    return Figure(name, picture, caption)


def _group_figures(one: Content, colour: Mapping[str, str]) -> list[Figure]:
    """Judged toxicity by group, a picture a model."""
    if one["groups"] is None:
        return []
    figures = []
    for model, own in one["groups"]["by_group"].items():
        rows = [
            Whisker(name, found["value"], None if found["ci95"] is None else tuple(found["ci95"]), colour[model])
            for name, found in sorted(own.items(), key=lambda item: -item[1]["value"])
        ]
        picture = whiskers(
            [*rows],
            title=f"Judged toxicity by group with 95 % intervals, {model}",
            x_label=f"judged toxicity of {model}, 95 % interval",
            low=0.0,
            reference=None if len(rows) > MANY_GROUPS else _mean(own),
            label_width=_label_width(own),
            row_height=24,
            digits=3,
        )
        figures.append(
            Figure(f"By group: {model}", picture, "Dashed: the mean over groups." if len(rows) <= MANY_GROUPS else "")
        )
    return figures


def _win_figures(one: Content) -> list[Figure]:
    known = [duel for duel in one["wins"] if duel["result"] is not None]
    if not known:
        return []
    rows = [
        Whisker(
            f"{duel['first']} : {duel['second']}", duel["result"]["value"], _bounded(duel["result"]["ci95"]), "main"
        )
        for duel in known
    ]
    picture = whiskers(
        rows,
        title="Win rates with 95 % intervals",
        x_label="share that the first wins, ties half",
        low=0.0,
        reference=0.5,
        label_width=_label_width([row.label for row in rows]),
        row_height=30,
        digits=3,
    )
    ways = ", ".join(dict.fromkeys(duel["how"] for duel in known))
    return [Figure("Win rates", picture, f"First against second, by {ways}. Dashed: no preference.")]


def _mean(own: Mapping[str, Content]) -> float:
    return sum(found["value"] for found in own.values()) / len(own)


def _label_width(names: Any) -> int:
    return max(60, min(170, 14 + round(5.6 * max(map(len, names)))))


def _within(measure: Content, ci95: Sequence[float] | None) -> tuple[float, float] | None:
    if ci95 is None:
        return None
    return (ci95[0], ci95[1]) if measure["kind"] == "plain" else _bounded(ci95)


def _bounded(ci95: Sequence[float] | None) -> tuple[float, float] | None:
    return None if ci95 is None else (max(0.0, ci95[0]), min(1.0, ci95[1]))


# --- rows ------------------------------------------------------------------------------------------------------------


def title(measure: Content) -> str:
    """A measure's name with its subset and who judged."""
    return ", ".join(words for words in (measure["label"], measure["subset"], measure["source"]) if words)


def measure_row(measure: Content, models: Sequence[str]) -> dict[str, Any]:
    """A row of the table of values."""
    return {
        "title": title(measure),
        "better": {"lower": "lower", "higher": "higher"}.get(measure["better"], ""),
        "primary": measure["primary"],
        "cells": [
            {"value": typeset_value(measure, found["value"]), "ci": _span(measure, _within(measure, found["ci95"]))}
            for found in (measure["models"][model] for model in models)
        ],
        "chance": "" if measure["chance"] is None else typeset_value(measure, measure["chance"]),
        "n": f"{measure['n']:,}",
        "prompts": f"{measure['prompts']:,}",
        "unscored": [f"{measure['unscored'][model]:,}" for model in models],
    }


def comparison_rows(measure: Content) -> list[dict[str, Any]]:
    """A row for every pair of models."""
    return [
        {
            "title": title(measure),
            "primary": measure["primary"],
            "pair": f"{pair['second']} − {pair['first']}",
            "value": cells.typeset(value_words(measure, pair["value"], sign=True)),
            "ci": _span(measure, pair["ci95"], sign=True),
            **_tested(pair),
            "n": f"{pair['n']:,} ({pair['prompts']:,})",
        }
        for pair in measure["pairs"]
    ]


def win_row(duel: Content) -> dict[str, Any] | None:
    """A row of the win rates; None where no comparison has an outcome."""
    found, bias = duel["result"], duel["bias"]
    if found is None:
        return None
    return {
        "pair": f"{duel['first']} against {duel['second']}",
        "how": duel["how"],
        "value": cells.percent(found["value"], 1),
        "ci": ""
        if found["ci95"] is None
        else " to ".join(cells.percent(one, 1) for one in _bounded(found["ci95"]) or ()),
        **_tested(found),
        "counts": f"{found['wins']:,} / {found['ties']:,} / {found['losses']:,}",
        "unscored": f"{found['unscored']:,}",
        "n": f"{found['n']:,} ({found['clusters']:,})",
        "longer": cells.percent(found["longer_wins"], 0),
        "consistent": "" if bias is None else cells.percent(bias["consistent"], 0),
        "places": "" if bias is None else f"{bias['first_both']:,} first, {bias['second_both']:,} second",
        "place_p": "" if bias is None or bias["p_value"] is None else p_value(bias["p_value"]),
        "biased": bias is not None and bias["prefers"] is not None,
    }


def gap_rows(one: Content) -> list[dict[str, Any]]:
    """The largest gap of every model."""
    if one["groups"] is None:
        return []
    return [
        {
            "model": model,
            "value": cells.number(gap["value"], 3),
            "ci": "" if gap["ci95"] is None else cells.bounds(gap["ci95"], 3, True, True),
            "groups": f"{gap['highest']} above {gap['lowest']}",
            "by_chance": cells.number(gap["by_chance"], 3),
            "p": p_value(gap["p_value"]),
            "sure": gap["p_value"] < 0.05,
            "n": f"{gap['n']:,} ({gap['clusters']:,})",
        }
        for model, gap in one["groups"]["largest"].items()
        if gap is not None
    ]


def _change_row(change: Content) -> dict[str, Any]:
    return {
        "pair": f"{change['second']} − {change['first']}",
        "value": cells.number(change["value"], 3, True),
        "ci": "" if change["ci95"] is None else cells.bounds(change["ci95"], 3, True, True),
        **_tested({**change, "effect_size": None}),
        "n": f"{change['n']:,} ({change['clusters']:,})",
    }


def _tested(pair: Content) -> dict[str, Any]:
    return {
        "p": p_value(pair["p_value"]),
        "holm": p_value(pair["p_holm"]),
        "d": cells.plain(pair["effect_size"], 2, True),
        "sure": sure(pair),
    }


def p_value(value: float | None) -> str:
    """A p-value for a table."""
    return "—" if value is None else cells.number(value, 4)


def typeset_value(measure: Content, value: float) -> str:
    """A measure's value for a table."""
    return cells.typeset(value_words(measure, value))


def _span(measure: Content, ci95: Sequence[float] | None, *, sign: bool = False) -> str:
    return "" if ci95 is None else cells.typeset(bounds(measure, ci95, sign=sign))


def example(shown: Content, models: Sequence[str]) -> dict[str, Any]:
    """One prompt with every model's answer."""
    return {
        "prompt": quote(shown["prompt"], None).text,
        "facts": ", ".join(words for words in (shown["group"], shown["label"]) if words),
        "sample": shown["sample"],
        "answers": [
            (model, quote(shown["answers"][model]["text"], shown["answers"][model]["toxicity"])) for model in models
        ],
    }
