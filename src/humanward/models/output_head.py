"""The output matrix: logits, and log-probabilities of chosen tokens with a gradient that never holds the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from humanward.models.products import of_bfloat16_values

FLOAT32_LIMIT = 1 << 24
"""Output matrices up to this many weights multiply in float32 (log-probabilities to 1e-6) even on a bfloat16 base."""

CHUNK_LOGITS = 1 << 20
"""Logits held at once on the CPU, in elements: 4 MiB in float32, which its cache holds."""

CHUNK_LOGITS_GPU = 1 << 25


@dataclass(frozen=True)
class OutputHead:
    """An output matrix (V, D) with or without a bias (V,), and the number format of the model's products."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    compute_dtype: torch.dtype

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., V) logits in float32 from states (..., D)."""
        return _logits(hidden, self.weight, self.bias, self.compute_dtype)

    def statistics(
        self, hidden: torch.Tensor, ids: torch.Tensor, *, temperature: float, vocabulary: int, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities, entropies), both (N,), of the tokens ``ids`` (N,) after the states (N, D).

        Entropies are 0 unless asked for, and have no gradient.
        """
        return _Statistics.apply(  # type: ignore[no-any-return, no-untyped-call]
            hidden, self.weight, self.bias, ids, temperature, vocabulary, entropy, self.compute_dtype
        )


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, compute_dtype: torch.dtype
) -> torch.Tensor:
    if weight.numel() > FLOAT32_LIMIT and compute_dtype != torch.float32:
        bias = None if bias is None else bias.to(compute_dtype)
        return functional.linear(hidden.to(compute_dtype), weight.to(compute_dtype), bias).float()
    hidden, weight, bias = hidden.float(), weight.float(), None if bias is None else bias.float()
    if compute_dtype == torch.bfloat16:
        # The trunk's last state and the matrix hold bfloat16 values, or are rounded to them as in every other layer.
        with of_bfloat16_values():
            return functional.linear(hidden, weight, bias)
    return functional.linear(hidden, weight, bias)


class _Statistics(torch.autograd.Function):
    """Log-probabilities of chosen tokens under softmax(logits / temperature), a chunk of states at a time.

    d log p(y) / d hidden = (W[y] - sum_v p_v W_v) / temperature needs nothing that comes later, so it is computed
    beside the log-probability while the chunk's probabilities are at hand: the backward pass multiplies by it. Only a
    matrix that is itself trained needs the probabilities again then.
    """

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, ids, temperature, vocabulary, entropy, compute_dtype):  # type: ignore[no-untyped-def]
        count = len(hidden)
        logprobs = torch.empty(count, dtype=torch.float32, device=hidden.device)
        entropies = torch.zeros_like(logprobs)
        needed = ctx.needs_input_grad[0]
        direction = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device) if needed else None
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight[:vocabulary].to(compute_dtype) if needed else None
            for part in _chunks(hidden, vocabulary):
                logs = _log_softmax(hidden[part], weight, bias, temperature, vocabulary, compute_dtype)
                logprobs[part] = logs.gather(-1, ids[part, None])[:, 0]
                if not (needed or entropy):
                    continue
                probabilities = logs.exp()
                if entropy:
                    entropies[part] = -(probabilities * logs).sum(-1)
                if direction is not None:
                    assert matrix is not None
                    mean = probabilities.to(compute_dtype) @ matrix
                    direction[part] = (matrix[ids[part]].float() - mean.float()) / temperature
        kept = (hidden, weight, bias, ids) if any(ctx.needs_input_grad[1:3]) else (None, None, None, None)
        ctx.save_for_backward(direction, *kept)
        ctx.settings = temperature, vocabulary, compute_dtype, hidden.dtype
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, gradient, _):  # type: ignore[no-untyped-def]
        direction, hidden, weight, bias, ids = ctx.saved_tensors
        temperature, vocabulary, compute_dtype, dtype = ctx.settings
        to_hidden = None if direction is None else (gradient[:, None] * direction).to(dtype)
        to_weight = to_bias = None
        if hidden is not None:
            to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            sums = torch.zeros(vocabulary, dtype=torch.float32, device=weight.device)
            with torch.autocast(hidden.device.type, enabled=False):
                for part in _chunks(hidden, vocabulary):
                    logs = _log_softmax(hidden[part], weight, bias, temperature, vocabulary, compute_dtype)
                    share = gradient[part, None] / temperature
                    to_logits = logs.exp_().mul_(-share)
                    to_logits.scatter_add_(1, ids[part, None], share)
                    sums += to_logits.sum(0)
                    product = to_logits.to(compute_dtype).T @ hidden[part].to(compute_dtype)
                    to_weight[:vocabulary] += product
            to_weight = to_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None
            if bias is not None and ctx.needs_input_grad[2]:
                to_bias = functional.pad(sums, (0, len(bias) - vocabulary)).to(bias.dtype)
        return to_hidden, to_weight, to_bias, None, None, None, None, None


def _log_softmax(  # type: ignore[no-untyped-def]
    hidden, weight, bias, temperature: float, vocabulary: int, compute_dtype: torch.dtype
) -> torch.Tensor:
    logits = _logits(hidden, weight, bias, compute_dtype)[:, :vocabulary]
    if temperature != 1.0:
        logits = logits.div_(temperature)
    return logits.log_softmax(-1)


def _chunks(hidden: torch.Tensor, vocabulary: int) -> list[slice]:
    """States whose logits are computed together."""
    limit = CHUNK_LOGITS if hidden.device.type == "cpu" else CHUNK_LOGITS_GPU
    rows = max(1, limit // vocabulary)
    return [slice(start, start + rows) for start in range(0, len(hidden), rows)]
