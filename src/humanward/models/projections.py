"""Linear modules, with or without LoRA, as a few matrix products: what a decoding step is made of.

PEFT computes W x + s B (A x) for every module on its own, in some ten operations. Here modules that read the same input
share one product with their A's, and a B is added in one operation. The weights are the model's own; only small ones
are copied, to lie side by side. Nothing is merged: the difference that an adapter makes in bfloat16 would round away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

FUSE_LIMIT = 1 << 20
"""Modules that together have at most this many weights are copied side by side; larger products gain nothing by it."""


PACK_LIMIT = 1 << 20
"""Modules of one input with at most this many weights are copied into the order in which the CPU multiplies them."""

PACK_ROWS = 32
"""Rows for which that order is chosen; it serves up to four times as many."""


def _packed(weight: torch.Tensor) -> torch.Tensor | None:
    """``weight`` in the order in which oneDNN multiplies, which saves putting it into it for every product."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    if weight.dtype != torch.bfloat16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACK_ROWS)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Part:
    """One module: weight (out, in), bias (out,), and its adapters' A (r, in) and s B (out, r), if any."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor | None
    b: torch.Tensor | None


def _plain(module: Any) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """(weight (out, in), bias) of a module that computes exactly W x + b, else None."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if type(module) is nn.Linear:
        return module.weight, module.bias
    if type(module) is Conv1D:
        return module.weight.t(), module.bias
    return None


def _part(module: Any, dtype: torch.dtype) -> _Part | None:
    """``module`` taken apart, its adapters in ``dtype``; None for what is called as it is (4 bits, DoRA, ...)."""
    plain = _plain(module)
    if plain is not None:
        return _Part(*plain, None, None)
    if type(module) is not LoraLinear or module._forward_hooks or module._forward_pre_hooks:
        return None
    plain = _plain(module.get_base_layer())
    if plain is None:
        return None
    names = (
        [] if module.disable_adapters or module.merged else [n for n in module.active_adapters if n in module.lora_A]
    )
    if any(name in module.lora_variant or module.lora_bias[name] for name in names):
        return None
    if not names:
        return _Part(*plain, None, None)
    layer: Any = module
    a = torch.cat([layer.lora_A[name].weight for name in names])
    b = torch.cat([layer.lora_B[name].weight * layer.scaling[name] for name in names], 1)
    return _Part(*plain, a.to(dtype), b.to(dtype))


class Projection:
    """x (T, in) -> tensors (T, width), one for each of ``widths``: modules of one input, split or joined.

    Products are computed in ``dtype``. ``own`` is entered around a module that has to be called itself.
    """

    def __init__(
        self, modules: Sequence[Any], widths: Sequence[int], dtype: torch.dtype, own: Callable[[], Any]
    ) -> None:
        self._modules, self._widths, self._dtype, self._own = list(modules), list(widths), dtype, own
        parts = [_part(module, dtype) for module in modules]
        self._parts: list[_Part] | None = None
        if any(part is None for part in parts):
            return
        known = [part for part in parts if part is not None]
        same = all((part.bias is None) == (known[0].bias is None) for part in known)
        small = sum(part.weight.numel() for part in known) <= FUSE_LIMIT
        cast = any(part.weight.dtype != dtype for part in known)
        if len(known) > 1 and same and (small or cast):
            known = [_joined(known, dtype)]
        self._parts = [_Part(p.weight.to(dtype), None if p.bias is None else p.bias.to(dtype), p.a, p.b) for p in known]
        self._packed = [_packed(p.weight) if p.weight.numel() <= PACK_LIMIT else None for p in self._parts]
        reducing = [part.a for part in self._parts if part.a is not None]
        self._a = torch.cat(reducing) if reducing else None
        self._ranks = [len(a) for a in reducing]
        self._as_it_is = [len(p.weight) for p in self._parts] == self._widths

    def __call__(self, x: torch.Tensor) -> list[torch.Tensor]:
        if self._parts is None:
            with self._own():
                return _regrouped([module(x) for module in self._modules], self._widths)
        x = x.to(self._dtype)
        pieces = [self._product(x, part, packed) for part, packed in zip(self._parts, self._packed, strict=True)]
        if self._a is not None:
            reduced = iter(functional.linear(x, self._a).split(self._ranks, -1))
            for part, piece in zip(self._parts, pieces, strict=True):
                if part.b is not None:
                    piece.addmm_(next(reduced), part.b.t())
        return pieces if self._as_it_is else _regrouped(pieces, self._widths)

    def _product(self, x: torch.Tensor, part: _Part, packed: torch.Tensor | None) -> torch.Tensor:
        if packed is None or len(x) > 4 * PACK_ROWS:
            return functional.linear(x, part.weight, part.bias)
        return torch.ops.mkldnn._linear_pointwise(x, packed, part.bias, "none", [], "")  # type: ignore[no-any-return]


def _joined(parts: Sequence[_Part], dtype: torch.dtype) -> _Part:
    """Modules side by side as one: weights below each other, the B's on a diagonal of blocks."""
    weight = torch.cat([part.weight.to(dtype) for part in parts])
    biases = [part.bias for part in parts if part.bias is not None]
    bias = torch.cat(biases).to(dtype) if biases else None
    adapted = [part for part in parts if part.a is not None]
    if not adapted:
        return _Part(weight, bias, None, None)
    a = torch.cat([part.a for part in adapted if part.a is not None])
    nothing = [torch.zeros(len(part.weight), 0, dtype=dtype, device=weight.device) for part in parts]
    b = torch.block_diag(*(n if part.b is None else part.b for n, part in zip(nothing, parts, strict=True)))
    return _Part(weight, bias, a, b)


def _regrouped(pieces: Iterable[torch.Tensor], widths: Sequence[int]) -> list[torch.Tensor]:
    pieces = list(pieces)
    if [piece.shape[-1] for piece in pieces] == list(widths):
        return pieces
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)
    return list(whole.split(list(widths), -1))
