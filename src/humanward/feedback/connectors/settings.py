"""What a publication asks for: whom, what, for how long and where to; all of it checked at once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from humanward.errors import InputError
from humanward.feedback.connectors import limits
from humanward.feedback.connectors.aws import S3, SAGEMAKER, Request
from humanward.feedback.connectors.items import Item, check_items
from humanward.feedback.connectors.template import probe_input
from humanward.records import content_id

SUFFIX = 1 + 16
"""Characters that humanward puts behind a name: a hyphen and an id of what is published."""
TITLE = "Rank the answers"
DESCRIPTION = "Read a prompt and several answers to it, and rank the answers, the best first."


@dataclass(frozen=True)
class Settings:
    """Checked settings of a publication; ``region`` is the team's."""

    service: str
    name: str
    team: str
    role: str
    s3: str
    region: str
    workers: int
    criteria: tuple[str, ...]
    title: str
    description: str
    time_limit: int
    availability: int | None
    price: limits.Price | None
    content: tuple[str, ...]
    kms_key: str | None

    def task(self) -> dict[str, Any]:
        """What labelling jobs and flow definitions say alike about the task."""
        value: dict[str, Any] = {
            "WorkteamArn": self.team,
            "TaskTitle": self.title,
            "TaskDescription": self.description,
            "TaskTimeLimitInSeconds": self.time_limit,
        }
        if self.availability is not None:
            value["TaskAvailabilityLifetimeInSeconds"] = self.availability
        if self.price is not None:
            value["PublicWorkforceTaskPrice"] = self.price.as_json()
        return value

    def output(self) -> dict[str, str]:
        """Where the service writes to."""
        return {"S3OutputPath": f"{self.s3}/output"} | ({"KmsKeyId": self.kms_key} if self.kms_key else {})

    def arn(self, kind: str, name: str) -> str:
        """The ARN that something of this name has in the role's account."""
        _, partition, _, _, account, _ = self.role.split(":", 5)
        return f"arn:{partition}:sagemaker:{self.region}:{account}:{kind}/{name}"


def check_settings(
    service: str,
    *,
    name: str,
    team: str,
    role: str,
    s3: str,
    workers: int,
    criteria: Sequence[str],
    region: str | None = None,
    title: str = TITLE,
    description: str = DESCRIPTION,
    time_limit: int = 3600,
    availability: int | None = None,
    price: str | None = None,
    free_of_pii: bool = False,
    free_of_adult_content: bool = False,
    kms_key: str | None = None,
) -> Settings:
    """The settings for ``ground-truth`` or ``a2i``; raises InputError, naming the option, for what AWS would refuse."""
    limits.check_name("--name", name, limits.NAME - SUFFIX)
    own, public = limits.check_workforce(team, region)
    role_form = "arn:aws:iam::123456789012:role/NAME"
    limits.check_form("--role", role, limits.ROLE_FORM, *limits.ROLE, role_form)
    if team.split(":")[1] != role.split(":")[1]:
        raise InputError(
            f"--role {role!r}: is of another AWS partition than the team; name a role of {team.split(':')[1]!r}"
        )
    # Behind the prefix stand /input/NAME/template.liquid.html or the like.
    s3 = limits.check_s3("--s3", s3, room=len("/input//template.liquid.html") + limits.NAME)
    span = limits.JOB_WORKERS if service == "ground-truth" else limits.LOOP_WORKERS
    limits.check_number("--workers", workers, *span, "workers on each prompt")
    limits.check_words(title, description)
    limits.check_number("--time-limit", time_limit, *limits.TIME_LIMIT, "seconds")
    if availability is not None:
        limits.check_availability(service, availability, public)
    if kms_key is not None:
        limits.check_form("--kms-key", kms_key, limits.KMS_FORM, 1, limits.KMS_KEY, "the key's id or ARN")
    if (
        not criteria
        or len(set(criteria)) != len(criteria)
        or not all(name.strip() == name and name for name in criteria)
    ):
        raise InputError(f"--criterion {', '.join(criteria)!r}: has an empty or repeated name; give each once")
    declared = (("FreeOfPersonallyIdentifiableInformation", free_of_pii), ("FreeOfAdultContent", free_of_adult_content))
    return Settings(
        service=service,
        name=name,
        team=team,
        role=role,
        s3=s3,
        region=own,
        workers=workers,
        criteria=tuple(criteria),
        title=title,
        description=description,
        time_limit=time_limit,
        availability=availability,
        price=limits.check_public(public, price, free_of_pii),
        content=tuple(name for name, said in declared if said),
        kms_key=kms_key,
    )


def default_name(folder: str) -> str:
    """A name made of the run folder's, such as ``mine-2`` of ``Mine_2``; ``humanward`` where nothing is left of it."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.lower())[: limits.NAME - SUFFIX].strip("-")
    return name or "humanward"


def numbered(name: str, *content: Any) -> str:
    """The name with an id of the content: the same again has the same name, so a conflict means "already there"."""
    return f"{name}-{content_id(*(json.dumps(value, sort_keys=True, ensure_ascii=False) for value in content))}"


def render_request(settings: Settings, template: str) -> Request:
    """Asks the service to fill hostile texts into the template; ``check_rendered`` reads what it says."""
    task = {"Input": probe_input()}
    return Request(
        SAGEMAKER, "render_ui_template", {"UiTemplate": {"Content": template}, "Task": task, "RoleArn": settings.role}
    )


def job_requests(
    settings: Settings, template: str, items: Sequence[Item], label: str
) -> tuple[Request, Request, Request]:
    """The uploads of template and manifest, and the labelling job that reads them. Raises InputError for a limit."""
    limits.check_label(label)
    check_items(items)
    manifest = "".join(f"{item.line()}\n" for item in items)
    task = settings.task() | {"NumberOfHumanWorkersPerDataObject": settings.workers}
    name = numbered(settings.name, template, manifest, task, settings.output(), settings.role, settings.content, label)
    limits.check_name("--name", name)
    bucket, _, prefix = settings.s3.removeprefix("s3://").partition("/")
    folder = "/".join(part for part in (prefix, "input", name) if part)
    job: dict[str, Any] = {
        "LabelingJobName": name,
        "LabelAttributeName": label,
        "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": f"s3://{bucket}/{folder}/input.manifest"}}},
        "OutputConfig": settings.output(),
        "RoleArn": settings.role,
        "HumanTaskConfig": task | {"UiConfig": {"UiTemplateS3Uri": f"s3://{bucket}/{folder}/template.liquid.html"}},
    }
    if settings.content:
        job["InputConfig"]["DataAttributes"] = {"ContentClassifiers": list(settings.content)}
    return (
        _upload(settings, bucket, f"{folder}/template.liquid.html", template, "text/html; charset=utf-8"),
        _upload(settings, bucket, f"{folder}/input.manifest", manifest, "application/jsonlines"),
        Request(SAGEMAKER, "create_labeling_job", job),
    )


def interface_request(settings: Settings, template: str) -> Request:
    """The human task interface of human loops."""
    name = numbered(settings.name, template)
    limits.check_name("--name", name)
    return Request(SAGEMAKER, "create_human_task_ui", {"HumanTaskUiName": name, "UiTemplate": {"Content": template}})


def flow_request(settings: Settings, interface_arn: str) -> Request:
    """The flow definition of human loops that show this interface."""
    config = settings.task() | {"HumanTaskUiArn": interface_arn, "TaskCount": settings.workers}
    name = numbered(settings.name, config, settings.output(), settings.role)
    limits.check_name("--name", name)
    return Request(
        SAGEMAKER,
        "create_flow_definition",
        {
            "FlowDefinitionName": name,
            "HumanLoopConfig": config,
            "OutputConfig": settings.output(),
            "RoleArn": settings.role,
        },
    )


def _upload(settings: Settings, bucket: str, key: str, text: str, kind: str) -> Request:
    parameters: dict[str, Any] = {"Bucket": bucket, "Key": key, "Body": text.encode(), "ContentType": kind}
    if settings.kms_key:
        parameters |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": settings.kms_key}
    return Request(S3, "put_object", parameters)
