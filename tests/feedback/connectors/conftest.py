"""A run directory to publish, and AWS without AWS: botocore's Stubber for SageMaker and A2I, moto for S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.loaders import Loader
from botocore.stub import Stubber
from feedback.connectors.shapes import BUCKET, COMPLETIONS, PROMPTS, REGION
from moto import mock_aws

from humanward.feedback.connectors.aws import A2I, S3, SAGEMAKER, Aws
from humanward.records import write_jsonl

# SageMaker's model is megabytes of JSON: read once, not for every test.
LOADER = Loader()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    write_jsonl(folder / "prompts.jsonl", PROMPTS)
    write_jsonl(folder / "completions.jsonl", COMPLETIONS)
    return folder


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Clients that reach nothing: moto's S3 with a bucket, and nothing else unless it is stubbed."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        made = Aws(REGION)
        made._session._session.register_component("data_loader", LOADER)
        made.client(S3).create_bucket(Bucket=BUCKET)
        yield made


@pytest.fixture
def sagemaker(aws: Aws) -> Iterator[Stubber]:
    """SageMaker's stub: every request and response is checked against the service model, in order, all used."""
    with Stubber(aws.client(SAGEMAKER)) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def loops(aws: Aws) -> Iterator[Stubber]:
    """A2I's stub."""
    with Stubber(aws.client(A2I)) as stub:
        yield stub
        stub.assert_no_pending_responses()
