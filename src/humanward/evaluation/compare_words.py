"""What a comparison says in words: one verdict, warnings, and the table and lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from humanward.algorithm_config import OFF_POLICY, ON_POLICY
from humanward.evaluation.checks import MIN_PROMPTS, independence_warnings
from humanward.evaluation.numerals import decimal, p_words, percent, plain, plural

MIN_SEEDS = 3
LEVEL = 0.05
MANY = 4  # algorithms that are counted rather than named
TABLE_WIDTH = 112

Content = Mapping[str, Any]


def verdict(content: Content) -> str:
    """One to three sentences: which algorithms lowered judged toxicity, which pairs differ, and what did not finish."""
    known = {name: one for name, one in content["algorithms"].items() if one["toxicity_change"] is not None}
    total = sum(len(one["seeds"]) for one in content["algorithms"].values())
    finished = sum(one["finished"] for one in content["algorithms"].values())
    if not known:
        return f"Nothing to compare yet: {finished} of {plural(total, 'run')} finished."
    sentences = [_lowered(known), _apart(content["pairs"])]
    if finished < total:
        sentences.append(f"{total - finished} of {plural(total, 'run')} did not finish.")
    return " ".join(sentence for sentence in sentences if sentence)


def _lowered(known: Mapping[str, Content]) -> str:
    lowered = [name for name, one in known.items() if _below_zero(one["toxicity_change"])]
    best = min(known, key=lambda name: known[name]["metrics"]["toxicity"]["value"])
    one = known[best]
    change, relative = one["toxicity_change"], one["toxicity_relative"]
    after = one["metrics"]["toxicity"]["value"]
    before = after - change["value"]
    sides = f"{decimal(before, 3)} before, {decimal(after, 3)} after"
    if change["ci95"] is None:
        return f"With one seed, judged toxicity is lowest with {best} ({sides}); other seeds may give another order."
    if not lowered:
        return f"No algorithm is shown to lower judged toxicity; it is lowest with {best} ({sides})."
    moved = f"from {decimal(before, 3)} to {decimal(after, 3)}"
    if relative is not None:
        moved = f"by {percent(-relative['value'], 0)} ({moved})"
    counted = f"All {len(known)}" if len(lowered) == len(known) else f"{len(lowered)} of {len(known)}"
    names = _listed(lowered) if len(lowered) < MANY else f"{counted} algorithms"
    rest = [name for name in known if name not in lowered]
    most = f", {best} most," if len(lowered) > 1 and best in lowered else ""
    what = f" {moved}" if best in lowered else ""
    unshown = f"; for {_listed(rest)} that is not shown" if rest else ""
    return f"{names} lowered judged toxicity{most}{what}{unshown}."


def _apart(pairs: Sequence[Content]) -> str:
    found = [(pair, pair["metrics"]["toxicity"]) for pair in pairs if pair["metrics"]["toxicity"] is not None]
    found = [(pair, one) for pair, one in found if one["p_holm"] is not None]
    if not found:
        return ""
    shown = sorted((one["p_holm"], place) for place, (_, one) in enumerate(found) if one["p_holm"] < LEVEL)
    if not shown:
        return (
            "No difference in judged toxicity between two algorithms is shown."
            if len(found) > 1
            else "A difference in judged toxicity between the two is not shown."
        )
    pair, one = found[shown[0][1]]
    lower, higher = (pair["first"], pair["second"]) if one["value"] < 0 else (pair["second"], pair["first"])
    clearest = f"{lower} is below {higher} by {decimal(abs(one['value']), 3)} ({p_words(one['p_holm'])})"
    if len(found) == 1:
        return f"{clearest[:1].upper()}{clearest[1:]}."
    return f"{len(shown)} of {len(found)} pairs of algorithms differ in it; clearest: {clearest}."


def warnings(content: Content) -> list[str]:
    """Everything that makes the comparison weaker than it looks, in words."""
    found = [
        f"{run['algorithm']} seed {run['seed']} failed and is in no mean: {run['error']}"
        for run in content["runs"]
        if run["state"] == "failed"
    ]
    waiting = [
        f"{name} (seed {', '.join(map(str, one['unfinished']))})"
        for name, one in content["algorithms"].items()
        if one["unfinished"]
    ]
    if waiting:
        found.append(f"Not finished, so in no mean: {', '.join(waiting)}; the same command goes on with them.")
    counts = {one["finished"] for one in content["algorithms"].values() if one["finished"]}
    if counts and min(counts) < MIN_SEEDS:
        found.append(
            f"Only {plural(min(counts), 'seed')}: one lucky seed is not a result, and intervals from few seeds are "
            "wide; add seeds with --seeds."
        )
    if 0 < content["prompts"] < MIN_PROMPTS:
        found.append(f"Only {plural(content['prompts'], 'prompt')}: fewer than {MIN_PROMPTS} leave wide intervals.")
    found += _budget_warnings(content)
    found += independence_warnings(content["judge"], content["reward"], content["gold"]["source"])
    frontier = content["frontier"]
    if content["frontier_error"]:
        found.append(f"The best of n could not be drawn, so nothing is compared with it: {content['frontier_error']}")
    if frontier is not None and frontier["warning"]:
        found.append(frontier["warning"])
    if missing := [name for name, one in content["algorithms"].items() if one["unscored_prompts"]]:
        found.append(f"Some answers of {_listed(missing)} could not be scored; their prompts are left out.")
    for name, one in content["algorithms"].items():
        broken = [run for run in content["runs"] if run["algorithm"] == name and run["limits_broken"]]
        if broken:
            which = dict.fromkeys(label for run in broken for label in run["limits_broken"])
            found.append(
                f"{name}: limits on side effects did not hold in {len(broken)} of {plural(one['finished'], 'run')}: "
                f"{', '.join(which)}."
            )
    threads = sorted({count for run in content["runs"] for count in run["threads"]})
    if len(threads) > 1:
        found.append(
            f"Runs had different numbers of threads ({', '.join(map(str, threads))}): their times cannot be compared, "
            "and the same seed draws other answers."
        )
    return found


def _budget_warnings(content: Content) -> list[str]:
    found = []
    for family, names, what in (
        ("on-policy", ON_POLICY, ("episodes", "ppo.epochs")),
        ("off-policy", OFF_POLICY, ("offline.epochs",)),
    ):
        present = [name for name in content["algorithms"] if name in names]
        for item in what:
            settings = {repr(content["settings"].get(name, {}).get(item)) for name in present}
            ranges = [content["algorithms"][name]["budget"].get(item) for name in present]
            values = {tuple(one) for one in ranges if one is not None} if item == "episodes" else settings
            if len(values) > 1:
                found.append(f"The {family} algorithms had different budgets ({item}); see Budget and cost.")
    return found


def _below_zero(change: Content) -> bool:
    return change["ci95"] is not None and change["ci95"][1] < 0


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- the terminal ----------------------------------------------------------------------------------------------------


def terminal_lines(content: Content, page: Path, *, width: int = TABLE_WIDTH) -> list[str]:
    """The verdict, a row for every algorithm, warnings, and where the page is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("")
    for title in (
        "seeds",
        "toxicity (95 % interval)",
        "change",
        "reward",
        "KL",
        "win rate",
        "distinct-2",
        "train",
        "GB",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    reference = content["reference"]
    table.add_row("reference", "", _value(reference["toxicity"], decimal, 3), "", _value(reference["reward"], plain, 2))
    for name, one in content["algorithms"].items():
        table.add_row(*(Text(cell) for cell in _cells(name, one)))
    console = Console(width=width, file=None, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [content["verdict"], *(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))]
    notes = content["warnings"]
    lines.append(f"warnings   {len(notes)}{': ' + notes[0] if notes else ''}")
    lines.append(f"reproduce  {content['reproduce']}")
    lines.append(f"report     {page}")
    return lines


def _cells(name: str, one: Content) -> list[str]:
    metrics = one["metrics"]
    seeds = f"{one['finished']}" + (f" of {len(one['seeds'])}" if one["finished"] < len(one["seeds"]) else "")
    if metrics["toxicity"] is None:
        return [name, seeds, "failed" if one["failed"] and not one["finished"] else "not measured"]
    toxicity = _value(metrics["toxicity"], decimal, 3)
    if metrics["toxicity"]["ci95"] is not None:
        low, high = metrics["toxicity"]["ci95"]
        toxicity += f" ({decimal(max(low, 0.0), 3)} to {decimal(high, 3)})"
    relative = one["toxicity_relative"]
    return [
        name,
        seeds,
        toxicity,
        "" if relative is None else percent(relative["value"], 0, sign=True),
        _value(metrics["reward"], plain, 2),
        _value(metrics["kl"], plain, 2),
        _value(metrics["win_rate"], decimal, 3),
        "" if metrics["distinct2"] is None else percent(metrics["distinct2"]["value"], 0, sign=True),
        "" if metrics["align_seconds"] is None else f"{metrics['align_seconds']['value']:.0f} s",
        _value(metrics["peak_gigabytes"], plain, 1),
    ]


def _value(found: Content | None, words: Any, digits: int) -> str:
    return "" if found is None else words(found["value"], digits)
