"""aws: botocore retries throttling; conflicts and absences are told apart; refusals are one line without secrets."""

from __future__ import annotations

import builtins
import subprocess
import sys
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from botocore.stub import Stubber

from humanward.errors import InputError
from humanward.feedback.connectors.aws import ATTEMPTS, SAGEMAKER, AbsentError, Aws, ExistsError, Request
from humanward.feedback.connectors.polling import poll

SECRETS = ("AKIAIOSFODNN7EXAMPLE", "x-amz-security-token")


class Raw:
    """The body of a prepared response."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self, **_: Any) -> Any:
        yield self.body


def answer_with(*responses: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[Aws, list[int]]:
    """SageMaker answered below botocore's retries, without a network; and the statuses that were given so far."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    aws = Aws("us-east-1")
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    given: list[int] = []

    def send(request: Any, **_: Any) -> AWSResponse:
        status, body = responses[min(len(given), len(responses) - 1)]
        given.append(status)
        return AWSResponse(request.url, status, {"content-type": "application/x-amz-json-1.1"}, Raw(body))

    aws.client(SAGEMAKER).meta.events.register_first("before-send.sagemaker", send)
    return aws, given


THROTTLED = b'{"__type": "ThrottlingException", "message": "Rate exceeded"}'


def test_throttling_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    made = b'{"HumanTaskUiArn": "arn:aws:sagemaker:us-east-1:123456789012:human-task-ui/x"}'
    answers = ((400, THROTTLED), (400, THROTTLED), (503, b"{}"), (200, made))
    aws, given = answer_with(*answers, monkeypatch=monkeypatch)
    request = Request(SAGEMAKER, "create_human_task_ui", {"HumanTaskUiName": "x", "UiTemplate": {"Content": "y"}})
    assert aws.send(request)["HumanTaskUiArn"].endswith("/x")
    assert given == [400, 400, 503, 200]


def test_throttling_without_an_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    aws, given = answer_with((400, THROTTLED), monkeypatch=monkeypatch)
    with pytest.raises(
        InputError, match="ThrottlingException: Rate exceeded; tried 8 times, run the same command again"
    ):
        aws.call(SAGEMAKER, "describe_human_task_ui", HumanTaskUiName="x")
    assert len(given) == ATTEMPTS


@pytest.mark.parametrize(
    ("code", "said", "kind", "message"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:iam::123456789012:user/a is not authorized to perform: sagemaker:CreateLabelingJob\n on x.",
            InputError,
            "^sagemaker create_labeling_job: AccessDeniedException: User: .*:CreateLabelingJob on x; grant this",
        ),
        ("AccessDenied", "Access Denied", InputError, "grant this permission"),
        ("ResourceInUse", "exists", ExistsError, "choose another --name"),
        ("ResourceNotFound", "none", AbsentError, "check the name and the region"),
        ("ResourceLimitExceeded", "100 jobs", InputError, "ResourceLimitExceeded: 100 jobs; wait or ask AWS"),
        ("ValidationException", "bad role", InputError, "ValidationException: bad role; mend what AWS names"),
        ("InternalFailure", "", InputError, "InternalFailure: ; mend"),
        (
            "ExpiredTokenException",
            "expired",
            InputError,
            r"credentials that boto3 found \(ExpiredTokenException\); sign in",
        ),
        (
            "SignatureDoesNotMatch",
            "POST\nx-amz-security-token:abc",
            InputError,
            r"\(SignatureDoesNotMatch\); sign in again$",
        ),
        ("ValidationException", "key AKIAIOSFODNN7EXAMPLE is odd", InputError, r"key \(key id\) is odd"),
    ],
)
def test_refusals(aws: Aws, sagemaker: Stubber, code: str, said: str, kind: type[InputError], message: str) -> None:
    sagemaker.add_client_error("create_labeling_job", code, said, 400)
    config = {"WorkteamArn": "w", "UiConfig": {}, "TaskTitle": "t", "TaskDescription": "d"}
    numbers = {"NumberOfHumanWorkersPerDataObject": 1, "TaskTimeLimitInSeconds": 30}
    with pytest.raises(InputError, match=message) as caught:
        aws.call(
            SAGEMAKER,
            "create_labeling_job",
            LabelingJobName="j",
            LabelAttributeName="l",
            InputConfig={"DataSource": {}},
            OutputConfig={"S3OutputPath": "s3://b"},
            RoleArn="r" * 20,
            HumanTaskConfig=config | numbers,
        )
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_long_messages_are_cut(aws: Aws, sagemaker: Stubber) -> None:
    sagemaker.add_client_error("describe_human_task_ui", "ValidationException", "x" * 5000, 400)
    with pytest.raises(InputError) as caught:
        aws.call(SAGEMAKER, "describe_human_task_ui", HumanTaskUiName="x")
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NoCredentialsError(), "boto3 found no credentials; run 'aws configure' or set AWS_PROFILE"),
        (
            EndpointConnectionError(endpoint_url="https://x"),
            "EndpointConnectionError: Could not connect .* run it again",
        ),
    ],
)
def test_failures_before_an_answer(aws: Aws, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(aws.client(SAGEMAKER), "describe_human_task_ui", fail)
    with pytest.raises(InputError, match=f"^sagemaker describe_human_task_ui: {message}"):
        aws.call(SAGEMAKER, "describe_human_task_ui", HumanTaskUiName="x")


def test_parameters_that_the_service_does_not_take(aws: Aws) -> None:
    with pytest.raises(InputError, match="this is not what the service takes") as caught:
        aws.call(SAGEMAKER, "describe_human_task_ui", Wrong=3)
    assert "\n" not in str(caught.value)


def test_reading_objects(aws: Aws) -> None:
    aws.client("s3").put_object(Bucket="humanward-test", Key="a/b c:1.json", Body=b"data")
    assert aws.read("s3://humanward-test/a/b c:1.json") == b"data"
    for uri, message in (
        ("s3://humanward-test/none", "^s3://humanward-test/none: s3 get_object: NoSuchKey"),
        ("s3://no-such-bucket-here/none", "^s3://no-such-bucket-here/none: s3 get_object: NoSuchBucket"),
        ("s3://humanward-test", "is not s3://BUCKET/KEY"),
        ("https://x/y", "is not s3://BUCKET/KEY"),
    ):
        with pytest.raises(InputError, match=message):
            aws.read(uri)


def test_region_and_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(InputError, match=r"^--region: is not given and boto3 has no default"):
        Aws()
    with pytest.raises(InputError, match=r"^AWS: The config profile \(mine\) could not be found; check --profile"):
        Aws("us-east-1", "mine")


def test_without_boto3_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in ("boto3", "botocore"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        InputError, match=r"^boto3: is not installed; install the extra: pip install 'humanward\[aws\]'$"
    ):
        Aws("us-east-1")


def test_the_commands_start_without_boto3_and_torch() -> None:
    code = (
        "import sys, humanward.feedback.connectors.commands\n"
        "print([name for name in ('boto3', 'botocore', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_polling_is_bounded_and_its_pauses_grow() -> None:
    now, pauses = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    def run(states: list[str], seconds: float) -> str:
        now[0] = 0.0
        pauses.clear()
        left = iter(states)
        return poll(lambda: next(left), lambda state: state == "end", seconds, sleep=sleep, clock=lambda: now[0])

    assert run(["end"], 100) == "end"
    assert pauses == []
    assert run(["a", "b"], 0) == "a"
    assert pauses == []
    # 5, 8, 12.8, then what is left of 30 s: 4.2.
    assert run(["a", "b", "c", "d", "e", "f"], 30) == "e"
    assert pauses == pytest.approx([5, 8, 12.8, 4.2])
    assert run(["a"] * 99 + ["end"], 1e9) == "end"
    assert max(pauses) == 120
    assert len(pauses) == 99


def test_an_object_that_is_cut_off(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    class Body:
        def read(self) -> bytes:
            raise ReadTimeoutError(endpoint_url="https://x")

    monkeypatch.setattr(aws.client("s3"), "get_object", lambda **_: {"Body": Body()})
    with pytest.raises(InputError, match=r"^s3://b/k: was cut off \(Read timeout .*\); run the same command again$"):
        aws.read("s3://b/k")
