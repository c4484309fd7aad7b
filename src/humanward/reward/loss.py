"""The pairwise losses: Bradley-Terry, and two ways to give ties a probability of their own."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch.nn import functional

Ties = Literal["half", "drop", "davidson", "rao-kupper"]
MODELLED: tuple[Ties, ...] = ("davidson", "rao-kupper")
"""Ways in which a tie is an outcome with a probability of its own, which has a parameter."""
LEAST_SHARE, LARGEST_SHARE = 0.01, 0.9


class LogProbabilities(NamedTuple):
    """Of "chosen is better", "rejected is better" and "neither", each (N,)."""

    win: torch.Tensor
    lose: torch.Tensor
    tie: torch.Tensor


def log_probabilities(difference: torch.Tensor, ties: Ties, parameter: torch.Tensor | None = None) -> LogProbabilities:
    """Log-probabilities of the three outcomes at score differences d (N,).

    - ``half`` and ``drop`` (Bradley-Terry): win sigma(d), lose sigma(-d). There is no third outcome; ``tie`` holds
      (log sigma(d) + log sigma(-d)) / 2, the mean of the two, as a target of 1/2 has it.
    - ``davidson``, parameter nu > 0: e^(d/2), e^(-d/2) and nu over their sum. Source: Davidson 1970, "On Extending the
      Bradley-Terry Model to Accommodate Ties in Paired Comparison Experiments", equation 2.6.
    - ``rao-kupper``, parameter eta > 0, the margin under which two answers tie: win sigma(d - eta), lose
      sigma(-d - eta), tie the rest, which is (e^(2 eta) - 1) sigma(d - eta) sigma(-d - eta). Source: Rao and Kupper
      1967, "Ties in Paired-Comparison Experiments", equation 2.7.

    With nu or eta towards 0 win and lose are Bradley-Terry's.
    """
    if ties == "davidson":
        nu = _needed(parameter, ties).log().expand_as(difference)
        total = torch.stack([difference / 2, -difference / 2, nu]).logsumexp(0)
        return LogProbabilities(difference / 2 - total, -difference / 2 - total, nu - total)
    if ties == "rao-kupper":
        eta = _needed(parameter, ties)
        win, lose = functional.logsigmoid(difference - eta), functional.logsigmoid(-difference - eta)
        return LogProbabilities(win, lose, torch.expm1(2 * eta).log() + win + lose)
    win, lose = functional.logsigmoid(difference), functional.logsigmoid(-difference)
    return LogProbabilities(win, lose, 0.5 * (win + lose))


def pairwise_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    tie: torch.Tensor,
    weight: torch.Tensor,
    margin: torch.Tensor | None = None,
    *,
    ties: Ties = "half",
    parameter: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Weighted mean over pairs of -log P(what people said), all inputs (N,); scalar.

    Strict pairs: -(1 - e) log P(win) - e log P(lose) at chosen - rejected - margin, e the ``label_smoothing``. Ties:
    -log P(tie) at chosen - rejected, least at 0; they have no margin and nothing to smooth. ``log_probabilities`` says
    what P is. The loss depends on differences alone, so a shift of all scores changes nothing. Sources: Ouyang et al.
    2022 (arXiv 2203.02155), equation 1; margins Llama 2 (arXiv 2307.09288), equation 2; smoothing Mitchell 2023, "A
    note on DPO with noisy preferences", equation 3.
    """
    difference = chosen - rejected
    strict = log_probabilities(difference if margin is None else difference - margin, ties, parameter)
    level = log_probabilities(difference, ties, parameter).tie
    smoothed = (1 - label_smoothing) * strict.win + label_smoothing * strict.lose
    return -(weight * torch.where(tie, level, smoothed)).sum() / weight.sum()


def parameter_of_share(share: float, ties: Ties) -> float:
    """The parameter with which two equal scores tie in ``share`` of the comparisons: where learning it begins.

    At d = 0 Davidson's P(tie) is nu / (2 + nu) and Rao and Kupper's tanh(eta / 2). Shares outside 1 and 90 % are taken
    for those.
    """
    share = min(max(share, LEAST_SHARE), LARGEST_SHARE)
    return 2 * share / (1 - share) if ties == "davidson" else 2 * math.atanh(share)


def _needed(parameter: torch.Tensor | None, ties: Ties) -> torch.Tensor:
    if parameter is None:
        raise ValueError(f"ties = {ties!r} needs its parameter")
    return parameter
