"""The one file that knows boto3: clients, requests, and AWS's errors in one line each.

Credentials come from boto3's own chain (environment, profile, SSO, instance role); nothing here takes or shows any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from humanward.errors import InputError

S3 = "s3"
SAGEMAKER = "sagemaker"
A2I = "sagemaker-a2i-runtime"
ATTEMPTS = 8
"""How often botocore sends a throttled or interrupted request before it gives up (standard mode, back-off to 20 s)."""

EXISTS = {"ResourceInUse", "ResourceInUseException", "ConflictException"}
ABSENT = {"ResourceNotFound", "ResourceNotFoundException", "NoSuchKey", "NoSuchBucket", "404"}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"}
THROTTLED = {"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}
QUOTA = {"ResourceLimitExceeded", "ServiceQuotaExceededException"}
CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_KEY_ID = re.compile(r"\b(?:A3T|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}\b")


class ExistsError(InputError):
    """Something with this name is there already."""


class AbsentError(InputError):
    """What was asked for is not there."""


@dataclass(frozen=True)
class Request:
    """One call of an AWS service: boto3's names of service and method, and the parameters."""

    service: str
    operation: str
    parameters: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The request as plain JSON values; a body is shown as text."""
        shown = {k: v.decode() if isinstance(v, bytes) else v for k, v in self.parameters.items()}
        return {"service": self.service, "operation": self.operation, "parameters": shown}


class Aws:
    """Clients of one region, made when first used."""

    def __init__(self, region: str | None = None, profile: str | None = None) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise InputError("boto3: is not installed; install the extra: pip install 'humanward[aws]'") from None
        self._clients: dict[str, Any] = {}
        self._config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS}, connect_timeout=10, read_timeout=60
        )
        try:
            self._session = boto3.Session(region_name=region, profile_name=profile)
            self.region: str | None = self._session.region_name
        except BotoCoreError as error:
            raise InputError(f"AWS: {_one_line(str(error))}; check --profile and --region") from None
        if not self.region:
            raise InputError("--region: is not given and boto3 has no default; name one, such as --region us-east-1")

    def client(self, service: str) -> Any:
        """The client of a service, always the same one."""
        if service not in self._clients:
            self._clients[service] = self._session.client(service, config=self._config)
        return self._clients[service]

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The response. Raises ExistsError, AbsentError or another InputError, each one line without secrets."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{service} {operation}"
        try:
            return getattr(self.client(service), operation)(**parameters)
        except ClientError as error:
            raise _explained(where, error.response.get("Error", {})) from None
        except BotoCoreError as error:
            raise _unreachable(where, error) from None

    def send(self, request: Request) -> dict[str, Any]:
        """The response to a planned request."""
        return self.call(request.service, request.operation, **request.parameters)

    def read(self, uri: str) -> bytes:
        """The object at ``s3://BUCKET/KEY``; raises AbsentError where there is none."""
        from botocore.exceptions import BotoCoreError, HTTPClientError

        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not bucket or not key:
            raise InputError(f"{uri}: is not s3://BUCKET/KEY; check where the answers are")
        try:
            body = self.call(S3, "get_object", Bucket=bucket, Key=key)["Body"]
            return bytes(body.read())
        except InputError as error:
            raise type(error)(f"{uri}: {error}") from None
        except (BotoCoreError, HTTPClientError, OSError) as error:
            raise InputError(f"{uri}: was cut off ({_one_line(str(error))}); run the same command again") from None


def _explained(where: str, error: dict[str, Any]) -> InputError:
    code = str(error.get("Code", "unknown error"))
    said = f"{code}: {_one_line(str(error.get('Message', '')))}"
    if code in EXISTS:
        return ExistsError(f"{where}: {said}; choose another --name")
    if code in ABSENT:
        return AbsentError(f"{where}: {said}; check the name and the region")
    if code in DENIED:
        return InputError(f"{where}: {said}; grant this permission (docs/ground-truth.md lists all that are needed)")
    if code in CREDENTIALS:
        # The message of a wrong signature repeats the signed headers, and with them the session token.
        return InputError(f"{where}: AWS does not accept the credentials that boto3 found ({code}); sign in again")
    if code in THROTTLED:
        return InputError(f"{where}: {said}; tried {ATTEMPTS} times, run the same command again later, it goes on")
    if code in QUOTA:
        return InputError(f"{where}: {said}; wait or ask AWS for a higher quota, the same command then goes on")
    return InputError(f"{where}: {said}; mend what AWS names and run the same command again")


def _unreachable(where: str, error: Exception) -> InputError:
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return InputError(f"{where}: boto3 found no credentials; run 'aws configure' or set AWS_PROFILE")
    if name == "ParamValidationError":
        return InputError(f"{where}: {_one_line(str(error))}; this is not what the service takes")
    return InputError(
        f"{where}: {name}: {_one_line(str(error))}; check credentials, region and network, and run it again"
    )


def _one_line(text: str) -> str:
    line = " ".join(_KEY_ID.sub("(key id)", text).split()).rstrip(".;")
    return line if len(line) <= 300 else line[:299] + "…"
