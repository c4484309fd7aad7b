"""A small run, and what the services answer about it, written by hand in the shapes that they give."""

from __future__ import annotations

import datetime
from typing import Any

from humanward.feedback.connectors.settings import Settings, check_settings
from humanward.records import Completion, Prompt

WHEN = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
ADA, BEA = "private.us-east-1.ada", "private.us-east-1.bea"
REGION = "us-east-1"
TEAM = f"arn:aws:sagemaker:{REGION}:123456789012:workteam/private-crowd/annotators"
PUBLIC = f"arn:aws:sagemaker:{REGION}:394669845002:workteam/public-crowd/default"
ROLE = "arn:aws:iam::123456789012:role/service-role/ground-truth"
BUCKET = "humanward-test"
S3_PREFIX = f"s3://{BUCKET}/rank"
PROMPTS = [
    Prompt("sky", "Why is the sky blue?", split="train"),
    Prompt("same-1", "Name a fruit, please.", split="train"),
    Prompt("same-2", "Name a fruit, please.", split="train"),
    Prompt("lonely", "Only one answer.", split="test"),
]
COMPLETIONS = [
    Completion("sky-a", "sky", "Rayleigh, scattering", "m"),
    Completion("sky-b", "sky", "It's <b>magic</b>", "m"),
    Completion("sky-c", "sky", "No idea", "m"),
    Completion("one-a", "same-1", "Apple", "m"),
    Completion("one-b", "same-1", "Brick", "m"),
    Completion("two-a", "same-2", "Pear", "m"),
    Completion("two-b", "same-2", "Stone", "m"),
    Completion("lonely-a", "lonely", "Alone", "m"),
]


def settings(service: str = "ground-truth", **changes: object) -> Settings:
    """Good settings but for the changes."""
    values: dict[str, object] = {
        "name": "run",
        "team": TEAM,
        "role": ROLE,
        "s3": S3_PREFIX,
        "workers": 2,
        "criteria": ("helpful",),
    }
    return check_settings(service, **(values | changes))  # type: ignore[arg-type]


def answer(content: dict[str, Any], worker: str = ADA, second: int = 29, **changes: Any) -> dict[str, Any]:
    """One worker's answer, as worker files and outputs of human loops hold it."""
    sub = {"identityProviderType": "Cognito", "issuer": "https://cognito-idp.us-east-1.amazonaws.com/x", "sub": worker}
    value = {
        "answerContent": content,
        "acceptanceTime": "2026-03-01T12:00:00.000Z",
        "submissionTime": f"2026-03-01T12:00:{second:02d}.200Z",
        "timeSpentInSeconds": 29.2,
        "workerId": worker,
        "workerMetadata": {"identityData": sub},
    }
    return value | changes


def flat(*ranks: Any) -> dict[str, Any]:
    """{"response_1_ranking": "1", ...}"""
    return {f"response_{number}_ranking": str(rank) for number, rank in enumerate(ranks, 1)}


def dimensions(**ranks: list[Any]) -> dict[str, Any]:
    """What crowd-text-ranking submits, a criterion a keyword."""
    named = [{"name": name, "responseRankings": own} for name, own in ranks.items()]
    return {"textRanking": {"ordinalRankingDimensions": named}}


def described_job(name: str, state: str, **changes: Any) -> dict[str, Any]:
    """A response of DescribeLabelingJob."""
    arn = "arn:aws:sagemaker:us-east-1:123456789012"
    value = {
        "LabelingJobStatus": state,
        "LabelCounters": {"TotalLabeled": 2, "HumanLabeled": 2, "FailedNonRetryableError": 0, "Unlabeled": 1},
        "CreationTime": WHEN,
        "LastModifiedTime": WHEN,
        "JobReferenceCode": "abc",
        "LabelingJobName": name,
        "LabelingJobArn": f"{arn}:labeling-job/{name}",
        "LabelAttributeName": "ranking",
        "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": "s3://humanward-test/rank/input.manifest"}}},
        "OutputConfig": {"S3OutputPath": "s3://humanward-test/rank/output"},
        "RoleArn": "arn:aws:iam::123456789012:role/service-role/ground-truth",
        "HumanTaskConfig": {
            "WorkteamArn": f"{arn}:workteam/private-crowd/annotators",
            "UiConfig": {},
            "TaskTitle": "Rank",
            "TaskDescription": "Rank",
            "NumberOfHumanWorkersPerDataObject": 2,
            "TaskTimeLimitInSeconds": 3600,
        },
    }
    return value | changes


def described_flow(arn: str, state: str, **changes: Any) -> dict[str, Any]:
    """A response of DescribeFlowDefinition."""
    value = {
        "FlowDefinitionArn": arn,
        "FlowDefinitionName": arn.rsplit("/", 1)[1],
        "FlowDefinitionStatus": state,
        "CreationTime": WHEN,
        "OutputConfig": {"S3OutputPath": "s3://humanward-test/rank/output"},
        "RoleArn": "arn:aws:iam::123456789012:role/service-role/ground-truth",
    }
    return value | changes


def described_loop(name: str, state: str, uri: str = "", **changes: Any) -> dict[str, Any]:
    """A response of DescribeHumanLoop."""
    arn = "arn:aws:sagemaker:us-east-1:123456789012"
    value: dict[str, Any] = {
        "CreationTime": WHEN,
        "HumanLoopStatus": state,
        "HumanLoopName": name,
        "HumanLoopArn": f"{arn}:human-loop/{name}",
        "FlowDefinitionArn": f"{arn}:flow-definition/f",
    }
    return value | ({"HumanLoopOutput": {"OutputS3Uri": uri}} if uri else {}) | changes
