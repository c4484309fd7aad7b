"""The losses of the off-policy family, one number an item and not yet averaged: (N,) in, (N,) out, in nats.

Notation: log p(y|x) is a sum over the response's real tokens, its end token included, of the policy's
log-probabilities; q is the frozen reference; h = log p(y_w|x)/q(y_w|x) - log p(y_l|x)/q(y_l|x) for the chosen response
y_w and the rejected y_l. The implicit reward of a response is beta log p/q.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def sft_loss(logprobs: torch.Tensor) -> torch.Tensor:
    """-log p(y|x), the negative log-likelihood of a whole response.

    The trainer divides the sum by the real tokens of the batch, which gives the mean over tokens that language models
    are trained with; the prompt's tokens are in neither. Source: Ouyang et al. 2022 (arXiv:2203.02155), section 3.5.
    """
    return -logprobs


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), with e = ``label_smoothing``; log 2 where p = q.

    Source: Rafailov et al. 2023 (arXiv:2305.18290), equation 7. With e > 0 the conservative form for rankings of which
    a share e is the wrong way round: E. Mitchell, "A note on DPO with noisy preferences and relationship to IPO"
    (2023); its minimum lies at sigmoid(beta h) = 1 - e instead of at infinity.
    """
    logits = beta * _advantage(chosen, rejected, ref_chosen, ref_rejected)
    right, wrong = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def ipo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """(h - 1 / (2 beta))^2: the margin is drawn to 1 / (2 beta) nats a sequence and no further.

    Source: Azar et al. 2023 (arXiv:2310.12036), equation 17, beta being their tau. As in the paper, h is of whole
    responses. TRL averages each log-probability over its response's tokens first (huggingface/trl pull request 1265),
    so that its margin is one a token: the beta here for responses of n tokens is TRL's divided by n.
    """
    return (_advantage(chosen, rejected, ref_chosen, ref_rejected) - 1 / (2 * beta)).square()


def log_odds(mean_logprobs: torch.Tensor) -> torch.Tensor:
    """log(P / (1 - P)) of P = exp(mean log-probability a token). Hong et al. 2024 (arXiv:2403.07691), equation 4.

    P is held at most 1 - 1e-6, where the odds of a response that is certain stay finite.
    """
    held = mean_logprobs.clamp_max(-1e-6)
    return held - torch.log(-torch.expm1(held))


def orpo_loss(chosen_mean: torch.Tensor, rejected_mean: torch.Tensor, *, beta: float) -> torch.Tensor:
    """-m_w - beta log sigmoid(log odds(m_w) - log odds(m_l)), m the mean log-probability a token; no reference.

    Source: Hong et al. 2024 (arXiv:2403.07691), equations 6 and 7, beta being their lambda: the negative log-likelihood
    of the chosen response and the odds-ratio loss. TRL's first term also counts the prompt's tokens; here, as in the
    paper's equation 2, those of the response alone.
    """
    ratio = log_odds(chosen_mean) - log_odds(rejected_mean)
    return -chosen_mean - beta * functional.logsigmoid(ratio)


def kto_reference_point(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """z0 = max(0, mean of log p(y'|x)/q(y'|x)) over prompts x with responses y' to other prompts: scalar, detached.

    An estimate of KL(p || q), which only shifts where the loss saturates and is not learnt from. Source: Ethayarajh et
    al. 2024 (arXiv:2402.01306), section 4.1.
    """
    return (logprobs - ref_logprobs).mean().clamp_min(0).detach()


def kto_loss(
    logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    desirable: torch.Tensor,
    reference_point: torch.Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """w_D (1 - sigmoid(beta (r - z0))) for a desirable response, w_U (1 - sigmoid(beta (z0 - r))) for another.

    r = log p(y|x)/q(y|x). Source: Ethayarajh et al. 2024 (arXiv:2402.01306), section 4.1: lambda_y - v(x, y), the
    weights being its lambdas.
    """
    gain = beta * (logprobs - ref_logprobs - reference_point)
    return torch.where(desirable, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain))


def _advantage(
    chosen: torch.Tensor, rejected: torch.Tensor, ref_chosen: torch.Tensor, ref_rejected: torch.Tensor
) -> torch.Tensor:
    """(N,) h, nats."""
    return (chosen - ref_chosen) - (rejected - ref_rejected)
