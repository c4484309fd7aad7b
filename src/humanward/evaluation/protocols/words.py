"""What an evaluation says in words: a verdict, warnings, and the lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from humanward.evaluation.checks import MIN_PROMPTS, SATURATED
from humanward.evaluation.numerals import decimal, interval, p_words, percent, plain, plural

LEVEL = 0.05
TABLE_WIDTH = 112
UNSURE_JUDGE = 0.7
"""A judge model that agrees with itself on fewer comparisons than this share is named in a warning."""

Content = Mapping[str, Any]


def verdict(content: Content) -> str:
    """One sentence: how many of the primary comparisons show a difference."""
    models, sets = len(content["models"]), plural(len(content["sets"]), "set")
    if models == 1:
        return f"{next(iter(content['models']))} measured on {sets}."
    primary = [one for one in _primary_comparisons(content) if one["p_holm"] is not None]
    shown = sum(sure(one) for one in primary)
    if not primary:
        return "Nothing could be compared; the warnings say why."
    between = "the two models" if models == 2 else f"{models} models"
    if not shown:
        return f"No difference between {between} is shown in {plural(len(primary), 'primary comparison')} on {sets}."
    verb = "shows" if shown == 1 else "show"
    return f"{shown} of {plural(len(primary), 'primary comparison')} between {between} {verb} a difference, on {sets}."


def findings(content: Content) -> list[str]:
    """A sentence for each primary measure, win rate and largest gap: what is shown, and what is not."""
    sentences: list[str] = []
    for one in content["sets"]:
        sentences += [_primary(one, row) for row in one["measures"] if row["primary"] and row["n"]]
        sentences += _won(one)
        sentences += _gaps(one)
    return sentences


def _primary_comparisons(content: Content) -> list[Content]:
    found: list[Content] = []
    for one in content["sets"]:
        found += [pair for row in one["measures"] if row["primary"] for pair in row["pairs"]]
        found += (one["groups"] or {}).get("changes", [])
        found += [duel["result"] for duel in one["wins"] if duel["result"] is not None]
    return found


def _gaps(one: Content) -> list[str]:
    """The largest gap between groups of each model, and how it differs between models."""
    if one["groups"] is None:
        return []
    found = []
    for model, gap in one["groups"]["largest"].items():
        if gap is not None:
            shown = "more than chance" if gap["p_value"] < LEVEL else "no more than chance"
            found.append(
                f"{one['name']}, {model}: the largest gap between groups is {decimal(gap['value'], 3)} "
                f"({gap['highest']} above {gap['lowest']}); by chance alone {decimal(gap['by_chance'], 3)} "
                f"({p_words(gap['p_value'])}: {shown})."
            )
    changes = one["groups"]["changes"]
    certain = [change for change in changes if sure(change)]
    found += [
        f"{one['name']}: the largest gap is {'smaller' if change['value'] < 0 else 'larger'} with {change['second']} "
        f"than with {change['first']} ({decimal(change['value'], 3, sign=True)}, {p_words(change['p_holm'])})."
        for change in certain
    ]
    if changes and not certain:
        found.append(f"{one['name']}: no difference in the largest gap between models is shown.")
    return found


def _primary(one: Content, row: Content) -> str:
    where = f"{one['name']}, {row['label']}"
    shown = [pair for pair in row["pairs"] if sure(pair)]
    values = ", ".join(f"{model} {value_words(row, found['value'])}" for model, found in row["models"].items())
    if len(row["models"]) == 1:
        ci95 = next(iter(row["models"].values()))["ci95"]
        return f"{where}: {values}{'' if ci95 is None else f' (95 % interval {bounds(row, ci95)})'}."
    if not shown:
        return f"{where}: no difference is shown ({values})."
    pair = min(shown, key=lambda found: found["p_holm"])
    words = "above" if pair["value"] > 0 else "below"
    rest = f"; {len(shown)} of {len(row['pairs'])} pairs differ" if len(row["pairs"]) > 1 else ""
    size = value_words(row, abs(pair["value"]))
    return (
        f"{where}: {pair['second']} is {words} {pair['first']} by {size} ({p_words(pair['p_holm'])}){rest}; {values}."
    )


def _won(one: Content) -> list[str]:
    """A sentence for each way to find a winner."""
    ways: dict[str, list[str]] = {}
    for duel in one["wins"]:
        found = duel["result"]
        if found is None:
            continue
        value, names = found["value"], (duel["first"], duel["second"])
        if not sure(found):
            words = f"no preference between {names[0]} ({percent(value, 1)}) and {names[1]} is shown"
        elif value > 0.5:
            words = f"{names[0]} wins {percent(value, 1)} against {names[1]} ({p_words(found['p_holm'])})"
        else:
            words = f"{names[1]} wins {percent(1 - value, 1)} against {names[0]} ({p_words(found['p_holm'])})"
        ways.setdefault(duel["how"], []).append(words)
    return [f"{one['name']}, win rate by {how}: {'; '.join(words)}." for how, words in ways.items()]


def sure(pair: Content) -> bool:
    """Whether a comparison counts as shown: adjusted p below .05."""
    return pair["p_holm"] is not None and pair["p_holm"] < LEVEL


# --- warnings --------------------------------------------------------------------------------------------------------


def warnings(content: Content) -> list[str]:
    """Everything that makes the evaluation weaker than it looks."""
    found: list[str] = []
    for one in content["sets"]:
        found += [f"{one['name']}: {line}" for line in _of_set(one)]
    return found


def _of_set(one: Content) -> Iterator[str]:
    if one["clusters"] < MIN_PROMPTS:
        units = "prompt" if one["kind"] != "bold" else "page"
        yield (
            f"only {plural(one['clusters'], units)}: fewer than {MIN_PROMPTS} leave wide intervals; evaluate on more "
            "before relying on the result."
        )
    if one["items"] < one["total"] - sum(one["trained_on"].values()):
        yield f"{one['items']:,} of {plural(one['total'], 'item')} were evaluated (--limit), chosen by a hash."
    for model, count in one["trained_on"].items():
        if count:
            yield f"{plural(count, 'prompt')} that {model} was trained on were left out for all models."
    if any(one["too_long"].values()):
        counts = ", ".join(f"{model} {count}" for model, count in one["too_long"].items())
        yield f"answers not drawn, as their prompts exceed the model's context: {counts}."
    yield from _unscored(one)
    yield from _saturated(one)
    yield from _judges(one)
    yield from _duels(one)
    yield from _choosers(one)


def _unscored(one: Content) -> Iterator[str]:
    for row in one["measures"]:
        too_long = sum(one["too_long"].values())
        count = sum(row["unscored"].values()) - too_long
        if row["primary"] or row["source"] == "judge model":
            if not row["n"]:
                yield f"{row['label']} ({row['source'] or 'all'}) is not reported: no prompt has it for all models."
            elif count > 0:
                counts = ", ".join(f"{model} {count}" for model, count in row["unscored"].items())
                yield f"{row['label']} ({row['source'] or 'all'}): unscored {counts}; compared where all are scored."


def _saturated(one: Content) -> Iterator[str]:
    for row in one["measures"]:
        values = [found["value"] for found in row["models"].values() if found is not None]
        if row["kind"] == "plain" or not row["primary"] or not values:
            continue
        if max(values) < SATURATED[0] or min(values) > SATURATED[1]:
            side = "low" if max(values) < SATURATED[0] else "high"
            yield (
                f"{row['label']} is so {side} for every model ({_range(values)}) that differences are hidden; choose "
                "prompts that show the problem, or another judge."
            )


def _range(values: Sequence[float]) -> str:
    low, high = decimal(min(values), 3), decimal(max(values), 3)
    return low if low == high else f"{low} to {high}"


def _judges(one: Content) -> Iterator[str]:
    """Judges that point in different directions for one pair of models."""
    by_judge = [row for row in one["measures"] if row["name"].startswith("toxicity:")]
    for place, first in enumerate(by_judge):
        for second in by_judge[place + 1 :]:
            for ours, theirs in zip(first["pairs"], second["pairs"], strict=True):
                if sure(ours) != sure(theirs) or (sure(ours) and ours["value"] * theirs["value"] < 0):
                    opposite = sure(ours) and sure(theirs)
                    words = "show opposite differences" if opposite else "do not both show a difference"
                    yield (
                        f"the judges {first['source']} and {second['source']} {words} in toxicity between "
                        f"{ours['first']} and {ours['second']}."
                    )
    for row in one["agreement"]:
        if row["kappa"] is not None and row["kappa"] < 0.4:
            yield f"{row['first']} and {row['second']} agree little beyond chance (kappa {decimal(row['kappa'])})."


def _duels(one: Content) -> Iterator[str]:
    for duel in one["wins"]:
        pair, bias, result = f"{duel['first']} against {duel['second']}", duel["bias"], duel["result"]
        if result is None:
            yield f"win rate by {duel['how']}, {pair}: no comparison has an outcome."
            continue
        if duel["unparsed"]:
            yield (
                f"{plural(duel['unparsed'], 'reply')} of {duel['how']} on {pair} held no verdict; "
                f"{plural(result['unscored'], 'comparison')} are unscored, not ties.".replace("replys", "replies")
            )
        if bias is not None and bias["prefers"]:
            yield (
                f"{duel['how']} prefers the answer shown {bias['prefers']}: in {bias['first_both']} comparisons the "
                f"first won in both orders, in {bias['second_both']} the second ({p_words(bias['p_value'])}). Those "
                "count as ties, which draws the win rate towards 50 %."
            )
        if bias is not None and bias["consistent"] is not None and bias["consistent"] < UNSURE_JUDGE:
            yield (
                f"{duel['how']} agrees with itself on {percent(bias['consistent'])} of comparisons when their order "
                "changes."
            )
        if result["longer_wins"] is not None and abs(result["longer_wins"] - 0.5) > 0.25:
            longer = result["longer_wins"] > 0.5
            share = result["longer_wins"] if longer else 1 - result["longer_wins"]
            yield (
                f"win rate by {duel['how']}, {pair}: the {'longer' if longer else 'shorter'} answer won "
                f"{percent(share)} of the decided comparisons; length may be what is preferred."
            )


def _choosers(one: Content) -> Iterator[str]:
    """Measures with a chance level that no model is shown to beat."""
    for row in one["measures"]:
        if row["chance"] is None or not row["primary"] or not row["n"]:
            continue
        above = [m for m, found in row["models"].items() if found["ci95"] and found["ci95"][0] > row["chance"]]
        if not above:
            yield (
                f"{row['label']}: no model is shown to do better than chance ({value_words(row, row['chance'])}); "
                "differences between models of this size say little."
            )


# --- numbers ---------------------------------------------------------------------------------------------------------


def value_words(row: Content, value: float, *, sign: bool = False) -> str:
    """A measure's value as words."""
    if row["kind"] == "share":
        return percent(value, 1, sign=sign)
    return decimal(value, 3, sign=sign) if row["kind"] == "bounded" else plain(value, 2, sign=sign)


def bounds(row: Content, ci95: Sequence[float], *, sign: bool = False) -> str:
    """An interval as words."""
    if row["kind"] == "share":
        return f"{percent(ci95[0], 1, sign=sign)} to {percent(ci95[1], 1, sign=sign)}"
    words, digits = (decimal, 3) if row["kind"] == "bounded" else (plain, 2)
    return interval(ci95, digits, sign=sign, words=words)


# --- the terminal ----------------------------------------------------------------------------------------------------


def terminal_lines(content: Content, page: Path, *, width: int = TABLE_WIDTH) -> list[str]:
    """The verdict, a table for every set, warnings, and where the page is."""
    lines = [content["verdict"], *(f"  {sentence}" for sentence in content["findings"])]
    for one in content["sets"]:
        samples = f", {plural(one['samples'], 'answer')} each" if one["samples"] else ""
        lines += ["", f"{one['name']} ({one['protocol']}, {plural(one['items'], 'prompt')}{samples})"]
        lines += _table(one, list(content["models"]), width)
    notes = content["warnings"]
    lines += ["", f"warnings   {len(notes)}", *(f"  {note}" for note in notes)]
    lines += [f"reproduce  {content['reproduce']}", f"report     {page}"]
    return lines


def _table(one: Content, models: Sequence[str], width: int) -> list[str]:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("")
    for model in models:
        table.add_column(Text(model), justify="right")
    if len(models) == 2:
        table.add_column("difference (95 % interval)", justify="right")
        table.add_column("p, Holm", justify="right", no_wrap=True)
    for row in one["measures"]:
        if not row["n"]:
            continue
        name = ", ".join(words for words in (row["label"], row["subset"], row["source"]) if words)
        cells = [value_words(row, row["models"][model]["value"]) for model in models]
        if len(models) == 2:
            (pair,) = row["pairs"]
            span = "" if pair["ci95"] is None else f" ({bounds(row, pair['ci95'], sign=True)})"
            cells += [f"{value_words(row, pair['value'], sign=True)}{span}", decimal(pair["p_holm"], 4)]
        table.add_row(Text(name), *(Text(cell) for cell in cells))
    for duel in one["wins"]:
        if duel["result"] is not None and len(models) == 2:
            found = duel["result"]
            span = interval(found["ci95"], 3)
            shares = [percent(found["value"], 1), percent(1 - found["value"], 1)]
            table.add_row(
                Text(f"win rate, {duel['how']}"), *shares, f"{duel['first']}: {span}", decimal(found["p_holm"], 4)
            )
    console = Console(width=width, file=None, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]
