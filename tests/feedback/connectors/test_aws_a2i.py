"""a2i: interface, flow definition and human loops against the service models; every state; output.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.stub import ANY, Stubber
from feedback.connectors.shapes import (
    ADA,
    BEA,
    BUCKET,
    COMPLETIONS,
    PROMPTS,
    ROLE,
    S3_PREFIX,
    TEAM,
    answer,
    described_flow,
    described_loop,
    dimensions,
    flat,
    settings,
)
from feedback.connectors.test_aws_template import render_probe

from humanward.errors import InputError
from humanward.feedback.connectors import a2i
from humanward.feedback.connectors.a2i import LoopPlan, Loops, list_loops, plan_loops, publish_loops, read_loops
from humanward.feedback.connectors.answers import Answers
from humanward.feedback.connectors.aws import S3, AbsentError, Aws
from humanward.feedback.connectors.items import Finder, build_items
from humanward.feedback.connectors.template import render_template

ITEMS = build_items(PROMPTS, COMPLETIONS).items
TEMPLATE = render_template(["helpful"])
FLOW = "arn:aws:sagemaker:us-east-1:123456789012:flow-definition/f"


def plan(**changes: Any) -> LoopPlan:
    return plan_loops(settings("a2i", **changes), TEMPLATE, ITEMS)


def at_once(look: Callable[[], Any], ended: Callable[[Any], bool], seconds: float) -> Any:
    """Looks up to three times without pausing."""
    state = look()
    for _ in range(2):
        if ended(state):
            break
        state = look()
    return state


def stub_until_loops(sagemaker: Stubber, planned: LoopPlan, *states: str, **changes: Any) -> None:
    interface = {"HumanTaskUiName": ANY, "UiTemplate": {"Content": TEMPLATE}}
    arn = planned.flow.parameters["HumanLoopConfig"]["HumanTaskUiArn"]
    sagemaker.add_response("create_human_task_ui", {"HumanTaskUiArn": arn}, interface)
    sagemaker.add_response("create_flow_definition", {"FlowDefinitionArn": planned.flow_arn})
    for state in states:
        described = described_flow(planned.flow_arn, state, **changes)
        sagemaker.add_response(
            "describe_flow_definition", described, {"FlowDefinitionName": described["FlowDefinitionName"]}
        )


def test_what_is_sent(aws: Aws, sagemaker: Stubber, loops: Stubber) -> None:
    planned = plan(workers=3, availability=1)
    sagemaker.add_response("render_ui_template", {"RenderedContent": render_probe(), "Errors": []})
    stub_until_loops(sagemaker, planned, "Initializing", "Active")
    for request, item in zip(planned.loops, ITEMS, strict=True):
        expected = {
            "HumanLoopName": request.parameters["HumanLoopName"],
            "FlowDefinitionArn": planned.flow_arn,
            "HumanLoopInput": {"InputContent": item.line()},
        }
        loops.add_response(
            "start_human_loop", {"HumanLoopArn": "arn:aws:sagemaker:us-east-1:123456789012:human-loop/x"}, expected
        )
    called: list[Any] = []
    new = publish_loops(aws, planned, made=lambda: called.append("made"), started=called.append, wait=at_once)
    assert new == 3
    assert called == ["made", 1, 2, 3]
    interface = planned.interface.parameters["HumanTaskUiName"]
    assert planned.flow.parameters == {
        "FlowDefinitionName": planned.flow_arn.rsplit("/", 1)[1],
        "HumanLoopConfig": {
            "WorkteamArn": TEAM,
            "HumanTaskUiArn": f"arn:aws:sagemaker:us-east-1:123456789012:human-task-ui/{interface}",
            "TaskTitle": "Rank the answers",
            "TaskDescription": "Read a prompt and several answers to it, and rank the answers, the best first.",
            "TaskCount": 3,
            "TaskTimeLimitInSeconds": 3600,
            "TaskAvailabilityLifetimeInSeconds": 1,
        },
        "OutputConfig": {"S3OutputPath": f"{S3_PREFIX}/output"},
        "RoleArn": ROLE,
    }


def test_conflicts_mean_already_published(aws: Aws, sagemaker: Stubber, loops: Stubber) -> None:
    planned = plan()
    for operation in ("create_human_task_ui", "create_flow_definition"):
        sagemaker.add_client_error(operation, "ResourceInUse", "exists", 400)
    sagemaker.add_response("describe_flow_definition", described_flow(planned.flow_arn, "Active"))
    loops.add_client_error("start_human_loop", "ConflictException", "exists", 409)
    loops.add_response("start_human_loop", {})
    loops.add_client_error("start_human_loop", "ConflictException", "exists", 409)
    assert publish_loops(aws, planned, render_check=False, wait=at_once) == 1


def test_names_follow_the_content() -> None:
    def names(planned: LoopPlan) -> list[str]:
        return [
            next(v for k, v in r.parameters.items() if k.endswith("Name")) for r in planned.requests(render_check=False)
        ]

    first = names(plan())
    assert names(plan()) == first
    assert len(set(first)) == 1 + 1 + 3
    assert set(names(plan(workers=3))) & set(first) == {first[0]}
    assert all(len(name) <= 63 for name in names(plan(name="a" * 46)))


def test_declared_content_goes_with_every_loop() -> None:
    for request in plan(free_of_pii=True).loops:
        declared = request.parameters["DataAttributes"]
        assert declared == {"ContentClassifiers": ["FreeOfPersonallyIdentifiableInformation"]}


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (
            ("Failed",),
            r"flow definition 'run-\w+': is Failed \(No such team\); mend it and publish with another --name",
        ),
        (("Deleting",), r"flow definition 'run-\w+': is Deleting \("),
        (
            ("Initializing",) * 3,
            r"flow definition 'run-\w+': is still Initializing after 300 s; run the same command again",
        ),
        (("Sleeping",), r"flow definition 'run-\w+': is Sleeping"),
    ],
)
def test_a_flow_definition_that_does_not_become_active(
    aws: Aws, sagemaker: Stubber, states: tuple[str, ...], message: str
) -> None:
    planned = plan()
    stub_until_loops(sagemaker, planned, *states, FailureReason="No such team")
    with pytest.raises(InputError, match=message):
        publish_loops(aws, planned, render_check=False, wait=at_once)


def test_a_role_of_another_account(aws: Aws, sagemaker: Stubber) -> None:
    planned = plan()
    stub_until_loops(sagemaker, planned, "Active", FlowDefinitionArn=planned.flow_arn.replace("123456789012", "2" * 12))
    with pytest.raises(InputError, match="give a --role of the account whose credentials boto3 uses"):
        publish_loops(aws, planned, render_check=False, wait=at_once)


def test_an_unsafe_page_stops_everything(aws: Aws, sagemaker: Stubber) -> None:
    unsafe = {"RenderedContent": render_probe(trusted_json=True), "Errors": []}
    sagemaker.add_response("render_ui_template", unsafe)
    with pytest.raises(InputError, match="is not safe for hostile texts"):
        publish_loops(aws, plan())
    sagemaker.add_response("render_ui_template", {"RenderedContent": "", "Errors": [{"Code": "x", "Message": "no"}]})
    with pytest.raises(InputError, match="AWS cannot render the template: no; nothing was published"):
        publish_loops(aws, plan())


def summaries(**states: str) -> list[dict[str, Any]]:
    return [{"HumanLoopName": name, "HumanLoopStatus": state} for name, state in states.items()]


def test_every_state_over_several_pages(aws: Aws, loops: Stubber) -> None:
    first = summaries(a="InProgress", b="Completed", c="Stopped")
    second = [*summaries(d="Stopping", x="Completed"), summaries(e="Failed")[0] | {"FailureReason": "Bad input"}]
    query = {"FlowDefinitionArn": FLOW, "MaxResults": 100}
    loops.add_response("list_human_loops", {"HumanLoopSummaries": first, "NextToken": "t"}, query)
    loops.add_response("list_human_loops", {"HumanLoopSummaries": second}, query | {"NextToken": "t"})
    found = list_loops(aws, FLOW, ["a", "b", "c", "d", "e", "f"])
    assert not found.ended
    assert found.as_json() == {
        "flow_definition": FLOW,
        "loops": 5,
        "InProgress": 1,
        "Stopping": 1,
        "Completed": 1,
        "Failed": 1,
        "Stopped": 1,
        "not_started": 1,
        "failures": {"e": "Bad input"},
    }


@pytest.mark.parametrize(("state", "last"), list(a2i.STATES.items()))
def test_which_states_are_the_last(state: str, last: bool) -> None:
    assert Loops(FLOW, {"a": state, "b": "Completed"}).ended is last
    assert last is (state in ("Completed", "Failed", "Stopped"))


def test_unknown_flows_and_states(aws: Aws, loops: Stubber) -> None:
    loops.add_client_error("list_human_loops", "ResourceNotFoundException", "not there", 404)
    with pytest.raises(AbsentError, match=r"flow definition '.*/f': is not there; check --region, or publish again"):
        list_loops(aws, FLOW)
    loops.add_response("list_human_loops", {"HumanLoopSummaries": summaries(a="Paused")})
    with pytest.raises(InputError, match="human loop 'a': is in state 'Paused'; humanward knows InProgress, Stopping"):
        list_loops(aws, FLOW)


def output(name: str, content: Any, *answers: Any, **changes: Any) -> bytes:
    value = {"flowDefinitionArn": FLOW, "humanAnswers": list(answers), "humanLoopName": name, "inputContent": content}
    return json.dumps(value | changes).encode()


SKY = json.loads(ITEMS[0].line())
NOTEBOOK = {"taskObject": {"prompt": "Why is the sky blue?", "responses": ["No idea", "Rayleigh, scattering"]}}


def put(aws: Aws, name: str, data: bytes) -> str:
    key = f"rank/output/f/2026/03/01/12/00/00/{name}/output.json"
    aws.client(S3).put_object(Bucket=BUCKET, Key=key, Body=data)
    return f"s3://{BUCKET}/{key}"


def test_outputs_of_completed_and_stopped_loops(aws: Aws, loops: Stubber) -> None:
    uri = put(
        aws,
        "a",
        output("a", SKY, answer(dimensions(helpful=[1, 2, 2]), ADA), answer(dimensions(helpful=[3, 1, 2]), BEA)),
    )
    part = put(aws, "s", output("s", json.loads(ITEMS[1].line()), answer(flat(1, 2), ADA)))
    none = put(aws, "n", output("n", json.loads(ITEMS[2].line())))
    for described in (
        described_loop("a", "Completed", uri),
        described_loop("s", "Stopped", part),
        described_loop("t", "Stopped", FailureReason="cancelled"),
        described_loop("n", "Completed", none),
    ):
        loops.add_response("describe_human_loop", described, {"HumanLoopName": described["HumanLoopName"]})
    states = {"a": "Completed", "p": "InProgress", "s": "Stopped", "t": "Stopped", "f": "Failed", "n": "Completed"}
    into, done = Answers(), list[int]()
    listed = Loops(FLOW, states, {"f": "Bad input"})
    read_loops(aws, listed, Finder(PROMPTS, COMPLETIONS), into, criterion="helpful", done=done.append)
    sky = SKY["completion_ids"]
    seen = {(r.prompt_id, r.annotator): r.tiers for r in into.rankings.values()}
    shown = ITEMS[1].completion_ids
    assert seen == {
        ("sky", ADA): ((sky[0],), (sky[1], sky[2])),
        ("sky", BEA): ((sky[1],), (sky[2],), (sky[0],)),
        ("same-1", ADA): ((shown[0],), (shown[1],)),
    }
    assert into.unlabelled == 4
    assert into.reasons == [
        "human loop 't': is Stopped without an output (cancelled)",
        "human loop 'f': failed (Bad input)",
    ]
    assert done == [1, 2, 3, 4, 5, 6]


def test_an_output_that_is_gone(aws: Aws, loops: Stubber) -> None:
    for _ in range(2):
        loops.add_response("describe_human_loop", described_loop("a", "Completed", f"s3://{BUCKET}/gone"))
    listed = Loops(FLOW, {"a": "Completed"})
    with pytest.raises(AbsentError, match=f"s3://{BUCKET}/gone: s3 get_object: NoSuchKey"):
        read_loops(aws, listed, Finder(PROMPTS, COMPLETIONS), Answers())
    kept = Answers(skip_bad=True)
    read_loops(aws, listed, Finder(PROMPTS, COMPLETIONS), kept)
    assert len(kept.bad) == 1


def read(data: bytes, **options: Any) -> Answers:
    into = Answers(**options)
    a2i.read_output(data, "o.json", Finder(PROMPTS, COMPLETIONS), into)
    return into


def test_the_shape_of_aws_notebooks() -> None:
    (ranking,) = read(output("n", NOTEBOOK, answer(flat(2, 1)))).rankings.values()
    assert ranking.tiers == (("sky-a",), ("sky-c",))
    assert ranking.criterion == "overall"


def test_the_same_output_again_is_the_same() -> None:
    data = output("a", SKY, answer(dimensions(h=[1, 2, 3])))
    assert read(data) == read(data)
    assert read(data).rankings.keys().isdisjoint(read(output("b", SKY, answer(dimensions(h=[1, 2, 3])))).rankings)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", r"o\.json: not JSON"),
        (b"[]", r"o\.json: is no object"),
        (output("", SKY), r"o\.json, field 'humanLoopName': is missing or not text"),
        (output("a", "text"), r"o\.json, field 'inputContent': is no object"),
        (output("a", SKY | {"item_id": "gone"}), r"o\.json, field 'inputContent': item 'gone' is not in the run"),
        (output("a", SKY, humanAnswers=None), r"o\.json: holds no list of answers"),
        (output("a", SKY, answer(flat(1, 2))), r"o\.json answer 1: answer 3 has no rank"),
    ],
)
def test_bad_outputs(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(data)
    assert len(read(data, skip_bad=True).bad) == 1
