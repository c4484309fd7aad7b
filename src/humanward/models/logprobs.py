"""Log-probabilities and entropies of response tokens, computed in chunks so that no full (B, R, V) is ever held."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from humanward.models.output_head import OutputHead

CHUNK_ELEMENTS = 1 << 25
"""Logits held at once, in elements (128 MiB in float32)."""

LogitsOf = Callable[[torch.Tensor], torch.Tensor]


def token_statistics(
    hidden: torch.Tensor,
    response_ids: torch.Tensor,
    response_mask: torch.Tensor,
    logits_of: LogitsOf,
    *,
    temperature: float,
    vocabulary: int,
    entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities, entropies), both (B, R) in nats and 0 on padding; entropies are 0 unless asked for.

    ``hidden`` (B, R, D) are the states before each token. The temperature divides the logits, as it does in sampling,
    and as there only the first ``vocabulary`` ids count: further ones pad the output matrix and have no text.
    Where gradients are needed and more than one chunk is, each chunk's logits are recomputed in the backward pass.
    """
    found = flat_statistics(
        hidden[response_mask],
        response_ids[response_mask],
        logits_of,
        temperature=temperature,
        vocabulary=vocabulary,
        entropy=entropy,
    )
    zeros = torch.zeros(response_ids.shape, dtype=torch.float32, device=hidden.device)
    return tuple(zeros.masked_scatter(response_mask, part) for part in found)  # type: ignore[return-value]


def flat_statistics(
    states: torch.Tensor,
    ids: torch.Tensor,
    logits_of: LogitsOf,
    *,
    temperature: float,
    vocabulary: int,
    entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``token_statistics``, for N states (N, D) and the tokens (N,) that follow them: two (N,)."""
    if isinstance(logits_of, OutputHead):
        return logits_of.statistics(states, ids, temperature=temperature, vocabulary=vocabulary, entropy=entropy)
    rows = max(1, CHUNK_ELEMENTS // vocabulary)

    def chunk_statistics(chunk: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits_of(chunk)[..., :vocabulary].float()
        if temperature != 1.0:  # a division by 1 would hold the logits twice
            logits = logits / temperature
        logsumexp = logits.logsumexp(-1)
        logprobs = logits.gather(-1, chosen[:, None]).squeeze(-1) - logsumexp
        if not entropy:
            return logprobs, torch.zeros_like(logprobs)
        # H = logsumexp - sum p * logit; detached, because entropy is a metric here and never a loss.
        detached = logits.detach()
        return logprobs, logsumexp.detach() - (detached.softmax(-1) * detached).sum(-1)

    recompute = torch.is_grad_enabled() and len(states) > rows
    parts = []
    for start in range(0, len(states), rows):
        inputs = states[start : start + rows], ids[start : start + rows]
        parts.append(
            checkpoint(chunk_statistics, *inputs, use_reentrant=False) if recompute else chunk_statistics(*inputs)
        )
    if not parts:
        zeros = torch.zeros(ids.shape, dtype=torch.float32, device=states.device)
        return zeros, zeros
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]
