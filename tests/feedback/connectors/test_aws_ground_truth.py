"""ground_truth: publishing against the service model, every state, and output manifests with their worker files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import ANY, Stubber
from feedback.connectors.shapes import (
    ADA,
    BEA,
    BUCKET,
    COMPLETIONS,
    PROMPTS,
    PUBLIC,
    ROLE,
    S3_PREFIX,
    TEAM,
    answer,
    described_job,
    dimensions,
    flat,
    settings,
)
from feedback.connectors.test_aws_template import render_probe

from humanward.errors import InputError
from humanward.feedback.connectors import ground_truth
from humanward.feedback.connectors.answers import Answers
from humanward.feedback.connectors.aws import S3, AbsentError, Aws
from humanward.feedback.connectors.ground_truth import (
    JobPlan,
    describe_job,
    local_reader,
    plan_job,
    publish_job,
    read_output,
    refuse_unfinished,
)
from humanward.feedback.connectors.items import Finder, build_items
from humanward.feedback.connectors.template import render_template

ITEMS = build_items(PROMPTS, COMPLETIONS).items
TEMPLATE = render_template(["helpful"])
ARN = {"LabelingJobArn": "arn:aws:sagemaker:us-east-1:123456789012:labeling-job/x"}


def plan(**changes: Any) -> JobPlan:
    return plan_job(settings(**changes), TEMPLATE, ITEMS)


def stub_render(stub: Stubber, content: str | None = None, errors: list[dict[str, str]] | None = None) -> None:
    expected = {"UiTemplate": {"Content": TEMPLATE}, "Task": {"Input": ANY}, "RoleArn": ROLE}
    page = render_probe() if content is None else content
    stub.add_response("render_ui_template", {"RenderedContent": page, "Errors": errors or []}, expected)


def test_what_is_sent(aws: Aws, sagemaker: Stubber) -> None:
    planned = plan()
    folder = f"{S3_PREFIX}/input/{planned.name}"
    stub_render(sagemaker)
    sagemaker.add_response(
        "create_labeling_job",
        ARN,
        {
            "LabelingJobName": planned.name,
            "LabelAttributeName": "ranking",
            "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": f"{folder}/input.manifest"}}},
            "OutputConfig": {"S3OutputPath": f"{S3_PREFIX}/output"},
            "RoleArn": ROLE,
            "HumanTaskConfig": {
                "WorkteamArn": TEAM,
                "TaskTitle": "Rank the answers",
                "TaskDescription": "Read a prompt and several answers to it, and rank the answers, the best first.",
                "TaskTimeLimitInSeconds": 3600,
                "NumberOfHumanWorkersPerDataObject": 2,
                "UiConfig": {"UiTemplateS3Uri": f"{folder}/template.liquid.html"},
            },
        },
    )
    assert publish_job(aws, planned) is True
    assert aws.read(f"{folder}/template.liquid.html").decode() == TEMPLATE
    lines = [json.loads(line) for line in aws.read(f"{folder}/input.manifest").decode().splitlines()]
    assert [line["item_id"] for line in lines] == ["sky", "same-1", "same-2"]
    assert sorted(lines[0]["responses"]) == ["It's <b>magic</b>", "No idea", "Rayleigh, scattering"]
    assert aws.client(S3).head_object(Bucket=BUCKET, Key=f"rank/input/{planned.name}/input.manifest")[
        "ContentType"
    ] == ("application/jsonlines")


def test_a_job_for_mechanical_turk(aws: Aws, sagemaker: Stubber) -> None:
    planned = plan(
        team=PUBLIC, price="0.036", free_of_pii=True, free_of_adult_content=True, availability=600, kms_key="alias/k"
    )
    job = planned.create.parameters
    task = job["HumanTaskConfig"]
    assert task["PublicWorkforceTaskPrice"] == {"AmountInUsd": {"Dollars": 0, "Cents": 3, "TenthFractionsOfACent": 6}}
    assert task["TaskAvailabilityLifetimeInSeconds"] == 600
    declared = ["FreeOfPersonallyIdentifiableInformation", "FreeOfAdultContent"]
    assert job["InputConfig"]["DataAttributes"] == {"ContentClassifiers": declared}
    assert job["OutputConfig"]["KmsKeyId"] == "alias/k"
    assert planned.uploads[0].parameters["SSEKMSKeyId"] == "alias/k"
    sagemaker.add_response("create_labeling_job", ARN, job)
    assert publish_job(aws, planned, render_check=False) is True


def test_the_same_has_the_same_name_and_any_change_another() -> None:
    name = plan().name
    assert plan().name == name
    assert name.startswith("run-")
    others = [
        plan(workers=3),
        plan(title="Other"),
        plan(team=TEAM + "2"),
        plan(s3=f"{S3_PREFIX}/2"),
        plan_job(settings(), TEMPLATE, ITEMS[:2]),
        plan_job(settings(), render_template(["honest"]), ITEMS),
        plan_job(settings(), TEMPLATE, ITEMS, "label-2"),
    ]
    assert len({name, *(other.name for other in others)}) == 8


def test_a_conflict_means_already_published(aws: Aws, sagemaker: Stubber) -> None:
    planned = plan()
    stub_render(sagemaker)
    sagemaker.add_client_error("create_labeling_job", "ResourceInUse", "Labeling job already exists", 400)
    sagemaker.add_response("describe_labeling_job", described_job(planned.name, "InProgress"))
    assert publish_job(aws, planned) is False


def test_a_conflict_with_a_failed_job_says_so(aws: Aws, sagemaker: Stubber) -> None:
    planned = plan()
    sagemaker.add_client_error("create_labeling_job", "ResourceInUse", "exists", 400)
    sagemaker.add_response(
        "describe_labeling_job", described_job(planned.name, "Failed", FailureReason="No access to S3.")
    )
    with pytest.raises(InputError, match=r"labelling job 'run-\w+': failed \(No access to S3\.\); .* another --name"):
        publish_job(aws, planned, render_check=False)


def test_nothing_is_uploaded_when_the_page_is_unsafe_or_broken(aws: Aws, sagemaker: Stubber) -> None:
    stub_render(sagemaker, render_probe(trusted_json=True))
    with pytest.raises(InputError, match="is not safe for hostile texts"):
        publish_job(aws, plan())
    stub_render(sagemaker, "", [{"Code": "x", "Message": "Liquid: unknown filter"}])
    with pytest.raises(
        InputError, match="AWS cannot render the template: Liquid: unknown filter; nothing was published"
    ):
        publish_job(aws, plan())
    assert "Contents" not in aws.client(S3).list_objects_v2(Bucket=BUCKET)


def test_requests_of_a_dry_run_are_json() -> None:
    requests = [request.as_json() for request in plan().requests()]
    assert [request["operation"] for request in requests] == [
        "render_ui_template",
        "put_object",
        "put_object",
        "create_labeling_job",
    ]
    assert json.loads(json.dumps(requests)) == requests
    assert requests[1]["parameters"]["Body"] == TEMPLATE
    assert plan().requests(render_check=False)[0].operation == "put_object"


@pytest.mark.parametrize("state", ["Initializing", "InProgress", "Stopping"])
def test_states_to_wait_in(aws: Aws, sagemaker: Stubber, state: str) -> None:
    sagemaker.add_response("describe_labeling_job", described_job("j", state), {"LabelingJobName": "j"})
    job = describe_job(aws, "j")
    assert not job.ended
    shown = {"job": "j", "state": state, "labelled": 2, "unlabelled": 1, "failed": 0}
    assert job.as_json() == shown | {"output": f"{S3_PREFIX}/output/j/manifests/output/output.manifest"}
    with pytest.raises(
        InputError, match=rf"'j': is {state} \(2 labelled, 1 unlabelled, 0 failed\); come back later or add"
    ):
        refuse_unfinished(job)


@pytest.mark.parametrize("state", ["Completed", "Stopped"])
def test_states_with_an_output(aws: Aws, sagemaker: Stubber, state: str) -> None:
    uri = "s3://elsewhere/output.manifest"
    sagemaker.add_response(
        "describe_labeling_job", described_job("j", state, LabelingJobOutput={"OutputDatasetS3Uri": uri})
    )
    job = describe_job(aws, "j")
    assert job.ended
    assert job.manifest == uri
    refuse_unfinished(job)


def test_a_failed_job_says_why(aws: Aws, sagemaker: Stubber) -> None:
    sagemaker.add_response("describe_labeling_job", described_job("j", "Failed", FailureReason="Bad manifest"))
    job = describe_job(aws, "j")
    assert job.ended
    assert job.as_json()["failure"] == "Bad manifest"
    with pytest.raises(InputError, match=r"labelling job 'j': failed \(Bad manifest\)"):
        refuse_unfinished(job)
    sagemaker.add_response("describe_labeling_job", described_job("j", "Failed"))
    with pytest.raises(InputError, match=r"failed \(AWS gives no reason\)"):
        refuse_unfinished(describe_job(aws, "j"))


def test_unknown_jobs_and_states(aws: Aws, sagemaker: Stubber) -> None:
    sagemaker.add_client_error("describe_labeling_job", "ResourceNotFound", "not found", 400)
    with pytest.raises(AbsentError, match="labelling job 'j': is not in region us-east-1; check --region"):
        describe_job(aws, "j")
    sagemaker.add_response("describe_labeling_job", described_job("j", "Paused"))
    with pytest.raises(InputError, match="'j': is in state 'Paused'; humanward knows Initializing, InProgress, "):
        describe_job(aws, "j")


# Output manifests.

SKY = {
    "source": "Why is the sky blue?",
    "responses": ["Rayleigh, scattering", "It's <b>magic</b>", "No idea"],
    "item_id": "sky",
    "completion_ids": ["sky-a", "sky-b", "sky-c"],
}
FRUIT = {"source": "Name a fruit, please."}
ONE = FRUIT | {"responses": ["Apple", "Brick"], "item_id": "same-1", "completion_ids": ["one-a", "one-b"]}
TWO = FRUIT | {"responses": ["Pear", "Stone"], "item_id": "same-2", "completion_ids": ["two-a", "two-b"]}
HYPHENS = {
    "job-name": "labeling-job/j",
    "type": "groundTruth/custom",
    "human-annotated": "yes",
    "creation-date": "2026-03-01T12:00:00",
    "worker-response-ref": "s3://b/out/j/annotations/worker-response/iteration-1/0/a.json",
}
UNDERSCORES = {
    "job_name": "j",
    "type": "groundTruth/custom",
    "human-annotated": "yes",
    "creation_date": "2026-03-01T12:00:00",
    "worker-response-ref": "s3://b/out/j/annotations/worker-response/iteration-1/1/b.json",
}
FILES = {
    HYPHENS["worker-response-ref"]: {
        "answers": [answer(dimensions(helpful=[1, 3, 2]), ADA), answer(dimensions(helpful=[1, 2, 2]), BEA)]
    },
    UNDERSCORES["worker-response-ref"]: {"answers": [answer(flat(2, 1), ADA), answer(flat(1, 1), BEA)]},
}


def read(*lines: Any, files: dict[str, Any] | None = None, finder: Finder | None = None, **options: Any) -> Answers:
    into = Answers(skip_bad=options.pop("skip_bad", False))
    contents = FILES if files is None else files

    def fetch(uri: str) -> bytes:
        if uri not in contents:
            raise AbsentError(f"{uri}: not there")
        return json.dumps(contents[uri]).encode()

    data = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    read_output(data, "out.manifest", fetch, finder or Finder(PROMPTS, COMPLETIONS), into, **options)
    return into


def labelled(
    item: dict[str, Any], metadata: dict[str, Any], label: str = "ranking", value: Any = None
) -> dict[str, Any]:
    return item | {label: value or {}, f"{label}-metadata": metadata}


def test_every_worker_of_every_line_with_hyphens_and_underscores() -> None:
    found = read(labelled(SKY, HYPHENS), labelled(TWO, UNDERSCORES))
    seen = {(r.prompt_id, r.annotator, r.criterion): r.tiers for r in found.rankings.values()}
    assert seen == {
        ("sky", ADA, "helpful"): (("sky-a",), ("sky-c",), ("sky-b",)),
        ("sky", BEA, "helpful"): (("sky-a",), ("sky-b", "sky-c")),
        ("same-2", ADA, "overall"): (("two-b",), ("two-a",)),
        ("same-2", BEA, "overall"): (("two-a", "two-b"),),
    }
    assert {raw.task for raw in found.raw.values()} == {"j/sky", "j/same-2"}
    assert found.unlabelled == 0
    assert read(labelled(SKY, HYPHENS), labelled(TWO, UNDERSCORES)) == found


def test_prompts_with_the_same_text_stay_apart() -> None:
    files = dict(FILES)
    uri = UNDERSCORES["worker-response-ref"].replace("/1/", "/2/")
    files[uri] = {"answers": [answer(flat(1, 2), ADA)]}
    found = read(labelled(ONE, UNDERSCORES | {"worker-response-ref": uri}), labelled(TWO, UNDERSCORES), files=files)
    by_ada = {r.prompt_id: r.tiers for r in found.rankings.values() if r.annotator == ADA}
    assert by_ada == {"same-1": (("one-a",), ("one-b",)), "same-2": (("two-b",), ("two-a",))}


def test_lines_without_an_answer_are_counted() -> None:
    found = read(
        SKY, "", labelled(ONE, {"failure-reason": "ClientError: expired", "job-name": "j"}), labelled(TWO, UNDERSCORES)
    )
    assert found.unlabelled == 2
    assert found.reasons == ["out.manifest line 3: ClientError: expired"]
    assert len(found.rankings) == 2


def test_labels_by_name() -> None:
    both = labelled(labelled(SKY, {"job-name": "older"}, "earlier"), HYPHENS)
    assert len(read(both, label="ranking").rankings) == 2
    with pytest.raises(
        InputError, match=r"out\.manifest line 1: has the labels earlier, ranking; say which with --label"
    ):
        read(both)
    assert read(labelled(SKY, HYPHENS), label="other").unlabelled == 1


def test_answers_that_a_consolidation_function_copied() -> None:
    contents = [flat(1, 2), dimensions(overall=[2, 1])]
    everyone = [
        {"workerId": worker, "annotationData": {"content": json.dumps(content)}}
        for worker, content in zip((ADA, BEA), contents, strict=True)
    ]
    metadata = {"job-name": "j", "type": "groundtruth/custom", "human-annotated": "yes", "creation-date": "2026"}
    found = read(labelled(TWO, metadata, value={"annotationsFromAllWorkers": everyone}))
    assert {r.annotator: (r.tiers, r.created_at) for r in found.rankings.values()} == {
        ADA: ((("two-a",), ("two-b",)), ""),
        BEA: ((("two-b",), ("two-a",)), ""),
    }
    with pytest.raises(InputError, match=r"line 1 answer 1, field 'answerContent': is no object"):
        read(labelled(TWO, metadata, value={"annotationsFromAllWorkers": [{"workerId": ADA}]}))
    with pytest.raises(InputError, match=r"line 1: has neither worker-response-ref nor annotationsFromAllWorkers"):
        read(labelled(TWO, metadata, value={"response_1_ranking": "1"}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"out\.manifest line 2: not JSON"),
        ("[1]", r"out\.manifest line 2: is no object"),
        (SKY | {"ranking-metadata": 3}, r"out\.manifest line 2, field 'ranking-metadata': is no object"),
        (labelled({"source": "x"}, HYPHENS), r"out\.manifest line 2, field 'responses'"),
        (labelled(SKY | {"item_id": "gone"}, HYPHENS), r"out\.manifest line 2: item 'gone' is not in the run"),
        (
            labelled(SKY, HYPHENS | {"worker-response-ref": "s3://b/none"}),
            r"out\.manifest line 2: s3://b/none: not there",
        ),
        (labelled(ONE, HYPHENS), r"s3://b/out/j/.*/a\.json answer 1, criterion 'helpful': has 3 ranks for 2 answers"),
    ],
)
def test_bad_lines_are_errors_or_left_out(line: Any, message: str) -> None:
    good = labelled(TWO, UNDERSCORES)
    with pytest.raises(InputError, match=message):
        read(good, line)
    kept = read(good, line, skip_bad=True)
    assert len(kept.rankings) == 2
    assert len(kept.bad) >= 1


def test_a_manifest_that_is_no_text() -> None:
    with pytest.raises(InputError, match=r"m: not UTF-8 \(byte 0\)"):
        read_output(b"\xff", "m", lambda uri: b"", Finder([], []), Answers())


def test_worker_files_without_answers() -> None:
    for content in ({}, [], {"answers": 3}):
        with pytest.raises(InputError, match=r"a\.json: holds no list of answers"):
            read(labelled(SKY, HYPHENS), files={HYPHENS["worker-response-ref"]: content})


def test_a_copy_of_a_jobs_folder(tmp_path: Path) -> None:
    for uri, content in FILES.items():
        path = tmp_path / "copy" / "annotations" / uri.split("/annotations/")[1]
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    into = Answers()
    reader = local_reader(tmp_path / "copy")
    data = f"{json.dumps(labelled(SKY, HYPHENS))}\r\n{json.dumps(labelled(TWO, UNDERSCORES))}".encode()
    read_output(data, "m", reader, Finder(PROMPTS, COMPLETIONS), into)
    assert len(into.rankings) == 4
    (tmp_path / "secret.json").write_text('{"answers": []}')
    for uri, message in (
        ("s3://b/j/annotations/../../secret.json", "is no file of a job's annotations"),
        ("s3://b/j/else/a.json", "is no file of a job's annotations"),
        ("s3://b/j/annotations/none.json", r"none\.json: cannot be read \(No such file or directory\)"),
    ):
        with pytest.raises(InputError, match=message):
            reader(uri)


def test_states_are_all_there() -> None:
    assert {state for state, last in ground_truth.STATES.items() if last} == {"Completed", "Failed", "Stopped"}
