"""``humanward feedback ground-truth | a2i``, each with publish, status and import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status

from humanward.errors import InputError
from humanward.feedback.connectors import a2i, ground_truth, options
from humanward.feedback.connectors.answers import Answers
from humanward.feedback.connectors.aws import Aws
from humanward.feedback.connectors.items import Finder, Items, build_items
from humanward.feedback.connectors.limits import FLOW, FLOW_FORM, LABEL, LABEL_FORM, check_form
from humanward.feedback.connectors.polling import poll
from humanward.feedback.connectors.record import (
    Publication,
    merge_into_run,
    read_publications,
    read_run,
    write_publication,
)
from humanward.feedback.connectors.settings import DESCRIPTION, TITLE, Settings, check_settings, default_name
from humanward.feedback.connectors.template import render_template

ground_truth_app = typer.Typer(
    help="Have a SageMaker Ground Truth work team rank the completions of a run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
a2i_app = typer.Typer(
    help="Have an Amazon Augmented AI (A2I) work team rank the completions of a run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
connect: Callable[[str | None, str | None], Aws] = Aws
JobName = Annotated[str | None, typer.Option("--job", help="The labelling job; default: every one of this run.")]
Flow = Annotated[
    str | None, typer.Option("--flow-definition", help="ARN of the flow definition; default: every one of this run.")
]
Label = Annotated[str, typer.Option("--label", help="Name of the label in the output manifest.")]


@ground_truth_app.command("publish")
def publish_job(
    run: options.Run,
    team: options.Team,
    role: options.Role,
    s3: options.S3,
    workers: Annotated[int, typer.Option("--workers", help="Opinions on each prompt, 1 to 9.")] = 1,
    criterion: options.Criterion = None,
    ties: options.Ties = True,
    guidelines: options.Guidelines = None,
    title: options.Title = TITLE,
    description: options.Description = DESCRIPTION,
    name: options.Name = None,
    label: Label = ground_truth.LABEL,
    limit: options.Limit = None,
    time_limit: options.TimeLimit = 3600,
    availability: options.Availability = None,
    price: options.Price = None,
    free_of_pii: options.Pii = False,
    free_of_adult_content: options.Adult = False,
    kms_key: options.KmsKey = None,
    region: options.Region = None,
    profile: options.Profile = None,
    render_check: options.RenderCheck = True,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Publish the prompts of a run, with their answers, as one labelling job. The same again publishes nothing new.

    Example: humanward feedback ground-truth publish --run runs/mine --team TEAM_ARN --role ROLE_ARN --s3 s3://bucket/rank
    """
    settings, items, template = _prepare(
        ground_truth.SERVICE, run, criterion, ties, guidelines, limit, name,
        team=team, role=role, s3=s3, workers=workers, title=title, description=description, time_limit=time_limit,
        availability=availability, price=price, free_of_pii=free_of_pii, free_of_adult_content=free_of_adult_content,
        kms_key=kms_key, region=region,
    )  # fmt: skip
    plan = ground_truth.plan_job(settings, template, items.items, label)
    if dry_run:
        options.show_requests(plan.requests(render_check=render_check), as_json)
        return
    aws = connect(settings.region, profile)
    with _status(f"publishing {len(items.items)} prompts as {plan.name}"):
        new = ground_truth.publish_job(aws, plan, render_check=render_check)
    publication = Publication(
        ground_truth.SERVICE, plan.name, settings.region, settings.criteria, len(items.items), label
    )
    write_publication(run, publication)
    summary = {"job": plan.name, "new": new, "prompts": plan.items, "left_out": items.left_out, "workers": workers}
    options.show({**summary, "region": settings.region}, as_json)


@ground_truth_app.command("status")
def job_status(
    run: options.Run,
    job: JobName = None,
    wait: options.Wait = 0,
    region: options.Region = None,
    profile: options.Profile = None,
    as_json: options.Json = False,
) -> None:
    """The state of the run's labelling jobs, with AWS's reason where one failed.

    Example: humanward feedback ground-truth status --run runs/mine --wait 3600
    """
    jobs = []
    for publication in _jobs(run, job, region):
        aws = connect(region or publication.region or None, profile)
        with _status(f"labelling job {publication.name}") as status:
            jobs.append(_look_at_job(aws, publication.name, wait, status).as_json())
    options.show({"jobs": jobs}, as_json)


@ground_truth_app.command("import")
def import_job(
    run: options.Run,
    job: JobName = None,
    from_: options.From = None,
    label: Annotated[
        str | None, typer.Option("--label", help="With --from: the label, where a file has several.")
    ] = None,
    criterion: options.FlatCriterion = None,
    add_prompts: options.AddPrompts = False,
    skip_bad: options.SkipBad = False,
    wait: options.Wait = 0,
    region: options.Region = None,
    profile: options.Profile = None,
    as_json: options.Json = False,
) -> None:
    """Read what every worker answered into the run's rankings; the same answers again add nothing.

    --from reads copies of jobs' output folders (aws s3 cp --recursive OUTPUT/JOB FOLDER) without an account.

    Example: humanward feedback ground-truth import --run runs/mine
    """
    old = read_run(run, may_be_new=add_prompts)
    finder, answers = Finder(old.prompts, old.completions, add=add_prompts), Answers(skip_bad=skip_bad)
    jobs: list[dict[str, Any]] = []
    if from_:
        if label is not None:
            check_form("--label", label, LABEL_FORM, 1, LABEL, "ranking")
        for path in from_:
            manifest, folder = _manifest(path)
            ground_truth.read_output(
                _read(manifest), str(manifest), ground_truth.local_reader(folder), finder, answers,
                label=label, criterion=criterion or "overall",
            )  # fmt: skip
    refused: list[InputError] = []
    for publication in [] if from_ else _jobs(run, job, region):
        aws = connect(region or publication.region or None, profile)
        with _status(f"labelling job {publication.name}") as status:
            found = _look_at_job(aws, publication.name, wait, status)
            try:
                ground_truth.refuse_unfinished(found)
            except InputError as error:
                refused.append(error)
                continue
            status.update(f"reading the answers of {found.name}")
            ground_truth.read_output(
                aws.read(found.manifest), found.manifest, aws.read, finder, answers,
                label=found.label, criteria=publication.criteria or None, criterion=_flat(criterion, publication),
            )  # fmt: skip
        jobs.append(found.as_json())
    if refused and not jobs:
        raise refused[0]
    options.tell([str(error) for error in refused], "not imported")
    _finish(run, old, finder, answers, {"jobs": jobs} if jobs else {}, as_json)


@a2i_app.command("publish")
def publish_loops(
    run: options.Run,
    team: options.Team,
    role: options.Role,
    s3: options.S3,
    workers: Annotated[int, typer.Option("--workers", help="Opinions on each prompt, 1 to 3.")] = 1,
    criterion: options.Criterion = None,
    ties: options.Ties = True,
    guidelines: options.Guidelines = None,
    title: options.Title = TITLE,
    description: options.Description = DESCRIPTION,
    name: options.Name = None,
    limit: options.Limit = None,
    time_limit: options.TimeLimit = 3600,
    availability: options.Availability = None,
    price: options.Price = None,
    free_of_pii: options.Pii = False,
    free_of_adult_content: options.Adult = False,
    kms_key: options.KmsKey = None,
    region: options.Region = None,
    profile: options.Profile = None,
    render_check: options.RenderCheck = True,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Publish each prompt of a run, with its answers, as a human loop. The same again starts only what is missing.

    Example: humanward feedback a2i publish --run runs/mine --team TEAM_ARN --role ROLE_ARN --s3 s3://bucket/rank
    """
    settings, items, template = _prepare(
        a2i.SERVICE, run, criterion, ties, guidelines, limit, name,
        team=team, role=role, s3=s3, workers=workers, title=title, description=description, time_limit=time_limit,
        availability=availability, price=price, free_of_pii=free_of_pii, free_of_adult_content=free_of_adult_content,
        kms_key=kms_key, region=region,
    )  # fmt: skip
    plan = a2i.plan_loops(settings, template, items.items)
    if dry_run:
        options.show_requests(plan.requests(render_check=render_check), as_json)
        return
    aws = connect(settings.region, profile)
    publication = Publication(
        a2i.SERVICE,
        plan.flow.parameters["FlowDefinitionName"],
        settings.region,
        settings.criteria,
        len(items.items),
        flow_definition=plan.flow_arn,
        loops=tuple(loop.parameters["HumanLoopName"] for loop in plan.loops),
    )
    with _status(f"publishing {len(items.items)} prompts as {publication.name}") as status:
        new = a2i.publish_loops(
            aws,
            plan,
            render_check=render_check,
            made=lambda: write_publication(run, publication),
            started=lambda count: status.update(f"started {count} of {len(plan.loops)} human loops"),
        )
    summary = {"flow_definition": plan.flow_arn, "new": new, "prompts": len(items.items), "left_out": items.left_out}
    options.show({**summary, "workers": workers, "region": settings.region}, as_json)


@a2i_app.command("status")
def loop_status(
    run: options.Run,
    flow_definition: Flow = None,
    wait: options.Wait = 0,
    region: options.Region = None,
    profile: options.Profile = None,
    as_json: options.Json = False,
) -> None:
    """How many of the run's human loops are in which state, with AWS's reasons where some failed.

    Example: humanward feedback a2i status --run runs/mine --wait 3600
    """
    flows = []
    for publication in _flows(run, flow_definition):
        aws = connect(region or publication.region, profile)
        with _status(f"human loops of {publication.name}") as status:
            flows.append(_look_at_loops(aws, publication, wait, status).as_json())
    options.show({"flows": flows}, as_json)


@a2i_app.command("import")
def import_loops(
    run: options.Run,
    flow_definition: Flow = None,
    from_: options.From = None,
    criterion: options.FlatCriterion = None,
    add_prompts: options.AddPrompts = False,
    skip_bad: options.SkipBad = False,
    wait: options.Wait = 0,
    region: options.Region = None,
    profile: options.Profile = None,
    as_json: options.Json = False,
) -> None:
    """Read what every worker answered, in the loops that are completed, into the run's rankings; again adds nothing.

    --from reads downloaded output.json files, or folders of them, without an account.

    Example: humanward feedback a2i import --run runs/mine
    """
    old = read_run(run, may_be_new=add_prompts)
    finder, answers = Finder(old.prompts, old.completions, add=add_prompts), Answers(skip_bad=skip_bad)
    flows: list[dict[str, Any]] = []
    for path in from_ or []:
        for file in _outputs(path):
            a2i.read_output(_read(file), str(file), finder, answers, criterion=criterion or "overall")
    for publication in [] if from_ else _flows(run, flow_definition):
        aws = connect(region or publication.region, profile)
        with _status(f"human loops of {publication.name}") as status:
            loops = _look_at_loops(aws, publication, wait, status)
            a2i.read_loops(
                aws, loops, finder, answers, criteria=publication.criteria or None,
                criterion=_flat(criterion, publication),
                done=lambda count: status.update(f"read {count} of {len(loops.states)} human loops"),  # noqa: B023
            )  # fmt: skip
        flows.append(loops.as_json())
    _finish(run, old, finder, answers, {"flows": flows} if flows else {}, as_json)


def _prepare(
    service: str,
    run: Path,
    criterion: Sequence[str] | None,
    ties: bool,
    guidelines: Path | None,
    limit: int | None,
    name: str | None,
    **given: Any,
) -> tuple[Settings, Items, str]:
    criteria = tuple(criterion or ("overall",))
    settings = check_settings(
        service, name=default_name(run.resolve().name) if name is None else name, criteria=criteria, **given
    )
    feedback = read_run(run)
    items = build_items(feedback.prompts, feedback.completions, limit)
    return settings, items, render_template(criteria, allow_ties=ties, guidelines=options.read_guidelines(guidelines))


def _finish(run: Path, old: Any, finder: Finder, answers: Answers, summary: dict[str, Any], as_json: bool) -> None:
    counts = merge_into_run(run, old, finder, answers)
    options.tell(answers.bad, "left out")
    options.tell(answers.reasons, "no answer")
    options.show({"run": str(run), **summary, **counts}, as_json)


def _jobs(run: Path, job: str | None, region: str | None) -> list[Publication]:
    """The run's own jobs, or the one named, which need not have been published from this run."""
    try:
        return read_publications(run, ground_truth.SERVICE, job)
    except InputError:
        if job is None:
            raise
        return [Publication(ground_truth.SERVICE, job, region or "", (), 0)]


def _flows(run: Path, arn: str | None) -> list[Publication]:
    if arn is None:
        return read_publications(run, a2i.SERVICE)
    example = "arn:aws:sagemaker:us-east-1:123456789012:flow-definition/NAME"
    check_form("--flow-definition", arn, FLOW_FORM, 1, FLOW, example)
    name = arn.rsplit("/", 1)[1]
    try:
        return read_publications(run, a2i.SERVICE, name)
    except InputError:
        return [Publication(a2i.SERVICE, name, arn.split(":")[3], (), 0, flow_definition=arn)]


def _look_at_job(aws: Aws, name: str, wait: float, status: Status) -> ground_truth.Job:
    def look() -> ground_truth.Job:
        job = ground_truth.describe_job(aws, name)
        status.update(f"labelling job {name}: {job.state}, {job.counters.get('labelled', 0)} labelled")
        return job

    return poll(look, lambda job: job.ended, wait)


def _look_at_loops(aws: Aws, publication: Publication, wait: float, status: Status) -> a2i.Loops:
    def look() -> a2i.Loops:
        loops = a2i.list_loops(aws, publication.flow_definition, publication.loops)
        ended = sum(a2i.STATES[state] for state in loops.states.values())
        status.update(f"human loops of {publication.name}: {ended} of {len(loops.states)} ended")
        return loops

    return poll(look, lambda loops: loops.ended, wait)


def _flat(criterion: str | None, publication: Publication) -> str:
    return criterion or (publication.criteria[0] if len(publication.criteria) == 1 else "overall")


def _manifest(path: Path) -> tuple[Path, Path]:
    """(output manifest, the job's folder) of either."""
    if path.is_dir():
        return path / ground_truth.MANIFEST, path
    return path, path.parent.parent.parent


def _outputs(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.rglob("output.json"))
    if not found:
        raise InputError(f"{path}: holds no output.json; name a folder of A2I's output")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --from") from None


def _status(words: str) -> Status:
    return Console(stderr=True).status(words)
