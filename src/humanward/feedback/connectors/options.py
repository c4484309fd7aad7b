"""The options that the commands of both connectors share, and how their results are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from humanward.errors import InputError
from humanward.feedback.connectors.aws import Request

Run = Annotated[Path, typer.Option("--run", help="The run directory.", file_okay=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Region = Annotated[str | None, typer.Option("--region", help="AWS region; default: the team's, or boto3's own.")]
Profile = Annotated[str | None, typer.Option("--profile", help="A profile of boto3's; default: boto3's own choice.")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Look again, with growing pauses, for so many seconds.")]
Team = Annotated[str, typer.Option("--team", help="ARN of the work team: private, vendor or public.")]
Role = Annotated[str, typer.Option("--role", help="ARN of the IAM role that SageMaker works with.")]
S3 = Annotated[str, typer.Option("--s3", help="s3://BUCKET/PREFIX in the team's region, for input and output.")]
Name = Annotated[str | None, typer.Option("--name", help="How names begin; default: the run directory's name.")]
Criterion = Annotated[
    list[str] | None, typer.Option("--criterion", help="What is ranked by; may be repeated; default: overall.")
]
Ties = Annotated[bool, typer.Option("--ties/--no-ties", help="Whether answers may share a rank.")]
Guidelines = Annotated[
    Path | None, typer.Option("--guidelines", help="Markdown for the workers; default: those of the criteria.")
]
Title = Annotated[str, typer.Option("--title", help="What workers see in their list of tasks.")]
Description = Annotated[str, typer.Option("--description", help="One line below the title.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Publish so many prompts, the first ones.")]
TimeLimit = Annotated[int, typer.Option("--time-limit", help="Seconds that a worker has for one prompt.")]
Availability = Annotated[
    int | None, typer.Option("--availability", help="Seconds that a prompt waits for workers; default: AWS's.")
]
Price = Annotated[str | None, typer.Option("--price", help="US dollars a task, for Mechanical Turk alone.")]
Pii = Annotated[bool, typer.Option("--free-of-pii", help="You declare: no personal data in prompts and answers.")]
Adult = Annotated[bool, typer.Option("--free-of-adult-content", help="You declare: nothing for adults only.")]
KmsKey = Annotated[str | None, typer.Option("--kms-key", help="KMS key that encrypts input and output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print every request as JSON and send none.")]
RenderCheck = Annotated[
    bool, typer.Option("--render-check/--no-render-check", help="Have AWS render hostile texts first; stop if unsafe.")
]
From = Annotated[
    list[Path] | None, typer.Option("--from", help="Read downloaded files instead of AWS; may be repeated.")
]
AddPrompts = Annotated[
    bool, typer.Option("--add-prompts", help="Take prompts and answers that the run does not know into it.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out answers that cannot be read, and report them.")]
FlatCriterion = Annotated[
    str | None, typer.Option("--criterion", help="What an answer without a criterion ranks by; default: overall.")
]


def read_guidelines(path: Path | None) -> str | None:
    """The text of the file; raises InputError where it cannot be read or is empty."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"--guidelines {str(path)!r}: cannot be read ({reason}); name a Markdown file") from None
    if not text.strip():
        raise InputError(f"--guidelines {str(path)!r}: is empty; write what workers should heed")
    return text


def show_requests(requests: list[Request], as_json: bool) -> None:
    """Print the requests of a dry run as one JSON object."""
    value = {"dry_run": True, "requests": [request.as_json() for request in requests]}
    typer.echo(json.dumps(value, ensure_ascii=False, indent=None if as_json else 2))


def show(summary: dict[str, Any], as_json: bool) -> None:
    """Print a summary: one JSON object, or a table with a row a value."""
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None)
    for name, value in _rows(summary):
        table.add_row(name.replace("_", " "), escape(str(value)))
    Console().print(table)


def tell(lines: list[str], what: str) -> None:
    """Print reasons on standard error."""
    console = Console(stderr=True)
    for line in lines:
        console.print(f"{what}: {escape(line)}", highlight=False, soft_wrap=True)


def _rows(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in summary.items():
        if isinstance(value, list):
            for part in value:
                rows += _rows(part) if isinstance(part, dict) else [(name, part)]
        elif isinstance(value, dict):
            rows += [(f"{name} {key}", part) for key, part in value.items()]
        else:
            rows.append((name, value))
    return rows
