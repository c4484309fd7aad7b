"""SageMaker Ground Truth: one labelling job for all prompts of a run; its states; its output manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanward.errors import InputError
from humanward.feedback.connectors.answers import Answers, Task, parse_json, read_answers
from humanward.feedback.connectors.aws import SAGEMAKER, AbsentError, Aws, ExistsError, Request
from humanward.feedback.connectors.items import Finder, Item
from humanward.feedback.connectors.settings import Settings, job_requests, render_request
from humanward.feedback.connectors.template import check_rendered

SERVICE = "ground-truth"
LABEL = "ranking"
MANIFEST = "manifests/output/output.manifest"
STATES = {
    "Initializing": False,
    "InProgress": False,
    "Stopping": False,
    "Completed": True,
    "Failed": True,
    "Stopped": True,
}
"""Every state of a labelling job, and whether it is the last."""
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Job:
    """A labelling job as the service describes it.

    ``counters`` count prompts; ``manifest`` is where the output is or will be.
    """

    name: str
    state: str
    counters: dict[str, int]
    failure: str
    label: str
    manifest: str

    @property
    def ended(self) -> bool:
        """Nothing will change any more."""
        return STATES[self.state]

    def as_json(self) -> dict[str, Any]:
        """The job as the command shows it."""
        value: dict[str, Any] = {"job": self.name, "state": self.state, **self.counters, "output": self.manifest}
        return value | ({"failure": self.failure} if self.failure else {})


@dataclass(frozen=True)
class JobPlan:
    """Every request of a publication, in order, before any is sent."""

    settings: Settings
    name: str
    label: str
    items: int
    render: Request
    uploads: tuple[Request, ...]
    create: Request

    def requests(self, *, render_check: bool = True) -> list[Request]:
        """What publishing sends."""
        return [*([self.render] if render_check else []), *self.uploads, self.create]


def plan_job(settings: Settings, template: str, items: Sequence[Item], label: str = LABEL) -> JobPlan:
    """The requests that publish the items; raises InputError for whatever the service would refuse."""
    *uploads, create = job_requests(settings, template, items, label)
    name = create.parameters["LabelingJobName"]
    return JobPlan(settings, name, label, len(items), render_request(settings, template), tuple(uploads), create)


def publish_job(aws: Aws, plan: JobPlan, *, render_check: bool = True) -> bool:
    """Send the requests; True if the job is new, False if the same job had been published already.

    Raises InputError where the page is not safe, AWS refuses, or the job of that name has failed.
    """
    if render_check:
        rendered = aws.send(plan.render)
        if errors := rendered.get("Errors"):
            raise InputError(
                f"AWS cannot render the template: {errors[0].get('Message', errors[0])}; nothing was published"
            )
        check_rendered(rendered["RenderedContent"])
    for upload in plan.uploads:
        aws.send(upload)
    try:
        aws.send(plan.create)
    except ExistsError:
        refuse_failed(describe_job(aws, plan.name))
        return False
    return True


def describe_job(aws: Aws, name: str) -> Job:
    """The job's state; raises InputError for an unknown job, or a state that this version does not know."""
    try:
        found = aws.call(SAGEMAKER, "describe_labeling_job", LabelingJobName=name)
    except AbsentError:
        raise AbsentError(
            f"labelling job {name!r}: is not in region {aws.region}; check --region, or publish it again"
        ) from None
    state = found["LabelingJobStatus"]
    if state not in STATES:
        raise InputError(
            f"labelling job {name!r}: is in state {state!r}; humanward knows {', '.join(STATES)}: update it"
        )
    counted = found["LabelCounters"]
    names = {"labelled": "TotalLabeled", "unlabelled": "Unlabeled", "failed": "FailedNonRetryableError"}
    folder = f"{found['OutputConfig']['S3OutputPath'].rstrip('/')}/{name}"
    return Job(
        name,
        state,
        {ours: counted[theirs] for ours, theirs in names.items() if theirs in counted},
        found.get("FailureReason", ""),
        found.get("LabelAttributeName", LABEL),
        found.get("LabelingJobOutput", {}).get("OutputDatasetS3Uri") or f"{folder}/{MANIFEST}",
    )


def refuse_failed(job: Job) -> None:
    """Raise InputError, with the service's reason, for a job that failed."""
    if job.state == "Failed":
        raise InputError(
            f"labelling job {job.name!r}: failed ({job.failure or 'AWS gives no reason'}); mend the reason and publish "
            "again with another --name, as a job's name cannot be used twice"
        )


def refuse_unfinished(job: Job) -> None:
    """Raise InputError for a job whose output is not there yet, or never will be."""
    refuse_failed(job)
    if not job.ended:
        counts = ", ".join(f"{count} {name}" for name, count in job.counters.items())
        raise InputError(
            f"labelling job {job.name!r}: is {job.state} ({counts}); come back later or add --wait SECONDS"
        )


def read_output(
    data: bytes,
    where: str,
    read: Read,
    finder: Finder,
    into: Answers,
    *,
    label: str | None = None,
    criteria: tuple[str, ...] | None = None,
    criterion: str = "overall",
) -> None:
    """Read an output manifest, and through ``read`` the worker files that it names, into answers.

    ``label`` None takes the only label in each line. Lines without an answer are counted as unlabelled.
    Raises InputError, naming file and line, for what cannot be read, unless ``into`` keeps the reasons.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start}); download it again") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{where} line {number}"
        try:
            value = parse_line(line, place)
            found = _label(value, label, place)
            if found is None:
                into.unlabelled += 1
                continue
            name, labelled, metadata = found
            if reason := _of(metadata, "failure-reason"):
                into.unlabelled += 1
                into.reasons.append(f"{place}: {reason}")
                continue
            job = str(_of(metadata, "job-name") or name).rsplit("labeling-job/", 1)[-1]
            item = finder.find(value, f"{job} line {number}", place)
            task_name = f"{job}/{value.get('item_id') or f'line {number}'}"
            own, source, timed = _answers_of(labelled, metadata, read, place)
            task = Task(SERVICE, task_name, item, source, criteria, criterion)
        except InputError as error:
            into.refuse(error)
            continue
        read_answers(own, task, into, timed=timed)


def parse_line(line: str, where: str) -> dict[str, Any]:
    """One line of a manifest; raises InputError where it is no JSON object."""
    value = parse_json(line.encode(), where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: is no object; write one object a line")
    return value


def local_reader(folder: Path) -> Read:
    """Reads worker files from a copy of a job's output folder, ``aws s3 cp --recursive OUTPUT/JOB FOLDER``."""

    def read(uri: str) -> bytes:
        _, found, rest = uri.partition("/annotations/")
        path = (folder / "annotations" / rest).resolve()
        if not found or not path.is_relative_to(folder.resolve()):
            raise InputError(f"{uri}: is no file of a job's annotations; copy the whole output folder of the job")
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); copy the job's whole output folder") from None

    return read


def _label(value: dict[str, Any], label: str | None, where: str) -> tuple[str, Any, dict[str, Any]] | None:
    """(name, value, metadata) of the label in a line, None where it has none."""
    names = [key.removesuffix("-metadata") for key in value if key.endswith("-metadata")]
    if label is None:
        if len(names) > 1:
            raise InputError(f"{where}: has the labels {', '.join(names)}; say which with --label")
        label = names[0] if names else ""
    metadata = value.get(f"{label}-metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise InputError(f"{where}, field '{label}-metadata': is no object; download it again")
    return label, value.get(label), metadata


def _answers_of(labelled: Any, metadata: dict[str, Any], read: Read, where: str) -> tuple[Any, str, bool]:
    """(answers of all workers, where they were read, whether they have times of submission)."""
    uri = _of(metadata, "worker-response-ref")
    if isinstance(uri, str) and uri:
        try:
            value = parse_json(read(uri), uri)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return value.get("answers") if isinstance(value, dict) else None, uri, True
    # The consolidation function of AWS's samples copies the answers of all workers into the label, without times.
    everyone = labelled.get("annotationsFromAllWorkers") if isinstance(labelled, dict) else None
    if not isinstance(everyone, list):
        raise InputError(
            f"{where}: has neither worker-response-ref nor annotationsFromAllWorkers, so it does not say who ranked how"
        )
    return [_from_annotation(value) for value in everyone], where, False


def _from_annotation(value: Any) -> Any:
    """A consolidated annotation in the form of a worker's answer; what has another form stays, to be refused later."""
    data = value.get("annotationData") if isinstance(value, dict) else None
    if not isinstance(data, dict) or "content" not in data:
        return value
    return {**value, "answerContent": data["content"]}


def _of(metadata: dict[str, Any], name: str) -> Any:
    """A field that is written with hyphens or with underscores."""
    return metadata.get(name, metadata.get(name.replace("-", "_")))
