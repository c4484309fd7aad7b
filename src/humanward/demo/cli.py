"""``humanward demo``: rebuilds the embedded default."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The embedded default: where it lies and how it is rebuilt.")


@app.callback()
def demo() -> None:
    """The embedded default: where it lies and how it is rebuilt."""


@app.command()
def build(
    data: Annotated[Path, typer.Option(help="Folder with one sub-folder for each data set.")],
    out: Annotated[Path, typer.Option(help="Folder that receives policy/, detector/, judge/, prompts/, metrics.json.")],
    part: Annotated[
        list[str] | None, typer.Option(help="detectors, policy or prompts; repeatable; default all.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Continue from this policy instead of starting from nothing.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Wall-clock minutes of policy training.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Added to every seed of the recipe.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Metrics as JSON on standard output.")] = False,
) -> None:
    """Rebuild the embedded default from public data sets (docs/demo.md lists them).

    Example: humanward demo build --data data --out build/demo --part detectors
    """
    from humanward.demo.recipe import PARTS
    from humanward.demo.recipe import build as build_recipe

    start = time.monotonic()

    def log(line: str) -> None:
        print(f"[{time.monotonic() - start:6.0f} s] {line}", file=sys.stderr, flush=True)

    metrics = build_recipe(data, out, parts=part or PARTS, init=init, minutes=minutes, seed=seed, log=log)
    print(json.dumps(metrics) if as_json else f"wrote {out}; metrics in {out / 'metrics.json'}")
