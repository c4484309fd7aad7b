"""Amazon Augmented AI (A2I): a task interface, a flow definition, and one human loop for each prompt of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from humanward.errors import InputError
from humanward.feedback.connectors.answers import Answers, Task, parse_json, read_answers
from humanward.feedback.connectors.aws import A2I, SAGEMAKER, AbsentError, Aws, ExistsError, Request
from humanward.feedback.connectors.items import Finder, Item, check_items
from humanward.feedback.connectors.limits import check_name
from humanward.feedback.connectors.polling import poll
from humanward.feedback.connectors.settings import (
    Settings,
    flow_request,
    interface_request,
    numbered,
    render_request,
)
from humanward.feedback.connectors.template import check_rendered

SERVICE = "a2i"
STATES = {"InProgress": False, "Stopping": False, "Completed": True, "Failed": True, "Stopped": True}
"""Every state of a human loop, and whether it is the last."""
FLOW_STATES = {"Initializing": False, "Active": True, "Failed": True, "Deleting": True}
ACTIVE_SECONDS = 300.0
Poll = Callable[..., Any]


@dataclass(frozen=True)
class LoopPlan:
    """Every request of a publication, in order; ARNs of what is to be made are those that AWS will give."""

    settings: Settings
    render: Request
    interface: Request
    flow: Request
    wait: Request
    loops: tuple[Request, ...]

    @property
    def flow_arn(self) -> str:
        """The flow definition's ARN, which the loops name."""
        return str(self.loops[0].parameters["FlowDefinitionArn"])

    def requests(self, *, render_check: bool = True) -> list[Request]:
        """What publishing sends; it asks for the flow definition until that is Active."""
        return [*([self.render] if render_check else []), self.interface, self.flow, self.wait, *self.loops]


@dataclass
class Loops:
    """The human loops of one flow definition by state; ``failures`` maps the names of failed ones to the reasons.

    ``not_started`` loops were planned and are not there: publishing was interrupted.
    """

    flow_arn: str
    states: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    not_started: int = 0

    @property
    def ended(self) -> bool:
        """Nothing will change any more."""
        return all(STATES[state] for state in self.states.values())

    def as_json(self) -> dict[str, Any]:
        """The loops as the command shows them."""
        counts = Counter(self.states.values())
        value: dict[str, Any] = {"flow_definition": self.flow_arn, "loops": len(self.states)}
        value |= {state: counts[state] for state in STATES if counts[state]}
        value |= {"not_started": self.not_started} if self.not_started else {}
        return value | ({"failures": self.failures} if self.failures else {})


def plan_loops(settings: Settings, template: str, items: Sequence[Item]) -> LoopPlan:
    """The requests that publish the items; raises InputError for whatever the services would refuse."""
    check_items(items, characters=None)
    interface = interface_request(settings, template)
    flow = flow_request(settings, settings.arn("human-task-ui", interface.parameters["HumanTaskUiName"]))
    flow_name = flow.parameters["FlowDefinitionName"]
    flow_arn = settings.arn("flow-definition", flow_name)
    loops = tuple(_loop_request(settings, flow_arn, item) for item in items)
    wait = Request(SAGEMAKER, "describe_flow_definition", {"FlowDefinitionName": flow_name})
    return LoopPlan(settings, render_request(settings, template), interface, flow, wait, loops)


def publish_loops(
    aws: Aws,
    plan: LoopPlan,
    *,
    render_check: bool = True,
    made: Callable[[], None] = lambda: None,
    started: Callable[[int], None] = lambda count: None,
    wait: Poll = poll,
) -> int:
    """Send the requests; returns how many loops are new. Loops that were there already are left as they are.

    ``made`` is called when the flow definition is there and before the first loop, ``started`` after each loop with
    their number. Raises InputError where the page is not safe, AWS refuses, or the flow definition stays inactive.
    """
    if render_check:
        rendered = aws.send(plan.render)
        if errors := rendered.get("Errors"):
            raise InputError(
                f"AWS cannot render the template: {errors[0].get('Message', errors[0])}; nothing was published"
            )
        check_rendered(rendered["RenderedContent"])
    for request in (plan.interface, plan.flow):
        try:
            aws.send(request)
        except ExistsError:
            continue
    _wait_until_active(aws, plan, wait)
    made()
    new = 0
    for number, request in enumerate(plan.loops, 1):
        try:
            aws.send(request)
            new += 1
        except ExistsError:
            pass
        started(number)
    return new


def list_loops(aws: Aws, flow_arn: str, planned: Sequence[str] = ()) -> Loops:
    """The state of every loop of the flow definition; with ``planned`` names, of those alone.

    Raises InputError for an unknown flow definition, or a state that this version does not know.
    """
    found = Loops(flow_arn)
    wanted = set(planned)
    token: dict[str, str] = {}
    while True:
        try:
            page = aws.call(A2I, "list_human_loops", FlowDefinitionArn=flow_arn, MaxResults=100, **token)
        except AbsentError:
            raise AbsentError(f"flow definition {flow_arn!r}: is not there; check --region, or publish again") from None
        for loop in page["HumanLoopSummaries"]:
            name, state = loop["HumanLoopName"], loop["HumanLoopStatus"]
            if wanted and name not in wanted:
                continue
            found.states[name] = known_state(name, state)
            if state == "Failed":
                found.failures[name] = loop.get("FailureReason") or "AWS gives no reason"
        if not page.get("NextToken"):
            break
        token = {"NextToken": page["NextToken"]}
    found.not_started = len(wanted - found.states.keys())
    return found


def known_state(name: str, state: str) -> str:
    """The state of a human loop; raises InputError for one that this version does not know."""
    if state not in STATES:
        raise InputError(f"human loop {name!r}: is in state {state!r}; humanward knows {', '.join(STATES)}: update it")
    return state


def read_loops(
    aws: Aws,
    loops: Loops,
    finder: Finder,
    into: Answers,
    *,
    criteria: tuple[str, ...] | None = None,
    criterion: str = "overall",
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Read the outputs of completed loops; the others are counted as unlabelled, failed ones with the reason.

    A loop that was stopped may have the answers of some workers; they are read where it has an output.
    """
    for number, (name, listed) in enumerate(loops.states.items(), 1):
        done(number)
        if listed not in ("Completed", "Stopped"):
            into.unlabelled += 1
            if listed == "Failed":
                into.reasons.append(f"human loop {name!r}: failed ({loops.failures[name]})")
            continue
        described = aws.call(A2I, "describe_human_loop", HumanLoopName=name)
        state = known_state(name, described["HumanLoopStatus"])
        uri = described.get("HumanLoopOutput", {}).get("OutputS3Uri")
        if not uri:
            into.unlabelled += 1
            reason = described.get("FailureReason")
            into.reasons.append(f"human loop {name!r}: is {state} without an output{f' ({reason})' if reason else ''}")
            continue
        try:
            data = aws.read(uri)
        except AbsentError as error:
            into.refuse(error)
            continue
        read_output(data, uri, finder, into, criteria=criteria, criterion=criterion)


def read_output(
    data: bytes,
    where: str,
    finder: Finder,
    into: Answers,
    *,
    criteria: tuple[str, ...] | None = None,
    criterion: str = "overall",
) -> None:
    """Read one output.json into answers; raises InputError, naming the file, unless ``into`` keeps the reasons."""
    try:
        value = parse_json(data, where)
        if not isinstance(value, dict):
            raise InputError(f"{where}: is no object; download it again")
        name = value.get("humanLoopName")
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}, field 'humanLoopName': is missing or not text; download it again")
        content = value.get("inputContent")
        if not isinstance(content, dict):
            raise InputError(f"{where}, field 'inputContent': is no object; it holds what was shown")
        item = finder.find(content, name, f"{where}, field 'inputContent'")
    except InputError as error:
        into.refuse(error)
        return
    answers = value.get("humanAnswers")
    if answers == []:
        into.unlabelled += 1
        return
    read_answers(answers, Task(SERVICE, name, item, where, criteria, criterion), into)


def _loop_request(settings: Settings, flow_arn: str, item: Item) -> Request:
    line = item.line()
    name = numbered(settings.name, flow_arn, line)
    check_name("--name", name)
    parameters: dict[str, Any] = {
        "HumanLoopName": name,
        "FlowDefinitionArn": flow_arn,
        "HumanLoopInput": {"InputContent": line},
    }
    if settings.content:
        parameters["DataAttributes"] = {"ContentClassifiers": list(settings.content)}
    return Request(A2I, "start_human_loop", parameters)


def _wait_until_active(aws: Aws, plan: LoopPlan, wait: Poll) -> None:
    name = plan.wait.parameters["FlowDefinitionName"]
    found = wait(lambda: aws.send(plan.wait), lambda answer: FLOW_STATES.get(_state(answer), True), ACTIVE_SECONDS)
    state = _state(found)
    if state == "Initializing":
        raise InputError(
            f"flow definition {name!r}: is still Initializing after {ACTIVE_SECONDS:.0f} s; run the same command again"
        )
    if state != "Active":
        reason = found.get("FailureReason") or "AWS gives no reason"
        raise InputError(f"flow definition {name!r}: is {state} ({reason}); mend it and publish with another --name")
    if found["FlowDefinitionArn"] != plan.flow_arn:
        raise InputError(
            f"flow definition {name!r}: is {found['FlowDefinitionArn']}, not {plan.flow_arn}; give a --role of the "
            "account whose credentials boto3 uses"
        )


def _state(answer: dict[str, Any]) -> str:
    return str(answer["FlowDefinitionStatus"])
