"""The KL-regularised optimum of an enumerable token MDP, in closed form and float64.

Nothing here comes from humanward: what training should reach is known without the code that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

A, B, END = 0, 1, 2
"""The vocabulary."""

LONGEST = 3
"""Tokens of a response at most. One of this length without END is cut off, and a complete episode all the same."""


def responses() -> list[tuple[int, ...]]:
    """All 15 responses: END alone, 2 of two tokens, and 4 closed and 8 cut off of three."""
    found: list[tuple[int, ...]] = []
    begun: list[tuple[int, ...]] = [()]
    for length in range(1, LONGEST + 1):
        longer = [(*history, token) for history in begun for token in (A, B, END)]
        found += [r for r in longer if r[-1] == END or length == LONGEST]
        begun = [r for r in longer if r[-1] != END]
    return found


RESPONSES = responses()
HISTORIES: list[tuple[int, ...]] = [(), (A,), (B,), (A, A), (A, B), (B, A), (B, B)]
"""What can have been written before a token: the states of the MDP, one prompt given."""


@dataclass(frozen=True)
class Distance:
    """How far a policy is from the optimum: total variation, nats of the objective missing, mean length in tokens."""

    tv: float
    gap: float
    length: float

    def __str__(self) -> str:
        return f"TV {self.tv:.1e}, gap {self.gap:.1e}, length {self.length:.3f}"


@dataclass(frozen=True)
class Problem:
    """Rewards (15,) of all responses, the reference's next-token logits (7, 3) by history, and the KL's weight."""

    rewards: torch.Tensor
    reference: torch.Tensor
    beta: float

    def optimum(self) -> torch.Tensor:
        """(15,) log pi*(y) = log pi_ref(y) + r(y) / beta - log Z."""
        tilted = response_logprobs(self.reference) + self.rewards / self.beta
        return tilted - tilted.logsumexp(0)

    def value(self) -> float:
        """The objective at the optimum, beta log Z."""
        return float(self.values()[0])

    def values(self) -> torch.Tensor:
        """(7,) V*(s) = beta log E_ref[exp(r / beta) | s] by history; V* of nothing written is beta log Z."""
        tilted = response_logprobs(self.reference) + self.rewards / self.beta
        begun = [[response[: len(history)] == history for response in RESPONSES] for history in HISTORIES]
        masses = torch.where(torch.tensor(begun), tilted, -torch.inf).logsumexp(1)
        steps = self.reference.log_softmax(-1)
        reached = [sum((steps[_ROW[h[:t]], h[t]] for t in range(len(h))), torch.zeros(())) for h in HISTORIES]
        return self.beta * (masses - torch.stack(reached))

    def policy(self) -> torch.Tensor:
        """(7, 3) next-token log-probabilities of the optimum by history."""
        masses = torch.full((len(HISTORIES), 3), -torch.inf, dtype=torch.float64)
        for response, logprob in zip(RESPONSES, self.optimum(), strict=True):
            for t, token in enumerate(response):
                row = _ROW[response[:t]]
                masses[row, token] = torch.logaddexp(masses[row, token], logprob)
        return masses.log_softmax(-1)

    def objective(self, logprobs: torch.Tensor) -> float:
        """E_pi[r - beta (log pi - log pi_ref)] of a policy given by its log-probabilities (15,)."""
        probabilities = logprobs.exp()
        terms = probabilities * (self.rewards - self.beta * (logprobs - response_logprobs(self.reference)))
        return float(torch.where(probabilities > 0, terms, 0.0).sum())

    def distance(self, logprobs: torch.Tensor) -> Distance:
        """From a policy, given by its log-probabilities (15,), to the optimum."""
        lengths = torch.tensor([len(r) for r in RESPONSES], dtype=torch.float64)
        return Distance(
            tv=total_variation(logprobs, self.optimum()),
            gap=self.value() - self.objective(logprobs),
            length=float((logprobs.exp() * lengths).sum()),
        )

    def point_of_k3_in_the_loss(self) -> torch.Tensor:
        """(15,) log-probabilities where the gradients of r and of beta k3 in the loss cancel: not the optimum.

        At a state the first is pi_a (Q_a - V) by the logit of a. For samples of pi, k3 = q/pi - 1 - log(q/pi) has the
        gradient (1 - q/pi) grad log pi, whose mean by the logit of a is pi_a - q_a: that of KL(q || pi), the other way
        round. So pi_a = beta q_a / (beta + V - Q_a), where V makes the sum 1, from the last token backwards.
        """
        scores = {r: float(x) for r, x in zip(RESPONSES, self.rewards, strict=True)}
        values: dict[tuple[int, ...], float] = {}
        table = torch.zeros(len(HISTORIES), 3, dtype=torch.float64)
        for row, history in reversed(list(enumerate(HISTORIES))):
            following = [(*history, token) for token in (A, B, END)]
            q = torch.tensor([scores[f] if f in scores else values[f] for f in following], dtype=torch.float64)
            weights = self.beta * self.reference[row].softmax(-1)
            low, high = float(q.max()) - self.beta, float(q.max())
            for _ in range(100):
                middle = (low + high) / 2
                low, high = (middle, high) if float((weights / (self.beta + middle - q)).sum()) > 1 else (low, middle)
            values[history] = high
            table[row] = (weights / (self.beta + high - q)).log()
        return response_logprobs(table)


_ROW = {history: row for row, history in enumerate(HISTORIES)}


def response_logprobs(table: torch.Tensor) -> torch.Tensor:
    """(15,) log-probabilities of all responses under next-token logits (7, 3) by history."""
    steps = table.double().log_softmax(-1)
    return torch.stack([torch.stack([steps[_ROW[r[:t]], r[t]] for t in range(len(r))]).sum() for r in RESPONSES])


def total_variation(left: torch.Tensor, right: torch.Tensor) -> float:
    """Half the sum of |p - q|, of two log-probabilities (15,)."""
    return float((left.exp() - right.exp()).abs().sum() / 2)


def spelled(response: Sequence[int]) -> str:
    """``ab.`` for (A, B, END)."""
    return "".join("ab."[token] for token in response)
