"""Attention on the CPU as plain matrix products, a few rows of the batch at a time.

PyTorch's fused kernel is made for long sequences: at the lengths of prompts and responses its backward pass costs five
times what these products do (docs/log.md). It is registered with transformers under a name of its own, so the models
keep their own modules; whatever it does not cover goes to PyTorch's kernel as before.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from humanward.models.products import of_bfloat16_values

NAME = "humanward"

CHUNK_SCORES = 1 << 19
"""Attention scores held at once, in elements (2 MiB in float32): what stays in a core's cache."""

ROW_SCORES = 1 << 24
"""Scores of one row of the batch up to which this is used; above, the fused kernel needs far less memory."""


def install(model: Any) -> None:
    """Let ``model`` attend by ``attend``, if it is on the CPU and uses PyTorch's kernel by transformers' interface."""
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return
    if not model._can_set_attn_implementation():
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(NAME)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' interface has it: query (B, H, L, D), key and value (B, G, S, D) -> (B, L, H, D).

    ``attention_mask`` (B or 1, 1 or H, L, S) is True where a query may look, or is added to the scores.
    """
    rows, heads, length, width = query.shape
    given = {name for name, thing in kwargs.items() if thing is not None}
    usual = not given & {"position_bias", "cache", "softcap", "s_aux"} and dropout == 0.0
    if not usual or heads * length * key.shape[2] > ROW_SCORES or query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if attention_mask is None and causal and length > 1:
        attention_mask = torch.ones(length, key.shape[2], dtype=torch.bool).tril()[None, None]
    groups = key.shape[1]
    if attention_mask is not None:
        attention_mask = attention_mask[:, :, :, : key.shape[2]]
        if attention_mask.dtype == torch.bool:
            seen = attention_mask
            attention_mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
        if attention_mask.shape[1] == heads > 1:
            attention_mask = attention_mask.unflatten(1, (groups, heads // groups))
        else:
            attention_mask = attention_mask[:, :, None]
    # Heads that share their keys become further rows of one product.
    by_group = query.reshape(rows, groups, heads // groups * length, width)
    scale = scaling if scaling is not None else width**-0.5
    precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    by_group, key, value = by_group.to(precision), key.to(precision), value.to(precision)
    out = _Attention.apply(by_group, key, value, attention_mask, scale, heads // groups)  # type: ignore[no-untyped-call]
    return out.view(rows, heads, length, value.shape[-1]).transpose(1, 2), None


def _probabilities(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, scale: float, shared: int
) -> torch.Tensor:
    """(b, G, shared * L, S) in float32: softmax of scaled products, which are float32 whatever the factors are."""
    if query.dtype == torch.bfloat16:
        with of_bfloat16_values():
            scores = query.float() @ key.float().transpose(-1, -2)
    else:
        scores = query @ key.transpose(-1, -2)
    scores = scores.float().mul_(scale)
    if bias is not None:
        scores.unflatten(2, (shared, -1)).add_(bias)
    return scores.softmax(-1)


class _Attention(torch.autograd.Function):
    """softmax(q k^T * scale + bias) v, computed again in the backward pass, so that no scores are kept."""

    @staticmethod
    def forward(ctx: Any, query, key, value, bias, scale: float, shared: int):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(query, key, value, bias)
        ctx.scale, ctx.shared = scale, shared
        out = value.new_empty(*query.shape[:3], value.shape[-1])
        with torch.autocast("cpu", enabled=False):
            for part in _chunks(query, key):
                p = _probabilities(query[part], key[part], _part(bias, part), scale, shared)
                torch.matmul(p.to(value.dtype), value[part], out=out[part])
        return out

    @staticmethod
    def backward(ctx: Any, gradient):  # type: ignore[no-untyped-def]
        query, key, value, bias = ctx.saved_tensors
        to_query, to_key, to_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        gradient = gradient.contiguous()
        with torch.autocast("cpu", enabled=False):
            for part in _chunks(query, key):
                p = _probabilities(query[part], key[part], _part(bias, part), ctx.scale, ctx.shared)
                to_value[part] = p.to(value.dtype).transpose(-1, -2) @ gradient[part]
                to_p = (gradient[part] @ value[part].transpose(-1, -2)).float()
                to_scores = torch._softmax_backward_data(to_p, p, -1, torch.float32).mul_(ctx.scale).to(query.dtype)
                to_query[part] = to_scores @ key[part]
                to_key[part] = to_scores.transpose(-1, -2) @ query[part]
        return to_query, to_key, to_value, None, None, None


def _chunks(query: torch.Tensor, key: torch.Tensor) -> list[slice]:
    """Rows of the batch whose scores are at most ``CHUNK_SCORES``, one at the least."""
    rows = max(1, CHUNK_SCORES // (query.shape[1] * query.shape[2] * key.shape[2]))
    return [slice(start, start + rows) for start in range(0, len(query), rows)]


def _part(bias: torch.Tensor | None, part: slice) -> torch.Tensor | None:
    return bias if bias is None or len(bias) == 1 else bias[part]
