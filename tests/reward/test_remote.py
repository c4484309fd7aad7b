"""A remote endpoint as reward, against a real server on this machine, with faults."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from humanward.errors import InputError
from humanward.records import Message, Prompt
from humanward.reward.remote import RemoteReward
from humanward.reward.sources import SourceError
from humanward.reward_config import HttpSource

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
SECRET = "hunter2-correct-horse"


class Server:
    """Answers the n-th request as ``replies[n]`` says, and then as the last; keeps what it was sent."""

    def __init__(self) -> None:
        self.replies: list[Reply | Callable[[Any], Reply]] = [lambda body: (200, {"scores": lengths(body)})]
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = outer.replies[min(len(outer.bodies), len(outer.replies) - 1)]
                outer.bodies.append(body)
                outer.headers.append(dict(self.headers))
                status, content, *more = reply(body) if callable(reply) else reply
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                for name, value in (more[0] if more else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/score"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def lengths(body: Any) -> list[float]:
    return [float(len(one["response"])) for one in body["inputs"]]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def source(server: Server, waits: list[float] | None = None, **keys: Any) -> RemoteReward:
    config = HttpSource(kind="http", url=server.url, **keys)
    return RemoteReward(config, sleep=lambda seconds: None if waits is None else waits.append(seconds))


def ask(reward: RemoteReward, *responses: str) -> list[float]:
    return reward.score([Prompt("p", "why?")] * len(responses), responses).tolist()


def test_what_is_sent_and_what_comes_back(server: Server) -> None:
    chat = Prompt("p", "now", (Message("user", "first"), Message("assistant", "yes"), Message("user", "now")))
    scores = source(server).score([chat, Prompt("q", "why?")], ["äh", ""])
    assert scores.tolist() == [2, 0]
    assert server.bodies == [
        {
            "inputs": [
                {
                    "prompt": "now",
                    "messages": [
                        {"role": "user", "content": "first"},
                        {"role": "assistant", "content": "yes"},
                        {"role": "user", "content": "now"},
                    ],
                    "response": "äh",
                },
                {"prompt": "why?", "messages": [{"role": "user", "content": "why?"}], "response": ""},
            ]
        }
    ]
    assert "Authorization" not in server.headers[0]


def test_batches_keep_the_order(server: Server) -> None:
    texts = ["a" * n for n in (3, 1, 4, 1, 5)]
    assert ask(source(server, batch_size=2), *texts) == [3, 1, 4, 1, 5]
    assert [len(body["inputs"]) for body in server.bodies] == [2, 2, 1]
    assert ask(source(server)) == []


def test_what_may_pass_is_tried_again_with_growing_waits(server: Server) -> None:
    server.replies[:0] = [(500, "oops"), (503, "busy", {"Retry-After": "7"}), (429, "slow down")]
    waits: list[float] = []
    assert ask(source(server, waits, backoff=0.5), "abc") == [3]
    assert waits == [0.5, 7, 2]
    assert len(server.bodies) == 4
    assert server.bodies[0] == server.bodies[3]


def test_what_stays_wrong_stops(server: Server) -> None:
    server.replies = [(500, "the model\nis gone")]
    waits: list[float] = []
    with pytest.raises(SourceError) as caught:
        ask(source(server, waits, retries=2), "abc")
    assert str(caught.value) == (
        f"{server.url}: gave status 500: the model is gone (3 attempts); see that the endpoint works"
    )
    assert len(waits) == 2


def test_waits_are_limited(server: Server) -> None:
    server.replies = [(503, "", {"Retry-After": "86400"})]
    waits: list[float] = []
    with pytest.raises(SourceError, match=r"status 503: \(nothing\)"):
        ask(source(server, waits, retries=8, backoff=4), "abc")
    assert waits == [60] * 8


def test_a_timeout(server: Server) -> None:
    late = threading.Event()
    server.replies = [lambda body: (200, {"scores": [9.0]}) if late.wait(5) else (200, {}), (200, {"scores": [3.0]})]
    started = time.monotonic()
    assert ask(source(server, timeout=0.2), "abc") == [3]
    server.replies = [lambda body: (200, {"scores": [float(late.wait(5))]})]
    with pytest.raises(SourceError, match=r"no answer within 0\.2 s \(2 attempts\)"):
        ask(source(server, timeout=0.2, retries=1), "abc")
    late.set()
    assert time.monotonic() - started < 4


def test_nobody_there() -> None:
    config = HttpSource(kind="http", url="http://127.0.0.1:9/score", retries=0)
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/score: gave ConnectError"):
        ask(RemoteReward(config), "abc")


@pytest.mark.parametrize("status", [301, 400, 401, 404, 422])
def test_what_will_not_pass_is_not_tried_again(server: Server, status: int) -> None:
    server.replies = [(status, "no", {"Location": "/elsewhere"})]
    with pytest.raises(SourceError, match=f"gave status {status}: no; mend"):
        ask(source(server), "abc")
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"scores": [1.0]}, "gave 1 scores for 2 responses"),
        ({"scores": [1.0, 2.0, 3.0]}, "gave 3 scores for 2 responses"),
        ('{"scores": [1.0, NaN]}', "gave nan as score 2 of 2, not a finite number"),
        ('{"scores": [1.0, 1e999]}', "gave inf as score 2 of 2"),
        ({"scores": [1.0, "2"]}, "gave '2' as score 2 of 2"),
        ({"scores": [1.0, None]}, "gave None as score 2 of 2"),
        ({"scores": [True, 1.0]}, "gave True as score 1 of 2"),
        ({"scores": 3.0}, "gave 3.0, not a list of numbers"),
        ({"scores": {"0": 1.0, "1": 2.0}}, "not a list of numbers"),
        ([1.0, 2.0], "an answer without scores: [1.0, 2.0]"),
        ("<html>", "an answer that is not JSON: <html>"),
        ("", "an answer that is not JSON: (nothing)"),
    ],
)
def test_an_answer_that_is_no_scores_stops_at_once(server: Server, answer: Any, words: str) -> None:
    server.replies = [(200, answer)]
    with pytest.raises(SourceError) as caught:
        ask(source(server), "abc", "de")
    assert words in str(caught.value)
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.bodies) == 1


# --- answers of text-classification servers --------------------------------------------------------------------------


def entry(label: str, score: Any) -> dict[str, Any]:
    return {"label": label, "score": score}


def test_labels_with_scores(server: Server) -> None:
    server.replies = [(200, [[entry("hate", 0.9), entry("NotHate", 0.1)], [entry("nothate", 0.7), entry("hate", 0.3)]])]
    assert ask(source(server, format="classification", label="nothate"), "a", "b") == pytest.approx([0.1, 0.7])
    assert server.bodies[0] == {"inputs": ["a", "b"], "parameters": {"top_k": None}}
    server.replies = [(200, [entry("kind", 0.9), entry("kind", 0.4)])]
    both = source(server, format="classification", label="kind", text="prompt+response")
    assert ask(both, "a", "b") == pytest.approx([0.9, 0.4])
    assert server.bodies[1]["inputs"] == ["why?\na", "why?\nb"]
    server.replies = [(200, [entry("hate", 0.9), entry("nothate", 0.1)])]
    assert ask(source(server, format="classification", label="nothate"), "a") == pytest.approx([0.1])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([entry("hate", 0.9), entry("nothate", 0.9)], "no label 'nothate' for text 1 (it has hate)"),
        ([[entry("nothate", 0.9)]], "1 answers for 2 texts"),
        ({"error": "loading"}, "{'error': 'loading'} for 2 texts"),
        ([[entry("nothate", 0.9)], []], "[] for text 2"),
        ([[entry("nothate", 0.9)], ["nothate"]], "['nothate'] for text 2"),
        ([[entry("nothate", 0.9)], [entry("nothate", "high")]], "gave 'high' as score 2 of 2"),
    ],
)
def test_answers_that_lack_the_label_stop(server: Server, answer: Any, words: str) -> None:
    server.replies = [(200, answer)]
    with pytest.raises(SourceError) as caught:
        ask(source(server, format="classification", label="nothate"), "a", "b")
    assert words in str(caught.value)


# --- the token -------------------------------------------------------------------------------------------------------


def test_the_token_is_sent_and_shown_nowhere(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", f" {SECRET}\n")
    reward = source(server, token_env="MY_TOKEN")
    assert ask(reward, "abc") == [3]
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    server.replies = [lambda body: (403, f"wrong token {SECRET}")]
    with pytest.raises(SourceError) as caught:
        ask(reward, "abc")
    assert "wrong token ***" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(reward.config)


def test_a_redirect_takes_the_token_nowhere(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    elsewhere = Server()
    try:
        server.replies = [(307, "", {"Location": elsewhere.url})]
        with pytest.raises(SourceError, match="status 307"):
            ask(source(server, token_env="MY_TOKEN"), "abc")
        assert elsewhere.bodies == []
    finally:
        elsewhere.server.shutdown()
        elsewhere.server.server_close()


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "new\nline", "kéy"])
def test_a_token_that_is_none_is_refused_without_showing_it(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_TOKEN", value)
    with pytest.raises(InputError, match="token_env = 'MY_TOKEN': ") as caught:
        RemoteReward(HttpSource(kind="http", url="http://127.0.0.1:9/", token_env="MY_TOKEN"))
    assert not (value or "").strip() or value not in str(caught.value)


def test_a_key_in_the_address_is_shown_in_no_message() -> None:
    config = HttpSource(kind="http", url=f"http://127.0.0.1:9/score?key={SECRET}", retries=0)
    with pytest.raises(SourceError) as caught:
        ask(RemoteReward(config), "abc")
    assert SECRET not in str(caught.value)
