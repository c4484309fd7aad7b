"""What a reward's evaluation says in words: verdict, findings, warnings, and the lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from humanward.evaluation.checks import MIN_PROMPTS
from humanward.evaluation.numerals import decimal, interval, p_words, percent, plain, plural
from humanward.reward.calibration import LARGEST

TABLE_WIDTH = 112
LARGE_GAP = 0.5
"""Standard deviations between the names of two groups from which a warning is given."""
Content = Mapping[str, Any]
WANTED = {"none": "no change", "not up": "no gain", "down": "a loss"}


def verdict(content: Content) -> str:
    """One sentence on the first set: how often right, and whether that is more than the length of an answer tells."""
    one = content["sets"][0]
    own, length = one["accuracy"], baseline(one, "length")
    low, high = own["ci95"] or (own["value"], own["value"])
    change = length["difference"]
    words = (
        f"In {percent(own['value'], 1)} of {plural(one['pairs'], 'pair')} ({one['name']}) the reward prefers the "
        f"answer that people preferred (95 % interval {percent(low, 1)} to {percent(high, 1)}): "
    )
    if change["ci95"] is not None and change["ci95"][0] > 0:
        return f"{words}{points(change['mean'])} more than choosing by length."
    if change["ci95"] is not None and change["ci95"][1] < 0:
        return f"{words}{points(-change['mean'])} less than choosing by length."
    return f"{words}not shown to be more than choosing by length ({percent(length['value'], 1)})."


def findings(content: Content) -> list[str]:
    """A sentence for each further set, calibration, learning curve and family of probes."""
    found = [_set(one) for one in content["sets"][1:]]
    found += [_calibration(one) for one in content["sets"][:1]]
    found += [sentence for one in content["sets"] for sentence in _ends(one)]
    if content["learning_curve"] is not None:
        found.append(_curve(content["learning_curve"]))
    if content["probes"] is not None:
        found += _probes(content["probes"])
    return found


def warnings(content: Content) -> list[str]:
    """Everything that makes the evaluation weaker than it looks."""
    found = [f"{one['name']}: {line}" for one in content["sets"] for line in _of_set(one)]
    if content["probes"] is not None:
        found += [
            f"Probe {row['name']}: the score changes by {sd(row['mean'])} ({sd_interval(row['ci95'])}) where "
            f"{WANTED[row['wanted']]} is wanted; a policy trained on this reward will follow it."
            for row in content["probes"]["edits"]
            if row["verdict"] == "unsound"
        ]
        gap = content["probes"]["identities"]["largest_gap"]
        if gap is not None and gap > LARGE_GAP:
            rows = content["probes"]["identities"]["rows"]
            found.append(
                f"Names of groups: {rows[-1]['name']} costs {sd(gap, sign=False)} against {rows[0]['name']} in the "
                "same answer; a policy trained on this reward will speak of groups unequally."
            )
    return [*content["independence"], *found]


def _of_set(one: Content) -> Iterator[str]:
    if one["prompts"] < MIN_PROMPTS:
        yield f"only {plural(one['prompts'], 'prompt')}: fewer than {MIN_PROMPTS} leave wide intervals."
    if one["evaluated"] < one["total"]:
        yield f"{one['evaluated']:,} of {plural(one['total'], 'pair')} were used (--limit), chosen by a hash."
    if one["unscored"]:
        yield f"{plural(one['unscored'], 'pair')} could not be scored and are left out."
    if one["equal_scores"]:
        yield f"{plural(one['equal_scores'], 'pair')} have two equal scores; each counts one half."
    for name, count in (("pairs of two identical texts", one["identical"]), ("repeated pairs", one["duplicates"])):
        if count:
            yield f"{count:,} {name} were left out."
    after = one["calibration"]["after"]
    if not after["inside"]:
        yield (
            f"the probabilities do not come true: expected calibration error {decimal(after['ece'], 3)}, a calibrated "
            f"reward would have at most {decimal(after['band'][1], 3)}."
        )


def _set(one: Content) -> str:
    own, length = one["accuracy"], baseline(one, "length")
    mean = "" if one["subset_mean"] is None else f", mean over its subsets {percent(one['subset_mean'], 1)}"
    return (
        f"{one['name']}: right in {percent(own['value'], 1)} of {plural(one['pairs'], 'pair')} "
        f"({within(own['ci95'])}){mean}; by length {percent(length['value'], 1)} (difference "
        f"{points(length['difference']['mean'], sign=True)}, {p_words(length['difference']['p_value'])})."
    )


def _calibration(one: Content) -> str:
    found = one["calibration"]
    before, after = found["before"], found["after"]
    if found["temperature"] > 0.9 * LARGEST:
        return (
            f"Calibration: expected error {decimal(before['ece'], 3)} as scored; no temperature helps, as a larger "
            "difference of its scores does not mean that people agree more often."
        )
    comes = "inside" if after["inside"] else "outside"
    return (
        f"Calibration: expected error {decimal(before['ece'], 3)} as scored, {decimal(after['ece'], 3)} with "
        f"temperature {plain(found['temperature'], 2)}, {comes} the band of a perfectly calibrated reward "
        f"({interval(after['band'], 3)})."
    )


def _ends(one: Content) -> list[str]:
    """The best and the worst of four or more subsets."""
    known = sorted((row for row in one["by_subset"] if row["value"] is not None), key=lambda row: row["value"])
    if len(known) < 3:
        return []
    low, high = known[0], known[-1]
    return [
        f"{one['name']}: weakest on {low['name']} ({percent(low['value'], 0)} of {low['n']}), strongest on "
        f"{high['name']} ({percent(high['value'], 0)} of {high['n']})."
    ]


def _curve(curve: Content) -> str:
    gain, last = curve["per_doubling"], curve["points"][-1]
    size = (
        f"{points(gain['mean'], sign=True)} of accuracy for twice the pairs ({within(gain['ci95'], points_too=True)})"
    )
    words = {
        "yes": "More labelling is worth it",
        "no": "More labelling of this kind is hardly worth it",
        "unsure": "Whether more labelling helps cannot be told from this",
    }[curve["worth"]]
    return f"{words}: {size}, up to {plural(last['pairs'], 'pair')}."


def _probes(probes: Content) -> list[str]:
    found = []
    for family in dict.fromkeys(row["family"] for row in probes["edits"]):
        rows = [row for row in probes["edits"] if row["family"] == family]
        wrong = [row for row in rows if row["verdict"] == "unsound"]
        sound = all(row["verdict"] == "sound" for row in rows)
        worst = max(wrong or rows, key=lambda row: abs(row["mean"] or 0))
        told = f"{worst['name']} changes the score by {sd(worst['mean'])} ({sd_interval(worst['ci95'])})"
        state = "sound" if sound else "not sound" if wrong else "not sure"
        found.append(f"Probes of {family}: {state}; {told}.")
    rows = probes["identities"]["rows"]
    if rows:
        high, low = rows[0], rows[-1]
        found.append(
            f"Names of groups: from {sd(low['mean'])} ({low['name']}) to {sd(high['mean'])} ({high['name']}) against "
            f"the same answer without one, a gap of {sd(probes['identities']['largest_gap'], sign=False)}."
        )
    return found


# --- numbers ---------------------------------------------------------------------------------------------------------


def baseline(one: Content, name: str) -> Content:
    """A set's baseline by name."""
    return next(row for row in one["baselines"] if row["name"] == name)


def points(share: float, *, sign: bool = False) -> str:
    """``+4.7 points``."""
    return f"{plain(100 * share, 1, sign=sign)} points"


def within(ci95: Sequence[float] | None, *, points_too: bool = False) -> str:
    """``58.0 % to 62.3 %``, or points with a sign."""
    if ci95 is None:
        return "no interval"
    if points_too:
        return f"95 % interval {plain(100 * ci95[0], 1, sign=True)} to {plain(100 * ci95[1], 1, sign=True)}"
    return f"{percent(ci95[0], 1)} to {percent(ci95[1], 1)}"


def sd(value: float | None, *, sign: bool = True) -> str:
    """``+0.21 sd``."""
    return "not measured" if value is None else f"{plain(value, 2, sign=sign)} sd"


def sd_interval(ci95: Sequence[float] | None) -> str:
    """``+0.10 to +0.30``."""
    return "no interval" if ci95 is None else f"{plain(ci95[0], 2, sign=True)} to {plain(ci95[1], 2, sign=True)}"


# --- terminal --------------------------------------------------------------------------------------------------------


def terminal_lines(content: Content, page: Path) -> list[str]:
    """The verdict, a table a set, findings, warnings, and where the page is."""
    console = Console(width=TABLE_WIDTH, record=True, file=open_nowhere(), color_system=None)
    for one in content["sets"]:
        console.print(_table(one))
    lines = [content["verdict"], "", *console.export_text().rstrip().splitlines(), ""]
    lines += [f"- {sentence}" for sentence in content["findings"]]
    lines += [f"warning: {sentence}" for sentence in content["warnings"]]
    return [*lines, f"page: {page}"]


def open_nowhere() -> Any:
    """A file that keeps nothing."""
    import io

    return io.StringIO()


def _table(one: Content) -> Table:
    table = Table(title=f"{one['name']}: {one['pairs']:,} pairs of {one['prompts']:,} prompts", title_justify="left")
    for name, right in (("", False), ("right", True), ("95 % interval", True), ("reward less it", True), ("n", True)):
        table.add_column(name, justify="right" if right else "left")
    own = one["accuracy"]
    table.add_row("reward", percent(own["value"], 1), within(own["ci95"]), "", f"{own['n']:,}")
    for row in one["baselines"]:
        change = row["difference"]
        table.add_row(
            Text(row["name"]),
            percent(row["value"], 1),
            within(row["ci95"]),
            f"{plain(100 * change['mean'], 1, sign=True)} ({p_words(change['p_value'])})",
            f"{row['n']:,}",
        )
    for key, title in GROUPS:
        known, few = told_apart(one[key])
        if one[key]:
            table.add_section()
        for row in known:
            table.add_row(
                Text(f"{title} {row['name'] or '(none)'}"),
                percent(row["value"], 1),
                within(row["ci95"]),
                "",
                f"{row['n']:,}",
            )
        if few:
            table.add_row(Text(f"{title} {len(few)} with too few pairs"), "", "", "", f"{sum(r['n'] for r in few):,}")
    return table


def told_apart(rows: Sequence[Content]) -> tuple[list[Content], list[Content]]:
    """(groups that have a number, those with too few pairs for one)."""
    return [row for row in rows if row["value"] is not None], [row for row in rows if row["value"] is None]


GROUPS = (
    ("by_subset", "subset"),
    ("by_criterion", "criterion"),
    ("by_agreement", "annotators:"),
    ("by_graded_margin", "people's"),
    ("by_margin", "score difference:"),
)
