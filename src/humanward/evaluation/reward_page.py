"""reward_evaluation.html: reward_evaluation.json as a page without any reference to a network or another file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from humanward.evaluation import cells
from humanward.evaluation.curves import Figure
from humanward.evaluation.numerals import p_words, plural
from humanward.evaluation.pictures import Whisker, whiskers
from humanward.evaluation.rendering import render
from humanward.evaluation.reward_pictures import curve, reliability
from humanward.evaluation.reward_words import GROUPS, WANTED, baseline, told_apart

Content = Mapping[str, Any]
TITLES = {
    "by_subset": "By subset",
    "by_criterion": "By criterion",
    "by_agreement": "By how far annotators agree",
    "by_graded_margin": "By how much better people found it",
    "by_margin": "By how far apart the scores are",
}


def render_reward_evaluation(content: Content) -> str:
    """The whole page as one string."""
    context = {
        "content": content,
        "sets": [_set(one) for one in content["sets"]],
        "curve": None if content["learning_curve"] is None else _curve(content),
        "probes": None if content["probes"] is None else _probes(content["probes"]),
        "plural": plural,
    }
    return render("reward_evaluation.html.j2", ("report.css", "compare.css", "evaluate.css", "reward.css"), context)


def _set(one: Content) -> dict[str, Any]:
    found = one["calibration"]
    rows = [("reward", one["accuracy"], "main"), *((row["name"], row, "second") for row in one["baselines"])]
    accuracy = whiskers(
        [Whisker(name, row["value"], _bounds(row["ci95"]), kind) for name, row, kind in rows],
        title=f"Accuracy on {one['name']} of the reward and its baselines, with 95 % intervals",
        x_label="share of pairs right, 95 % interval",
        reference=0.5,
        label_width=70,
        row_height=30,
        digits=3,
    )
    figures = [
        Figure("Right answers", accuracy, "Dashed: chance. Ties of the scores count one half."),
        Figure(
            "Do its probabilities come true?",
            reliability(found["before"], found["after"], title=f"Reliability on {one['name']}"),
            f"A dot is a tenth of the scale, larger with more pairs. Expected calibration error "
            f"{cells.number(found['before']['ece'])} as scored, {cells.number(found['after']['ece'])} with temperature "
            f"{cells.plain(found['temperature'], 2)} (fitted {found['fitted']}); a calibrated reward has "
            f"{cells.bounds(found['after']['band'], 3, bounded=True)} by chance alone, and its dots lie on the bars.",
            (("second", "as scored"), ("", "with temperature")),
        ),
    ]
    known = [row for row in one["by_subset"] if row["value"] is not None]
    if len(known) > 1:
        shown = whiskers(
            [Whisker(_short(row["name"]), row["value"], _bounds(row["ci95"]), "main") for row in known[:MOST_SUBSETS]],
            title=f"Accuracy by subset of {one['name']}",
            x_label="share of pairs right, 95 % interval",
            reference=0.5,
            label_width=_width(known[:MOST_SUBSETS]),
            row_height=24,
            digits=2,
        )
        more = f" The first {MOST_SUBSETS} of {len(known)}; all are in the table." if len(known) > MOST_SUBSETS else ""
        figures.append(Figure("By subset", shown, f"Dashed: chance.{more}"))
    return {
        "content": one,
        "figures": figures,
        "rows": [
            {"name": "reward", "rule": "", **_row(one["accuracy"]), "difference": "", "difference_ci": "", "p": ""},
            *({"name": row["name"], "rule": row["rule"], **_row(row), **_difference(row)} for row in one["baselines"]),
        ],
        "groups": [
            {
                "title": TITLES[key],
                "rows": [{"name": row["name"], **_row(row)} for row in told_apart(one[key])[0]],
                "few": ", ".join(f"{row['name']} ({row['n']})" for row in told_apart(one[key])[1]),
            }
            for key, _ in GROUPS
            if one[key]
        ],
        "parts": [{**row, **_row(row)} for row in one["by_part"]],
    }


MOST_SUBSETS = 24


def _short(name: str) -> str:
    words = name.replace("_", " ")
    return words if len(words) <= 32 else f"{words[:31]}…"


def _width(rows: Sequence[Content]) -> int:
    return max(60, 14 + round(5.6 * max(len(_short(row["name"])) for row in rows)))


def _bounds(ci95: Sequence[float] | None) -> tuple[float, float] | None:
    return None if ci95 is None else (max(0.0, ci95[0]), min(1.0, ci95[1]))


def _row(row: Content) -> dict[str, str]:
    return {
        "value": cells.percent(row["value"], 1),
        "ci": "" if not row["ci95"] else " to ".join(cells.percent(bound, 1) for bound in row["ci95"]),
        "n": f"{row['n']:,}",
    }


def _difference(row: Content) -> dict[str, str]:
    change = row["difference"]
    return {
        "difference": cells.plain(100 * change["mean"], 1, True),
        "difference_ci": cells.bounds([100 * bound for bound in change["ci95"]], 1, True) if change["ci95"] else "",
        "p": cells.typeset(p_words(change["p_value"])).removeprefix("p\u00a0=\u00a0"),
    }


def _curve(content: Content) -> dict[str, Any]:
    found = content["learning_curve"]
    reference = baseline(content["sets"][0], "length")["value"]
    picture = curve(found["points"], reference, title="Accuracy over the number of pairs trained on")
    caption = "On the same held-out pairs, with 95 % intervals. Dashed: choosing by length."
    return {
        "figure": Figure("Accuracy over pairs", picture, caption),
        "rows": [
            {
                "pairs": f"{p['pairs']:,}",
                "prompts": f"{p['prompts']:,}",
                "share": cells.percent(p["share"]),
                **_row(p["accuracy"]),
            }
            for p in found["points"]
        ],
    }


def _probes(probes: Content) -> dict[str, Any]:
    edits = [row for row in probes["edits"] if row["mean"] is not None]

    def figure(title: str, rows: Sequence[Content], caption: str) -> Figure:
        picture = whiskers(
            [Whisker(_short(row["name"]), row["mean"], _pair(row["ci95"]), "main") for row in rows],
            title=title,
            x_label="change of the score, standard deviations",
            reference=0.0,
            label_width=_width(rows),
            row_height=26,
            digits=2,
        )
        return Figure(title, picture, caption)

    figures = [figure("Edits of the same answers", edits, "Dashed: no change.")] if edits else []
    groups = probes["identities"]["rows"]
    if groups:
        caption = f"The same answer closed by “I say this as a … person.”, against “{probes['identities']['neutral']}”"
        figures.append(figure("Names of groups", groups, caption))
    return {
        "figures": figures,
        "rows": [
            {
                **row,
                "wanted": WANTED[row["wanted"]],
                "change": cells.plain(row["mean"], 2, True),
                "ci": cells.bounds(row["ci95"], 2, True) if row["ci95"] else "",
                "raised": cells.percent(row["raised"], 0),
                "p": cells.number(row["p_holm"], 4),
                "wrong": row["verdict"] == "unsound",
            }
            for row in probes["edits"]
        ],
        "texts": probes["texts"],
    }


def _pair(ci95: Sequence[float] | None) -> tuple[float, float] | None:
    return None if ci95 is None else (ci95[0], ci95[1])
