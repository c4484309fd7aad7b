"""What the services accept, checked before anything is sent; the numbers are those of botocore's service model.

Those that the model lacks are from AWS's documentation of the parameter; a test compares the others with the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from humanward.errors import InputError

NAME = 63
LABEL = 127
TITLE = 128
DESCRIPTION = 255
URI = 1024
FLOW = 1024
ROLE = (20, 2048)
TEAM = 256
KMS_KEY = 2048
TEMPLATE = 128_000
RENDER_INPUT = 128_000
MANIFEST_LINE = 100_000
INPUT_BYTES = 3_145_728
JOB_WORKERS = (1, 9)
LOOP_WORKERS = (1, 3)
TIME_LIMIT = (30, 28_800)
AVAILABILITY_LEAST = {"ground-truth": 60, "a2i": 1}
AVAILABILITY_PUBLIC = 43_200
AVAILABILITY_MOST = 2_592_000
DOLLARS = 2

NAME_FORM = r"[a-z0-9](-*[a-z0-9])*"
LABEL_FORM = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,126}"
TITLE_FORM = r"[\t\n\r -\uD7FF\uE000-\uFFFD]*"
ROLE_FORM = r"arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"
TEAM_FORM = r"arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:workteam/.*"
FLOW_FORM = r"arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:flow-definition/.*"
KMS_FORM = r"[a-zA-Z0-9:/_-]*"
BUCKET_FORM = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
TAKEN = ("source", "responses")
"""Keys of a manifest line that a label of that name would overwrite."""


@dataclass(frozen=True)
class Price:
    """What one worker is paid for one task on Mechanical Turk."""

    dollars: int
    cents: int
    tenths_of_a_cent: int

    def as_json(self) -> dict[str, dict[str, int]]:
        """The value of PublicWorkforceTaskPrice."""
        parts = {"Dollars": self.dollars, "Cents": self.cents, "TenthFractionsOfACent": self.tenths_of_a_cent}
        return {"AmountInUsd": parts}


def check_form(option: str, value: str, form: str, least: int, most: int, example: str) -> None:
    """Raise InputError, naming the option, unless the text has the form and length."""
    if not least <= len(value) <= most:
        raise InputError(
            f"{option} {_short(value)}: has {len(value)} characters, allowed are {least} to {most}; mend it"
        )
    if not re.fullmatch(form, value):
        raise InputError(f"{option} {_short(value)}: has not the form that AWS takes; write it like {example}")


def check_number(option: str, value: int, least: int, most: int, unit: str) -> None:
    """Raise InputError unless ``least <= value <= most``."""
    if not least <= value <= most:
        raise InputError(f"{option} {value}: allowed are {least} to {most} {unit}; choose one of them")


def check_name(option: str, value: str, most: int = NAME) -> None:
    """Raise InputError unless a job, task interface, flow definition or human loop may be called so."""
    check_form(option, value, NAME_FORM, 1, most, "helpful-round-1 (lower case, digits, single hyphens inside)")


def check_label(value: str) -> None:
    """Raise InputError unless the labels of a job may be called so in its output manifest."""
    check_form("--label", value, LABEL_FORM, 1, LABEL, "ranking")
    if value.endswith(("-metadata", "-ref")):
        raise InputError(f"--label {value!r}: may end neither in -metadata nor in -ref; choose another")
    if value in TAKEN:
        raise InputError(f"--label {value!r}: would overwrite what was shown; choose another, such as ranking")


def check_words(title: str, description: str) -> None:
    """Raise InputError unless workers can be shown this title and description of the task."""
    check_form("--title", title, TITLE_FORM, 1, TITLE, "'Rank the answers' (no control characters, no emoji)")
    check_form("--description", description, ".+", 1, DESCRIPTION, "'Rank the answers.' (one line)")


def check_s3(option: str, value: str, room: int = 0) -> str:
    """``s3://BUCKET/PREFIX`` without the last slash; ``room`` is how many characters will be put behind it."""
    uri = value.rstrip("/")
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not re.fullmatch(BUCKET_FORM, bucket):
        raise InputError(f"{option} {_short(value)}: is not s3://BUCKET/PREFIX; write it like s3://my-bucket/labelling")
    if "//" in f"/{prefix}" or not re.fullmatch(r"[\w!.*'()/-]*", prefix, re.ASCII):
        raise InputError(
            f"{option} {_short(value)}: has characters or empty parts that S3 keys should not have; rename it"
        )
    if len(uri) + room > URI:
        raise InputError(
            f"{option} {_short(value)}: has {len(uri)} characters, {URI - room} fit; choose a shorter prefix"
        )
    return uri


def check_workforce(team: str, region: str | None) -> tuple[str, bool]:
    """(the team's region, whether it is Mechanical Turk); raises InputError for what is no team of that region."""
    example = "arn:aws:sagemaker:us-east-1:123456789012:workteam/private-crowd/NAME"
    check_form("--team", team, TEAM_FORM, 1, TEAM, example)
    own = team.split(":")[3]
    if region is not None and own != region:
        raise InputError(
            f"--region {region!r}: the team is in {own!r}; leave --region out or name a team of that region"
        )
    return own, "/public-crowd/" in team


def check_availability(service: str, seconds: int, public: bool) -> None:
    """Raise InputError unless a task may wait so long for a worker."""
    most = AVAILABILITY_PUBLIC if public else AVAILABILITY_MOST
    check_number("--availability", seconds, AVAILABILITY_LEAST[service], most, "seconds")


def check_public(public: bool, price: str | None, free_of_pii: bool) -> Price | None:
    """The price, for Mechanical Turk alone; raises InputError where it is missing, unwanted or out of range."""
    if not public:
        if price is not None:
            raise InputError(
                f"--price {price!r}: only Mechanical Turk (public-crowd) is paid by the task; leave it out"
            )
        return None
    if not free_of_pii:
        raise InputError(
            "--team: Mechanical Turk gets no task unless you declare that it holds no personal data; add --free-of-pii "
            "if that is true, or choose a private team"
        )
    if price is None:
        raise InputError("--price: Mechanical Turk needs one; write what one task pays in US dollars, such as 0.036")
    try:
        tenths = Decimal(price) * 1000
    except InvalidOperation:
        tenths = Decimal("NaN")
    if not tenths.is_finite() or tenths != tenths.to_integral_value() or not 0 < tenths < (DOLLARS + 1) * 1000:
        raise InputError(
            f"--price {price!r}: allowed are 0.001 to {DOLLARS}.999 US dollars, to a tenth of a cent; mend it"
        )
    dollars, rest = divmod(int(tenths), 1000)
    return Price(dollars, *divmod(rest, 10))


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:59] + "…")
