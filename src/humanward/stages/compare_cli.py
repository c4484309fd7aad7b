"""``humanward compare``: several algorithms from one start, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file of a run; without it, the embedded demo model")
    ] = None,
    algorithms: Annotated[
        str | None,
        typer.Option(help="names with commas, or all; default: the file's [algorithms] tables, else ppo,rloo,dpo"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds, counted from the configuration's")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", help="the comparison's folder; default runs/compare, or compare-NAME")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at once; times are comparable only with the same number")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="override, section.key=value; may be repeated")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable results on standard output")] = False,
) -> None:
    """Compare algorithms on the same start, preferences and budget over several seeds.

    Continues where it stopped; more algorithms or seeds extend a folder that is there.

    Example: humanward compare --algorithms ppo,rloo,dpo --seeds 5 --out runs/compare
    """
    from humanward.evaluation.compare_words import terminal_lines
    from humanward.progress import Reporter
    from humanward.stages.compare import run_compare
    from humanward.stages.compare_plan import read_plan
    from humanward.stages.compare_report import PAGE

    plan = read_plan(config, algorithms, seeds, tuple(set_ or ()))
    folder = out or Path("runs") / ("compare" if config is None else f"compare-{config.stem}")
    given = [*([str(config)] if config else ()), *(word for one in set_ or () for word in ("--set", one))]
    content = run_compare(plan, folder, jobs=jobs, reporter=Reporter(quiet=as_json), given=given)
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        for line in terminal_lines(content, folder / PAGE):
            typer.echo(line)
    if any(run["state"] == "failed" for run in content["runs"]):
        raise typer.Exit(1)
