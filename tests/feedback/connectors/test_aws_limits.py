"""limits: the numbers are those of the installed service model; every option outside of them is refused in one line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from feedback.connectors.shapes import PUBLIC, ROLE, TEAM, settings

from humanward.errors import InputError
from humanward.feedback.connectors import a2i, ground_truth, limits
from humanward.feedback.connectors.aws import A2I, SAGEMAKER, Aws


def shape(aws: Aws, service: str, operation: str, path: str, side: str = "input") -> Any:
    """The model's shape of a parameter, such as HumanTaskConfig.TaskTitle."""
    model = aws.client(service).meta.service_model.operation_model(operation)
    found = model.input_shape if side == "input" else model.output_shape
    for part in path.split("."):
        found = found.members[part]
    return found


@pytest.mark.parametrize(
    ("service", "operation", "path", "most"),
    [
        (SAGEMAKER, "CreateLabelingJob", "LabelingJobName", limits.NAME),
        (SAGEMAKER, "CreateLabelingJob", "LabelAttributeName", limits.LABEL),
        (SAGEMAKER, "CreateLabelingJob", "HumanTaskConfig.TaskTitle", limits.TITLE),
        (SAGEMAKER, "CreateLabelingJob", "HumanTaskConfig.TaskDescription", limits.DESCRIPTION),
        (SAGEMAKER, "CreateLabelingJob", "HumanTaskConfig.WorkteamArn", limits.TEAM),
        (SAGEMAKER, "CreateLabelingJob", "HumanTaskConfig.NumberOfHumanWorkersPerDataObject", limits.JOB_WORKERS[1]),
        (SAGEMAKER, "CreateLabelingJob", "InputConfig.DataSource.S3DataSource.ManifestS3Uri", limits.URI),
        (SAGEMAKER, "CreateLabelingJob", "OutputConfig.S3OutputPath", limits.URI),
        (SAGEMAKER, "CreateLabelingJob", "OutputConfig.KmsKeyId", limits.KMS_KEY),
        (SAGEMAKER, "CreateLabelingJob", "RoleArn", limits.ROLE[1]),
        (
            SAGEMAKER,
            "CreateLabelingJob",
            "HumanTaskConfig.PublicWorkforceTaskPrice.AmountInUsd.Dollars",
            limits.DOLLARS,
        ),
        (SAGEMAKER, "CreateHumanTaskUi", "HumanTaskUiName", limits.NAME),
        (SAGEMAKER, "CreateHumanTaskUi", "UiTemplate.Content", limits.TEMPLATE),
        (SAGEMAKER, "RenderUiTemplate", "Task.Input", limits.RENDER_INPUT),
        (SAGEMAKER, "CreateFlowDefinition", "FlowDefinitionName", limits.NAME),
        (SAGEMAKER, "CreateFlowDefinition", "HumanLoopConfig.TaskCount", limits.LOOP_WORKERS[1]),
        (A2I, "StartHumanLoop", "HumanLoopName", limits.NAME),
        (A2I, "StartHumanLoop", "FlowDefinitionArn", limits.FLOW),
        (A2I, "StartHumanLoop", "HumanLoopInput.InputContent", limits.INPUT_BYTES),
    ],
)
def test_the_greatest_values_are_the_models(aws: Aws, service: str, operation: str, path: str, most: int) -> None:
    assert shape(aws, service, operation, path).metadata["max"] == most


@pytest.mark.parametrize(
    ("path", "least"),
    [
        ("HumanTaskConfig.NumberOfHumanWorkersPerDataObject", limits.JOB_WORKERS[0]),
        ("HumanTaskConfig.TaskTimeLimitInSeconds", limits.TIME_LIMIT[0]),
        ("HumanTaskConfig.TaskAvailabilityLifetimeInSeconds", limits.AVAILABILITY_LEAST["ground-truth"]),
        ("RoleArn", limits.ROLE[0]),
    ],
)
def test_the_least_values_are_the_models(aws: Aws, path: str, least: int) -> None:
    assert shape(aws, SAGEMAKER, "CreateLabelingJob", path).metadata["min"] == least


def test_the_forms_are_the_models(aws: Aws) -> None:
    def model(operation: str, path: str, service: str = SAGEMAKER) -> str:
        return str(shape(aws, service, operation, path).metadata["pattern"])

    job = "HumanTaskConfig."
    assert model("CreateLabelingJob", "LabelAttributeName") == limits.LABEL_FORM
    assert model("CreateLabelingJob", "RoleArn") == limits.ROLE_FORM
    assert model("CreateLabelingJob", f"{job}WorkteamArn") == limits.TEAM_FORM
    assert model("CreateLabelingJob", f"{job}TaskTitle") == limits.TITLE_FORM
    assert model("CreateLabelingJob", "OutputConfig.KmsKeyId") == limits.KMS_FORM
    assert model("StartHumanLoop", "FlowDefinitionArn", A2I) == limits.FLOW_FORM
    assert model("CreateHumanTaskUi", "HumanTaskUiName") == limits.NAME_FORM
    assert model("StartHumanLoop", "HumanLoopName", A2I) == f"^{limits.NAME_FORM}$"
    # Stricter than a job's name needs, so that one form serves all.
    assert re.fullmatch(model("CreateLabelingJob", "LabelingJobName"), "run-1")


def test_every_state_of_the_models_is_known(aws: Aws) -> None:
    def states(service: str, operation: str, path: str) -> set[str]:
        return set(shape(aws, service, operation, path, "output").enum)

    assert states(SAGEMAKER, "DescribeLabelingJob", "LabelingJobStatus") == set(ground_truth.STATES)
    assert states(A2I, "DescribeHumanLoop", "HumanLoopStatus") == set(a2i.STATES)
    assert states(SAGEMAKER, "DescribeFlowDefinition", "FlowDefinitionStatus") == set(a2i.FLOW_STATES)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a" * 46},
        {"workers": 1},
        {"workers": 9},
        {"title": "t" * 128},
        {"description": "d" * 255},
        {"time_limit": 30},
        {"time_limit": 28_800},
        {"availability": 60},
        {"availability": 2_592_000},
        {"team": TEAM.replace("private-crowd", "vendor-crowd")},
        {"team": PUBLIC, "price": "0.012", "free_of_pii": True},
        {"s3": "s3://abc"},
        {"kms_key": "alias/key"},
        {"region": "us-east-1"},
    ],
)
def test_what_the_services_take_is_taken(changes: dict[str, Any]) -> None:
    assert settings(**changes).region == "us-east-1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a" * 47}, r"^--name 'a+': has 47 characters, allowed are 1 to 46; mend it$"),
        ({"name": ""}, "--name '': has 0 characters"),
        ({"name": "Upper"}, "--name 'Upper': has not the form that AWS takes; write it like helpful-round-1"),
        ({"name": "-a"}, "--name '-a': has not the form"),
        ({"name": "a_b"}, "--name 'a_b': has not the form"),
        ({"workers": 0}, r"^--workers 0: allowed are 1 to 9 workers on each prompt; choose one of them$"),
        ({"workers": 10}, "--workers 10: allowed are 1 to 9"),
        ({"title": ""}, "--title '': has 0 characters, allowed are 1 to 128"),
        ({"title": "t" * 129}, "--title 't+…': has 129 characters"),
        ({"title": "rank \U0001f600"}, "--title .*: has not the form"),
        ({"description": "d" * 256}, "--description .*: has 256 characters, allowed are 1 to 255"),
        ({"description": "two\nlines"}, "--description .*: has not the form"),
        ({"time_limit": 29}, "--time-limit 29: allowed are 30 to 28800 seconds"),
        ({"time_limit": 28_801}, "--time-limit 28801: allowed are 30 to 28800 seconds"),
        ({"availability": 59}, "--availability 59: allowed are 60 to 2592000 seconds"),
        ({"availability": 2_592_001}, "--availability 2592001: allowed are 60 to 2592000 seconds"),
        (
            {"team": PUBLIC, "price": "1", "free_of_pii": True, "availability": 43_201},
            "--availability 43201: allowed are 60 to 43200 seconds",
        ),
        (
            {"team": "annotators"},
            "--team 'annotators': has not the form that AWS takes; write it like arn:aws:sagemaker:",
        ),
        ({"team": TEAM + "x" * 256}, "--team .*allowed are 1 to 256"),
        ({"region": "eu-west-1"}, "--region 'eu-west-1': the team is in 'us-east-1'; leave --region out"),
        ({"role": "ground-truth-and-more"}, "--role 'ground-truth-and-more': has not the form"),
        ({"role": "r"}, "--role 'r': has 1 characters, allowed are 20 to 2048"),
        ({"role": ROLE.replace("arn:aws", "arn:aws-cn")}, "--role .*: is of another AWS partition than the team"),
        ({"s3": "bucket/rank"}, "--s3 'bucket/rank': is not s3://BUCKET/PREFIX"),
        ({"s3": "s3://Bad_Bucket/x"}, "--s3 .*: is not s3://BUCKET/PREFIX"),
        ({"s3": "s3://bucket//x"}, "--s3 .*: has characters or empty parts"),
        ({"s3": "s3://bucket/a b"}, "--s3 .*: has characters or empty parts"),
        ({"s3": "s3://bucket/" + "x" * 1000}, "--s3 .*: has 1012 characters, 9.. fit; choose a shorter prefix"),
        ({"kms_key": "a key"}, "--kms-key 'a key': has not the form"),
        ({"kms_key": "k" * 2049}, "--kms-key .*: has 2049 characters"),
        ({"criteria": ()}, "--criterion '': has an empty or repeated name"),
        ({"criteria": ("a", "a")}, "--criterion 'a, a': has an empty or repeated name; give each once"),
        ({"criteria": (" a",)}, "--criterion ' a': has an empty or repeated name"),
        ({"price": "0.01"}, "--price '0.01': only Mechanical Turk"),
        ({"team": PUBLIC, "price": "0.01"}, "--team: Mechanical Turk gets no task unless you declare"),
        ({"team": PUBLIC, "free_of_pii": True}, "--price: Mechanical Turk needs one"),
        ({"team": PUBLIC, "free_of_pii": True, "price": "0"}, r"--price '0': allowed are 0\.001 to 2\.999 US dollars"),
        ({"team": PUBLIC, "free_of_pii": True, "price": "3"}, "--price '3': allowed are"),
        ({"team": PUBLIC, "free_of_pii": True, "price": "0.0001"}, "--price '0.0001': allowed are"),
        ({"team": PUBLIC, "free_of_pii": True, "price": "free"}, "--price 'free': allowed are"),
        ({"team": PUBLIC, "free_of_pii": True, "price": "nan"}, "--price 'nan': allowed are"),
        ({"team": PUBLIC, "free_of_pii": True, "price": "inf"}, "--price 'inf': allowed are"),
    ],
)
def test_what_they_refuse_is_refused_first(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        settings(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("changes", "allowed"), [({"workers": 4}, "1 to 3"), ({"availability": 0}, "1 to 2592000")])
def test_human_loops_have_limits_of_their_own(changes: dict[str, Any], allowed: str) -> None:
    assert settings("a2i", workers=3, availability=1).workers == 3
    with pytest.raises(InputError, match=f"allowed are {allowed}"):
        settings("a2i", **changes)


@pytest.mark.parametrize(
    ("text", "parts"), [("0.012", (0, 1, 2)), ("2.999", (2, 99, 9)), ("1", (1, 0, 0)), ("0.36", (0, 36, 0))]
)
def test_a_price_in_its_three_parts(text: str, parts: tuple[int, int, int]) -> None:
    price = limits.check_public(True, text, True)
    assert price is not None
    assert tuple(price.as_json()["AmountInUsd"].values()) == parts


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("ranking-metadata", "may end neither in -metadata nor in -ref"),
        ("ranking-ref", "may end neither"),
        ("source", "would overwrite what was shown"),
        ("responses", "would overwrite what was shown"),
        ("a_b", "has not the form"),
        ("l" * 128, "has 128 characters, allowed are 1 to 127"),
    ],
)
def test_labels(label: str, message: str) -> None:
    limits.check_label("Ranking-2")
    with pytest.raises(InputError, match=message):
        limits.check_label(label)
