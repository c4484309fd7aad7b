"""``humanward feedback import | export | stats | rank`` on the files of a run directory; the connectors' commands."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from humanward.errors import InputError
from humanward.feedback.connectors.commands import a2i_app, ground_truth_app
from humanward.feedback.files import (
    PROMPTS,
    RANKINGS,
    Feedback,
    merge,
    read_feedback,
    read_records,
    write_feedback,
)
from humanward.feedback.formats import FORMATS, export_file, import_files
from humanward.feedback.quality.gold import Gold
from humanward.feedback.quality.report import QualityReport, quality_report
from humanward.feedback.statistics import Estimate, FeedbackStatistics, PositionBias
from humanward.feedback.store_commands import (
    check_place,
    export_from_db,
    import_into_db,
    place_of,
    rankings_of_db,
)
from humanward.feedback.terminal import rank_in_terminal
from humanward.labels import derive_labels
from humanward.preferences import PreferenceSet, derive_preferences
from humanward.prompts import parse_fractions, split_prompts
from humanward.records import Ranking

app = typer.Typer(
    help="Import, export, collect and compare human rankings.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(ground_truth_app, name="ground-truth")
app.add_typer(a2i_app, name="a2i")

Run = Annotated[Path, typer.Option("--run", help="The run directory.", file_okay=False)]
RunOrNone = Annotated[Path | None, typer.Option("--run", help="The run directory.", file_okay=False)]
Db = Annotated[
    str | None, typer.Option("--db", help="Instead of --run: a store, sqlite:///FILE or postgresql://USER@HOST/NAME.")
]
Project = Annotated[str, typer.Option("--project", help="With --db: the project; may be left out if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
_READ = ", ".join(FORMATS)
_WRITTEN = ", ".join(name for name, form in FORMATS.items() if form.write)


@app.command("import")
def import_command(
    files: Annotated[list[Path], typer.Argument(help="The files; .gz is read as it is.", show_default=False)],
    run: RunOrNone = None,
    db: Db = None,
    project: Project = "",
    format: Annotated[str, typer.Option("--format", help=f"auto, or one of {_READ}.")] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out and report them.")] = False,
    split: Annotated[
        str, typer.Option("--split", help="Shares of the splits, by prompt; a split in the file stays.")
    ] = "train=0.8,validation=0.1,test=0.1",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the split.")] = 0,
    criterion: Annotated[
        list[str] | None, typer.Option("--criterion", help="With --db: what a new project asks for; may be repeated.")
    ] = None,
    uncertainty: Annotated[
        Path | None,
        typer.Option(help='With --db: JSON lines of {"prompt_id", "uncertainty"}; the most uncertain are asked first.'),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read preference files into a run directory or a store; the same file again adds nothing.

    Example: humanward feedback import --format hh-rlhf pairs.jsonl.gz --run runs/mine
    """
    check_place(run, db)
    fractions = parse_fractions(split)
    console = Console(stderr=True)
    if db is not None:
        with console.status(f"reading {', '.join(path.name for path in files)}"):
            added, reasons = import_into_db(
                files, db, project, format, skip_bad=skip_bad, criteria=criterion or (), uncertainty=uncertainty
            )
        for reason in reasons:
            console.print(f"left out: {escape(reason)}", highlight=False, soft_wrap=True)
        _print(added, as_json)
        return
    assert run is not None
    with console.status(f"reading {', '.join(path.name for path in files)}"):
        result = import_files(files, format, skip_bad=skip_bad)
        old = read_feedback(run, rankings=False) if (run / PROMPTS).exists() else Feedback()
        both = merge(old, result.feedback)
        both = dataclasses.replace(both, prompts=split_prompts(both.prompts, fractions, seed))
        preferences = _derive(both)
        labels = derive_labels(both.prompts, both.completions, both.ratings)
        write_feedback(run, both, preferences, labels)
    for reason in result.bad:
        console.print(f"left out: {escape(reason)}", highlight=False, soft_wrap=True)
    summary = {
        "run": str(run),
        "rows": result.rows,
        "good": result.rows - result.bad_rows,
        "bad": result.bad_rows,
        "prompts": len(both.prompts),
        "completions": len(both.completions),
        "rankings": len(both.rankings),
        "new_rankings": len(both.rankings) - len(old.rankings),
        "pairs": preferences.pairs,
        "ties": preferences.ties,
        "identical": preferences.identical,
        "ratings": len(both.ratings),
        "labels": len(labels.labels),
        "desirable": labels.desirable,
        "splits": {name: sum(p.split == name for p in both.prompts) for name in fractions},
        "notes": result.notes,
    }
    _print(summary, as_json)


@app.command("export")
def export_command(
    output: Annotated[Path, typer.Option("--output", help="The file to write.", dir_okay=False)],
    run: RunOrNone = None,
    db: Db = None,
    project: Project = "",
    format: Annotated[str, typer.Option("--format", help=f"One of {_WRITTEN}.")] = "humanward",
    as_json: Json = False,
) -> None:
    """Write the prompts, completions and rankings of a run directory or a store in another tool's format.

    Example: humanward feedback export --run runs/mine --format trl --output pairs.jsonl
    """
    db, project = place_of(run, db, project)
    if db is not None:
        result = export_from_db(output, db, project, format)
    else:
        assert run is not None
        result = export_file(output, format, read_feedback(run))
    _print({"output": str(output), **vars(result)}, as_json)


@app.command("stats")
def stats_command(
    run: RunOrNone = None,
    db: Db = None,
    project: Project = "",
    resamples: Annotated[int, typer.Option("--resamples", min=100, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Agreement, reliability, position bias and speed of the annotators of a run directory or a store.

    Example: humanward feedback stats --run runs/mine
    """
    db, project = place_of(run, db, project)
    rankings, gold, place = _rankings(run, db, project)
    if not rankings:
        raise InputError(f"{place}: holds no rankings; collect or import some")
    with Console(stderr=True).status("comparing annotators"):
        report = quality_report(rankings, gold, resamples=resamples, seed=seed)
    if as_json:
        content = report.as_json()
        # The statistics stand at the top, where they have always been.
        whole = content.pop("statistics")
        typer.echo(json.dumps({**whole, "quality": content}, ensure_ascii=False, allow_nan=False))
    else:
        for table in quality_tables(report):
            Console().print(table)


@app.command("rank")
def rank_command(
    run: Run,
    annotator: Annotated[str, typer.Option("--annotator", help="Your name, kept with your rankings.")] = "me",
    criterion: Annotated[str, typer.Option("--criterion", help="What to rank by.")] = "overall",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many prompts.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order in which answers are shown.")] = 0,
    as_json: Json = False,
) -> None:
    """Rank the completions of a run directory in the terminal; prompts that you ranked before are not shown again.

    Example: humanward feedback rank --run runs/mine --annotator ada --limit 10
    """
    feedback = read_feedback(run, rankings=False)
    session = rank_in_terminal(
        feedback.prompts,
        feedback.completions,
        run / RANKINGS,
        annotator=annotator,
        criterion=criterion,
        limit=limit,
        seed=seed,
        console=Console(stderr=as_json),
    )
    summary: dict[str, Any] = {"run": str(run), "ranked": session.ranked, "remaining": session.remaining}
    if (run / RANKINGS).exists():
        preferences = _derive(read_feedback(run))
        summary |= {"pairs": preferences.pairs, "ties": preferences.ties}
    _print(summary, as_json)


def quality_tables(report: QualityReport) -> list[Table]:
    """The report as tables: the whole, one row an annotator, and the warnings if there are any."""
    whole, people = statistics_tables(report.statistics)
    trust = Table(title="Reliability", title_justify="left")
    for column in ("annotator", "reliability", "95 % interval", "accuracy", "gold", "gold items"):
        trust.add_column(column, justify="left" if column == "annotator" else "right")
    for person in report.annotators:
        value, interval, _ = _estimate_cells(person.reliability)
        gold, _, items = _estimate_cells(person.gold)
        name = escape(person.annotator or "(no name)")
        trust.add_row(name, value, interval, _number(person.accuracy), gold, items)
    tables = [whole, people, trust]
    if any(person.warnings for person in report.annotators):
        notices = Table(title="Worth a look", title_justify="left")
        notices.add_column("annotator")
        notices.add_column("what was seen")
        for person in report.annotators:
            for notice in person.warnings:
                notices.add_row(escape(person.annotator or "(no name)"), notice.message)
        tables.append(notices)
    return tables


def statistics_tables(statistics: FeedbackStatistics) -> list[Table]:
    """The statistics as two tables: the whole, and one row an annotator."""
    whole = Table(title="Rankings", title_justify="left")
    whole.add_column("")
    whole.add_column("value", justify="right")
    whole.add_column("95 % interval", justify="right")
    whole.add_column("prompts", justify="right")
    simulated = f" ({statistics.simulated} simulated)" if statistics.simulated else ""
    for name, count in (
        (f"rankings{simulated}", statistics.rankings),
        ("prompts", statistics.prompts),
        ("prompts ranked more than once", statistics.prompts_with_overlap),
        ("none acceptable", statistics.none_acceptable),
        ("strict pairs", statistics.pairs),
        ("ties", statistics.ties),
    ):
        whole.add_row(name, str(count), "", "")
    for name, estimate in (
        ("Krippendorff's alpha (ordinal)", statistics.alpha),
        ("Kendall's W", statistics.kendall_w),
        ("agreement on pairs, ties counted", statistics.agreement),
        ("agreement on pairs that neither tied", statistics.agreement_strict),
    ):
        whole.add_row(name, *_estimate_cells(estimate))
    people = Table(title="Annotators", title_justify="left")
    for column in ("annotator", "rankings", "ties", "agreement", "first is best", "if fair", "p", "median seconds"):
        people.add_column(column, justify="left" if column == "annotator" else "right")
    for person in statistics.annotators:
        name = (person.annotator or "(no name)") + (" (simulated)" if person.simulated else "")
        people.add_row(
            escape(name),
            str(person.rankings),
            _number(person.tie_share),
            _number(person.agreement),
            *_position_cells(person.position),
            _number(person.median_seconds, ".1f"),
        )
    return [whole, people]


def _rankings(run: Path | None, db: str | None, project: str) -> tuple[list[Ranking], Gold, str]:
    """All rankings, the gold items, and where they are."""
    if db is not None:
        return rankings_of_db(db, project)
    assert run is not None
    return [ranking for _, ranking in read_records(run / RANKINGS, Ranking)], {}, str(run / RANKINGS)


def _derive(feedback: Feedback) -> PreferenceSet:
    return derive_preferences(feedback.prompts, feedback.completions, feedback.rankings, locations=feedback.locations)


def _estimate_cells(estimate: Estimate) -> Sequence[str]:
    interval = "–" if estimate.ci95 is None else f"{estimate.ci95[0]:.3f} to {estimate.ci95[1]:.3f}"
    return _number(estimate.value), interval, str(estimate.n)


def _position_cells(position: PositionBias) -> Sequence[str]:
    return _number(position.first_share), _number(position.expected), _number(position.p_value)


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def _print(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None)
    for name, value in summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
        table.add_row(name.replace("_", " "), escape(str(value)))
    Console().print(table)
