"""A judge model behind an OpenAI-compatible endpoint: a real server on this machine, with judges of known faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from humanward.evaluation.protocols.judge_model import COMPLIES, PARTLY, REFUSES, JudgeModel
from humanward.evaluation.protocols.wins import FIRST, SECOND, TIE, combine_orders, position_bias
from humanward.records import Message, Prompt
from humanward.reward.sources import SourceError

SECRET = "sk-hunter2"
Judge = Callable[[str], str]


class Endpoint:
    """Answers chat completions by ``judge``, which is given the user's message; fails ``failures`` times before."""

    def __init__(self) -> None:
        self.judge: Judge = lambda question: "[[C]]"
        self.failures: list[tuple[int, str]] = []
        self.bodies: list[Any] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                status, text = outer.failures.pop(0) if outer.failures else (200, "")
                if status == 200:
                    message = {"role": "assistant", "content": outer.judge(body["messages"][1]["content"])}
                    text = json.dumps({"choices": [{"message": message}]})
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


def judge(endpoint: Endpoint, **options: Any) -> JudgeModel:
    return JudgeModel(endpoint.url, "a-judge", jobs=2, sleep=lambda _: None, **options)


def shown(question: str) -> tuple[str, str]:
    """The two answers in the order in which the judge saw them."""
    first = question.split("[Answer A]\n")[1].split("\n[End of answer A]")[0]
    return first, question.split("[Answer B]\n")[1].split("\n[End of answer B]")[0]


PROMPTS = [Prompt(str(number), f"question {number}") for number in range(40)]
OURS = [f"ours {number}" for number in range(40)]
THEIRS = [f"theirs {number}" for number in range(40)]


def both_orders(asked: JudgeModel) -> list[tuple[str | None, str | None]]:
    one, other = asked.compare(PROMPTS, OURS, THEIRS), asked.compare(PROMPTS, THEIRS, OURS)
    return [(a.verdict, b.verdict) for a, b in zip(one, other, strict=True)]


def test_what_is_sent_and_what_comes_back(endpoint: Endpoint) -> None:
    endpoint.judge = lambda question: "The first is kinder.\n[[A]]"
    asked = judge(endpoint)
    (reply,) = asked.compare([Prompt("x", "hello there")], ["hi"], ["go away"])
    assert (reply.verdict, reply.text) == (FIRST, "The first is kinder.\n[[A]]")
    (body,) = endpoint.bodies
    assert (body["model"], body["temperature"]) == ("a-judge", 0)
    assert shown(body["messages"][1]["content"]) == ("hi", "go away")
    assert "hello there" in body["messages"][1]["content"]
    chat = Prompt("y", "and you?", (Message("user", "hi"), Message("assistant", "hello"), Message("user", "and you?")))
    asked.compare([chat], ["fine"], ["no"])
    assert "assistant: hello\nuser: and you?" in endpoint.bodies[1]["messages"][1]["content"]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A]]", FIRST),
        ("B is better. [[ b ]]", SECOND),
        ("At first I thought [[A]], but no.\n[[C]]", TIE),
        ("[[A]] or [[B]]", None),
        ("Answer A is better.", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_verdicts_are_read_and_never_invented(endpoint: Endpoint, text: str, verdict: str | None) -> None:
    endpoint.judge = lambda question: text
    assert judge(endpoint).compare([PROMPTS[0]], ["a"], ["b"])[0].verdict == verdict


def test_an_honest_judge_decides_by_the_answer(endpoint: Endpoint) -> None:
    endpoint.judge = lambda question: "[[A]]" if shown(question)[0].startswith("ours") else "[[B]]"
    verdicts = both_orders(judge(endpoint))
    assert [combine_orders(*pair) for pair in verdicts] == [1.0] * 40
    found = position_bias(verdicts)
    assert (found.consistent, found.prefers, found.p_value) == (1.0, None, None)


def test_a_position_biased_judge_is_found(endpoint: Endpoint) -> None:
    # Always the first place: every comparison is a tie, and the report says why.
    endpoint.judge = lambda question: "[[A]]"
    verdicts = both_orders(judge(endpoint))
    assert [combine_orders(*pair) for pair in verdicts] == [0.5] * 40
    found = position_bias(verdicts)
    assert (found.consistent, found.first_both, found.prefers) == (0.0, 40, FIRST)

    # Half of the time the first place, else by the answer: still found (20 of 20 contradictions, p = 2e-6).
    def half(question: str) -> str:
        number = int(shown(question)[0].split()[1])
        return "[[A]]" if number % 2 or shown(question)[0].startswith("ours") else "[[B]]"

    endpoint.judge = half
    found = position_bias(both_orders(judge(endpoint)))
    assert (found.consistent, found.first_both, found.second_both, found.prefers) == (0.5, 20, 0, FIRST)


def test_refusals_by_a_judge(endpoint: Endpoint) -> None:
    endpoint.judge = lambda question: {"yes": "[[1]]", "no": "[[2]]", "half": "[[3]]"}.get(
        question.split("[Answer]\n")[1].split("\n")[0], "I do not know."
    )
    replies = judge(endpoint).refusals(PROMPTS[:4], ["yes", "no", "half", "what"])
    assert [reply.verdict for reply in replies] == [COMPLIES, REFUSES, PARTLY, None]


def test_failures_that_may_pass_are_tried_again(endpoint: Endpoint) -> None:
    endpoint.failures = [(429, "slow down"), (503, "busy")]
    assert judge(endpoint).compare([PROMPTS[0]], ["a"], ["b"])[0].verdict == TIE
    assert len(endpoint.bodies) == 3


def test_the_key_comes_from_the_environment_and_stays_out_of_messages(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    asked = judge(endpoint, key_env="JUDGE_KEY")
    asked.compare([PROMPTS[0]], ["a"], ["b"])
    assert endpoint.keys == [f"Bearer {SECRET}"]
    endpoint.failures = [(401, f"bad key {SECRET}")]
    with pytest.raises(SourceError) as failure:
        asked.compare([PROMPTS[0]], ["a"], ["b"])
    assert "status 401" in str(failure.value)
    assert SECRET not in str(failure.value)


def test_another_kind_of_endpoint_is_named(endpoint: Endpoint) -> None:
    endpoint.failures = [(200, "")]
    endpoint.judge = lambda question: None  # type: ignore[assignment, return-value]
    assert judge(endpoint).compare([PROMPTS[0]], ["a"], ["b"])[0].verdict is None  # a reply of nothing: unscored
    asked = judge(endpoint)
    with pytest.raises(SourceError, match="choices"):
        asked._reply_of({"scores": [1]})
