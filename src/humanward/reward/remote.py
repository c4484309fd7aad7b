"""A remote endpoint as a reward: batches of responses by JSON over HTTP. Request and answer: docs/rewards.md.

Nothing stands in for a score that the endpoint did not give: what stays wrong after the retries is a SourceError.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2
import torch

from humanward.errors import InputError
from humanward.records import Prompt
from humanward.reward.sources import SourceError, checked_scores
from humanward.reward_config import HttpSource

PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Status codes of failures that may pass by themselves."""
LONGEST_WAIT = 60.0


class RemoteReward:
    """Scores by POST to ``config.url``. A bearer token comes from the environment and appears in no message or file."""

    def __init__(self, config: HttpSource, name: str = "http", sleep: Callable[[float], None] = time.sleep) -> None:
        self.config, self.name, self._sleep = config, name, sleep
        parts = urlsplit(config.url)
        # A query may hold a key; messages and logs do without it.
        self.where = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        self._token = _token(config.token_env) if config.token_env else None

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> torch.Tensor:
        """(B,) the endpoint's scores, asked for in batches; SourceError where it gives none."""
        size, found = self.config.batch_size, []
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        with httpx2.Client(timeout=self.config.timeout, headers=headers, follow_redirects=False) as client:
            for start in range(0, len(responses), size):
                batch = responses[start : start + size]
                answer = self._ask(client, self._request(prompts[start : start + size], batch))
                found.append(self._scores(answer, len(batch)))
        return torch.cat(found) if found else torch.empty(0)

    # --- what is sent --------------------------------------------------------------------------------------------

    def _request(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Any]:
        turns = [prompt.as_messages() for prompt in prompts]
        if self.config.format == "scores":
            return {
                "inputs": [
                    {
                        "prompt": one[-1].content,
                        "messages": [{"role": m.role, "content": m.content} for m in one],
                        "response": response,
                    }
                    for one, response in zip(turns, responses, strict=True)
                ]
            }
        texts = list(responses)
        if self.config.text == "prompt+response":
            texts = [f"{one[-1].content}\n{text}" for one, text in zip(turns, texts, strict=True)]
        return {"inputs": texts, "parameters": {"top_k": None}}

    def _ask(self, client: httpx2.Client, request: dict[str, Any]) -> Any:
        """The answer as JSON, tried again after failures that may pass."""
        attempts = self.config.retries + 1
        for attempt in range(attempts):
            wait = min(LONGEST_WAIT, self.config.backoff * 2**attempt)
            try:
                response = client.post(self.config.url, json=request)
            except httpx2.TimeoutException:
                problem = f"no answer within {self.config.timeout:g} s"
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {self._safe(str(error))}"
            else:
                if response.is_success:
                    return self._json(response)
                problem = f"status {response.status_code}: {self._safe(response.text)}"
                if response.status_code not in PASSING:
                    raise self._failure(problem, "mend the request, the address or the token")
                wait = _asked_to_wait(response, wait)
            if attempt + 1 < attempts:
                self._sleep(wait)
        tried = f" ({attempts} attempts)" if attempts > 1 else ""
        raise self._failure(f"{problem}{tried}", "see that the endpoint works")

    # --- what comes back -----------------------------------------------------------------------------------------

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise self._failure(
                f"an answer that is not JSON: {self._safe(response.text)}", "mend the endpoint"
            ) from None

    def _scores(self, answer: Any, count: int) -> torch.Tensor:
        if self.config.format == "classification":
            return checked_scores(self._label_scores(answer, count), count, f"{self.where}:")
        if not isinstance(answer, dict) or "scores" not in answer:
            raise self._failure(f"an answer without scores: {self._safe(str(answer))}", 'answer {"scores": [...]}')
        return checked_scores(answer["scores"], count, f"{self.where}:")

    def _label_scores(self, answer: Any, count: int) -> list[Any]:
        """The wanted label's score of each text, from [[{label, score}, ...], ...] or [{label, score}, ...]."""
        if count == 1 and _is_answers(answer):
            answer = [answer]  # some servers leave out the outer list of a single text
        if not isinstance(answer, list) or len(answer) != count:
            got = f"{len(answer)} answers" if isinstance(answer, list) else self._safe(str(answer))
            raise self._failure(f"{got} for {count} texts", "answer with a list of {label, score} for each text")
        return [self._label_score(one, number) for number, one in enumerate(answer, 1)]

    def _label_score(self, one: Any, number: int) -> Any:
        labels = [one] if isinstance(one, dict) else one
        if not _is_answers(labels):
            raise self._failure(f"{self._safe(str(one))} for text {number}", "answer with a list of {label, score}")
        found = {str(entry["label"]).casefold(): entry["score"] for entry in labels}
        wanted = str(self.config.label)
        if wanted.casefold() not in found:
            known = self._safe(", ".join(str(entry["label"]) for entry in labels))
            raise self._failure(
                f"no label {wanted!r} for text {number} (it has {known})",
                "set label to one of the endpoint's, or have it answer with all labels and not the best alone",
            )
        return found[wanted.casefold()]

    # --- messages ------------------------------------------------------------------------------------------------

    def _failure(self, problem: str, remedy: str) -> SourceError:
        return SourceError(f"{self.where}: gave {problem}; {remedy}")

    def _safe(self, text: str) -> str:
        """The beginning of what came from outside as one line, without the token should it be in it."""
        if self._token:
            text = text.replace(self._token, "***")
        line = " ".join(text.split())
        return (line if len(line) <= 160 else f"{line[:157]}...") or "(nothing)"


def _is_answers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, dict) and {"label", "score"} <= entry.keys() for entry in value)
    )


def _asked_to_wait(response: httpx2.Response, wait: float) -> float:
    """Seconds to wait: what Retry-After says in seconds, within reason, else ``wait``."""
    asked = response.headers.get("Retry-After", "")
    return min(LONGEST_WAIT, max(wait, float(asked))) if asked.isdecimal() else wait


def _token(variable: str) -> str:
    token = os.environ.get(variable, "").strip()
    if not token:
        raise InputError(f"token_env = {variable!r}: that environment variable is not set; export it, or drop the key")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError(f"token_env = {variable!r}: holds characters that no bearer token has; check its value")
    return token
