"""The commands on a run directory: publish, status, import, twice; dry runs; bad input in one line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber
from feedback.connectors.shapes import (
    ADA,
    BEA,
    BUCKET,
    ROLE,
    S3_PREFIX,
    TEAM,
    answer,
    described_flow,
    described_job,
    described_loop,
    dimensions,
    flat,
)
from feedback.connectors.test_aws_template import render_probe
from typer.testing import CliRunner

from humanward.errors import InputError
from humanward.feedback.commands import app
from humanward.feedback.connectors import commands
from humanward.feedback.connectors.aws import S3, Aws
from humanward.feedback.connectors.polling import poll
from humanward.records import Preference, Prompt, Ranking, read_jsonl

WHERE = ("--team", TEAM, "--role", ROLE, "--s3", S3_PREFIX)
RENDERED = {"RenderedContent": render_probe(), "Errors": []}


def call(*arguments: object) -> Any:
    """The JSON that a command prints; it must succeed."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def connected(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "connect", lambda region, profile: aws)


def put(aws: Aws, uri: str, value: Any) -> None:
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    body = value if isinstance(value, str) else json.dumps(value)
    aws.client(S3).put_object(Bucket=bucket, Key=key, Body=body.encode())


def finish_job(aws: Aws, name: str) -> None:
    """Write what Ground Truth writes when two workers have ranked by two criteria; the last prompt has no answer."""
    manifest = aws.read(f"{S3_PREFIX}/input/{name}/input.manifest").decode().splitlines()
    lines = []
    for index, line in enumerate(manifest):
        item = json.loads(line)
        if index < 2:
            count = len(item["responses"])
            ordered, tied = list(range(1, count + 1)), [1] * count
            uri = f"{S3_PREFIX}/output/{name}/annotations/worker-response/iteration-1/{index}/2026-03-01_12:00:00.json"
            ranks = dimensions(helpful=ordered, honest=tied)
            put(aws, uri, {"answers": [answer(ranks, ADA), answer(ranks, BEA, 31)]})
            item |= {"ranking": {}, "ranking-metadata": {"job-name": name, "worker-response-ref": uri}}
        lines.append(json.dumps(item))
    put(aws, f"{S3_PREFIX}/output/{name}/manifests/output/output.manifest", "\n".join(lines) + "\n")


def test_a_labelling_job_from_publishing_to_preferences(run: Path, aws: Aws, sagemaker: Stubber) -> None:
    publish = ("ground-truth", "publish", "--run", run, *WHERE, "--criterion", "helpful", "--criterion", "honest")
    sagemaker.add_response("render_ui_template", RENDERED)
    arn = {"LabelingJobArn": "arn:aws:sagemaker:us-east-1:123456789012:labeling-job/x"}
    sagemaker.add_response("create_labeling_job", arn)
    told = call(*publish, "--workers", 2)
    name = told["job"]
    expected = {"job": name, "new": True, "prompts": 3, "left_out": 1, "workers": 2, "region": "us-east-1"}
    assert told == expected
    sagemaker.add_response("render_ui_template", RENDERED)
    sagemaker.add_client_error("create_labeling_job", "ResourceInUse", "exists", 400)
    sagemaker.add_response("describe_labeling_job", described_job(name, "InProgress"))
    assert call(*publish, "--workers", 2) == expected | {"new": False}

    sagemaker.add_response("describe_labeling_job", described_job(name, "InProgress"), {"LabelingJobName": name})
    (job,) = call("ground-truth", "status", "--run", run)["jobs"]
    assert (job["state"], job["labelled"]) == ("InProgress", 2)
    sagemaker.add_response("describe_labeling_job", described_job(name, "InProgress"))
    with pytest.raises(InputError, match=r"is InProgress .*come back later or add --wait SECONDS"):
        call("ground-truth", "import", "--run", run)
    assert not (run / "rankings.jsonl").exists()

    finish_job(aws, name)
    files: dict[str, bytes] = {}
    for number in range(2):
        sagemaker.add_response("describe_labeling_job", described_job(name, "Completed"))
        told = call("ground-truth", "import", "--run", run)
        # Two prompts, two workers, two criteria; helpful: 3 + 1 pairs a worker, honest: as many ties.
        counts = {key: told[key] for key in ("answers", "rankings", "pairs", "ties", "unlabelled", "bad")}
        assert counts == {"answers": 4, "rankings": 8, "pairs": 8, "ties": 8, "unlabelled": 1, "bad": 0}
        assert told["new_rankings"] == (0 if number else 8)
        now = {path.name: path.read_bytes() for path in (*run.glob("*.jsonl"), *run.glob("aws/*"))}
        assert not files or now == files
        files = now
    assert set(files) == {
        "prompts.jsonl",
        "completions.jsonl",
        "rankings.jsonl",
        "preferences.jsonl",
        "answers.jsonl",
        f"{name}.json",
    }
    rankings = read_jsonl(run / "rankings.jsonl", Ranking)
    assert {(r.annotator, r.criterion) for r in rankings} == {(w, c) for w in (ADA, BEA) for c in ("helpful", "honest")}
    assert all(p.split == "train" for p in read_jsonl(run / "preferences.jsonl", Preference))
    stats = json.loads(
        CliRunner()
        .invoke(app, ["stats", "--run", str(run), "--json", "--resamples", "100"], catch_exceptions=False)
        .stdout
    )
    assert stats["agreement"]["value"] == 1


def test_waiting_for_a_job_and_its_failure(run: Path, sagemaker: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(commands, "poll", partial(poll, sleep=pauses.append))
    for state in ("Initializing", "InProgress", "Stopping", "Stopped"):
        sagemaker.add_response("describe_labeling_job", described_job("other", state))
    (job,) = call("ground-truth", "status", "--run", run, "--job", "other", "--wait", 1000)["jobs"]
    assert job["state"] == "Stopped"
    assert pauses == [5, 8, pytest.approx(12.8)]
    sagemaker.add_response("describe_labeling_job", described_job("other", "Failed", FailureReason="No role"))
    with pytest.raises(InputError, match=r"labelling job 'other': failed \(No role\)"):
        call("ground-truth", "import", "--run", run, "--job", "other", "--wait", 1000)


def test_a_failed_job_does_not_hide_a_good_one(run: Path, aws: Aws, sagemaker: Stubber) -> None:
    (run / "aws").mkdir()
    record = {"service": "ground-truth", "region": "us-east-1", "criteria": ["overall"], "items": 1, "label": "ranking"}
    for name in ("a-bad", "b-good"):
        (run / "aws" / f"{name}.json").write_text(json.dumps(record | {"name": name}))
    sagemaker.add_response("describe_labeling_job", described_job("a-bad", "Failed", FailureReason="No role"))
    sagemaker.add_response("describe_labeling_job", described_job("b-good", "Stopped"))
    uri = f"{S3_PREFIX}/output/b-good/annotations/w.json"
    put(aws, uri, {"answers": [answer(flat(1, 2, 3))]})
    item = {"source": "Why is the sky blue?", "responses": ["No idea", "It's <b>magic</b>", "Rayleigh, scattering"]}
    line = item | {"ranking": {}, "ranking-metadata": {"job-name": "b-good", "worker-response-ref": uri}}
    put(aws, f"{S3_PREFIX}/output/b-good/manifests/output/output.manifest", line)
    result = CliRunner().invoke(app, ["ground-truth", "import", "--run", str(run), "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["new_rankings"] == 1
    assert "not imported: labelling job 'a-bad': failed (No role)" in result.stderr


def test_human_loops_from_publishing_to_rankings(run: Path, aws: Aws, sagemaker: Stubber, loops: Stubber) -> None:
    publish = ("a2i", "publish", "--run", run, *WHERE)
    planned = call(*publish, "--dry-run")["requests"]
    operations = ["render_ui_template", "create_human_task_ui", "create_flow_definition", "describe_flow_definition"]
    assert [request["operation"] for request in planned] == [*operations, *["start_human_loop"] * 3]
    names = [request["parameters"]["HumanLoopName"] for request in planned[4:]]
    arn = planned[4]["parameters"]["FlowDefinitionArn"]
    sagemaker.add_response("render_ui_template", RENDERED)
    interface = {"HumanTaskUiArn": "arn:aws:sagemaker:us-east-1:123456789012:human-task-ui/x"}
    sagemaker.add_response("create_human_task_ui", interface)
    sagemaker.add_response("create_flow_definition", {"FlowDefinitionArn": arn})
    sagemaker.add_response("describe_flow_definition", described_flow(arn, "Active"))
    loops.add_response("start_human_loop", {})
    loops.add_client_error("start_human_loop", "ServiceQuotaExceededException", "too many loops", 402)
    with pytest.raises(InputError, match="ServiceQuotaExceededException: too many loops; wait or ask AWS"):
        call(*publish)

    states = [{"HumanLoopName": names[0], "HumanLoopStatus": "InProgress"}]
    loops.add_response("list_human_loops", {"HumanLoopSummaries": states})
    (flow,) = call("a2i", "status", "--run", run)["flows"]
    assert flow == {"flow_definition": arn, "loops": 1, "InProgress": 1, "not_started": 2}

    for operation in ("create_human_task_ui", "create_flow_definition"):
        sagemaker.add_client_error(operation, "ResourceInUse", "exists", 400)
    sagemaker.add_response("describe_flow_definition", described_flow(arn, "Active"))
    loops.add_client_error("start_human_loop", "ConflictException", "exists", 409)
    loops.add_response("start_human_loop", {})
    loops.add_response("start_human_loop", {})
    assert call(*publish, "--no-render-check")["new"] == 2

    uri = f"{S3_PREFIX}/output/f/2026/{names[0]}/output.json"
    content = json.loads(planned[4]["parameters"]["HumanLoopInput"]["InputContent"])
    put(aws, uri, {"humanAnswers": [answer(flat(1, 1, 2))], "humanLoopName": names[0], "inputContent": content})
    states = [
        {"HumanLoopName": n, "HumanLoopStatus": s}
        for n, s in zip(names, ("Completed", "Failed", "Stopping"), strict=True)
    ]
    for new in (1, 0):
        loops.add_response("list_human_loops", {"HumanLoopSummaries": states})
        loops.add_response("describe_human_loop", described_loop(names[0], "Completed", uri))
        told = call("a2i", "import", "--run", run)
        assert (told["new_rankings"], told["rankings"], told["unlabelled"]) == (new, 1, 2)
        assert told["flows"][0]["failures"] == {names[1]: "AWS gives no reason"}
    (ranking,) = read_jsonl(run / "rankings.jsonl", Ranking)
    assert ranking.tiers == (tuple(content["completion_ids"][:2]), tuple(content["completion_ids"][2:]))


def test_another_flow_definition_by_its_arn(run: Path, loops: Stubber) -> None:
    arn = "arn:aws:sagemaker:us-east-1:123456789012:flow-definition/older"
    loops.add_response("list_human_loops", {"HumanLoopSummaries": []}, {"FlowDefinitionArn": arn, "MaxResults": 100})
    assert call("a2i", "status", "--run", run, "--flow-definition", arn)["flows"] == [
        {"flow_definition": arn, "loops": 0}
    ]


def test_a_dry_run_sends_nothing(run: Path, aws: Aws, sagemaker: Stubber) -> None:
    shown = CliRunner().invoke(app, ["ground-truth", "publish", "--run", str(run), *WHERE, "--dry-run"]).stdout
    value = json.loads(shown)
    assert value["dry_run"] is True
    assert [r["service"] for r in value["requests"]] == ["sagemaker", "s3", "s3", "sagemaker"]
    assert "Contents" not in aws.client(S3).list_objects_v2(Bucket=BUCKET)
    assert not (run / "aws").exists()


def test_downloaded_jobs_of_another_tool_into_a_new_run(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (folder / "annotations").mkdir(parents=True)
    (folder / "manifests/output").mkdir(parents=True)
    lines = []
    for index in range(2):
        (folder / f"annotations/{index}.json").write_text(
            json.dumps({"answers": [answer(flat(2, 1), ADA), answer(flat(1, 1), BEA)]})
        )
        metadata = {"job_name": "labeling-job/old", "worker-response-ref": f"s3://b/old/annotations/{index}.json"}
        lines.append({"source": "Twice?", "responses": ["a, b", "c"], "old": {}, "old-metadata": metadata})
    (folder / "manifests/output/output.manifest").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = tmp_path / "new"
    for new in (4, 0):
        told = call("ground-truth", "import", "--run", run, "--from", folder, "--add-prompts", "--criterion", "helpful")
        assert (told["new_rankings"], told["rankings"], told["pairs"], told["ties"]) == (new, 4, 2, 2)
    assert [p.text for p in read_jsonl(run / "prompts.jsonl", Prompt)] == ["Twice?", "Twice?"]
    assert {r.criterion for r in read_jsonl(run / "rankings.jsonl", Ranking)} == {"helpful"}
    with pytest.raises(InputError, match=r"output\.manifest line 1: 2 prompts of the run have this text; add item_id"):
        call("ground-truth", "import", "--run", run, "--from", folder / "manifests/output/output.manifest")


def test_downloaded_outputs_of_loops(run: Path, tmp_path: Path) -> None:
    content = {"source": "Why is the sky blue?", "responses": ["No idea", "Rayleigh, scattering"], "item_id": "sky"}
    good = {"humanAnswers": [answer(flat(2, 1))], "humanLoopName": "l", "inputContent": content}
    (tmp_path / "out/l").mkdir(parents=True)
    (tmp_path / "out/l/output.json").write_text(json.dumps(good))
    (tmp_path / "bad.json").write_text(json.dumps(good | {"humanAnswers": [answer(flat(2))], "humanLoopName": "m"}))
    arguments = ("a2i", "import", "--run", run, "--from", tmp_path / "out", "--from", tmp_path / "bad.json")
    with pytest.raises(InputError, match=r"bad\.json answer 1: answer 2 has no rank; every answer needs one$"):
        call(*arguments)
    assert not (run / "rankings.jsonl").exists()
    told = call(*arguments, "--skip-bad")
    assert (told["new_rankings"], told["bad"]) == (1, 1)
    changed = good | {"humanAnswers": [answer(flat(1, 2))]}
    (tmp_path / "out/l/output.json").write_text(json.dumps(changed))
    with pytest.raises(
        InputError, match=r"differs from the one imported before from .*output\.json; remove the wrong one"
    ):
        call("a2i", "import", "--run", run, "--from", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ground-truth", "publish", "--run", "RUN", *WHERE, "--workers", 0), "--workers 0: allowed are 1 to 9"),
        (("ground-truth", "publish", "--run", "RUN", *WHERE, "--label", "x-metadata"), "may end neither in -metadata"),
        (("ground-truth", "publish", "--run", "GONE", *WHERE), "no such run directory; check --run"),
        (
            ("ground-truth", "publish", "--run", "RUN", *WHERE, "--guidelines", "GONE"),
            "--guidelines '.*GONE': cannot be",
        ),
        (
            ("ground-truth", "publish", "--run", "RUN", *WHERE, "--guidelines", "EMPTY"),
            "--guidelines '.*': is empty; write",
        ),
        (("ground-truth", "status", "--run", "RUN"), "nothing was published to ground-truth from it; run: humanward"),
        (("ground-truth", "import", "--run", "GONE"), "no such run directory; check --run"),
        (("ground-truth", "import", "--run", "RUN", "--from", "GONE"), "GONE: cannot be read"),
        (
            ("ground-truth", "import", "--run", "RUN", "--from", "GONE", "--label", "a_b"),
            "--label 'a_b': has not the form",
        ),
        (("a2i", "publish", "--run", "RUN", *WHERE, "--workers", 4), "--workers 4: allowed are 1 to 3"),
        (("a2i", "status", "--run", "RUN"), "nothing was published to a2i from it"),
        (("a2i", "status", "--run", "RUN", "--flow-definition", "f"), "--flow-definition 'f': has not the form"),
        (("a2i", "import", "--run", "RUN", "--from", "RUN"), "holds no output.json"),
    ],
)
def test_bad_input_is_one_line(run: Path, arguments: tuple[object, ...], message: str) -> None:
    (run / "EMPTY").write_text(" \n")
    paths = {"RUN": run, "GONE": run / "GONE", "EMPTY": run / "EMPTY"}
    with pytest.raises(InputError, match=message) as caught:
        call(*(paths.get(str(argument), argument) for argument in arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("service", ["ground-truth", "a2i"])
@pytest.mark.parametrize("command", ["publish", "status", "import"])
def test_every_command_has_help_with_an_example(service: str, command: str) -> None:
    shown = " ".join(CliRunner().invoke(app, [service, command, "--help"]).stdout.split())
    assert f"Example: humanward feedback {service} {command} " in shown


def test_results_as_a_person_reads_them(run: Path, sagemaker: Stubber, loops: Stubber) -> None:
    failed = described_job("other", "Failed", FailureReason="No [role]")
    sagemaker.add_response("describe_labeling_job", failed)
    arguments = ["ground-truth", "status", "--run", str(run), "--job", "other"]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    rows = [line.split() for line in shown.splitlines()]
    for row in (["job", "other"], ["state", "Failed"], ["labelled", "2"], ["failure", "No", "[role]"]):
        assert row in rows
    arn = "arn:aws:sagemaker:us-east-1:123456789012:flow-definition/f"
    states = [{"HumanLoopName": "a", "HumanLoopStatus": "Failed", "FailureReason": "Bad input"}]
    loops.add_response("list_human_loops", {"HumanLoopSummaries": states})
    arguments = ["a2i", "status", "--run", str(run), "--flow-definition", arn]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    rows = [line.split() for line in shown.splitlines()]
    for row in (["loops", "1"], ["Failed", "1"], ["failures", "a", "Bad", "input"]):
        assert row in rows


def test_a_dry_run_for_people_is_json_too(run: Path) -> None:
    arguments = ["a2i", "publish", "--run", str(run), *WHERE, "--dry-run", "--guidelines", str(run / "mine.md")]
    (run / "mine.md").write_text("# Mine\n\nRank *well*.")
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "<em>well</em>" in json.loads(shown)["requests"][1]["parameters"]["UiTemplate"]["Content"]
    assert shown.count("\n") > 20


def test_status_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: no such run directory; check --run"):
        call("a2i", "status", "--run", tmp_path / "gone")
