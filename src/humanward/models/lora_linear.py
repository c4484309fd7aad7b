"""A linear layer with a LoRA adapter as one operation: what PEFT computes, with two passes over memory less.

PEFT casts the layer's input to the adapter's float32 and back, multiplies the adapter's output by its scale, and adds
it to the base's: four passes over a tensor of the layer's size for two products of rank r. Here the scale meets the r
numbers in between, and the second product adds to the base's output where that lies.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn


def install(model: nn.Module) -> None:
    """Let every plain LoRA layer of ``model`` compute by ``_forward``; layers of other kinds keep PEFT's own."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear and "forward" not in module.__dict__:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    name = _plain_adapter(layer)
    if name is None or args or kwargs:
        return Linear.forward(layer, x, *args, **kwargs)
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.base_layer.weight.dtype
    return _LoraLinear.apply(  # type: ignore[no-any-return, no-untyped-call]
        x,
        layer.base_layer.weight,
        layer.base_layer.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        dtype,
    )


def _plain_adapter(layer: Any) -> str | None:
    """The one active adapter, if it is LoRA without dropout, bias, variant or merging."""
    if layer.disable_adapters or layer.merged:
        return None
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1 or active[0] in layer.lora_variant or layer.fan_in_fan_out:
        return None
    name: str = active[0]
    plain = isinstance(layer.lora_dropout[name], nn.Identity) and layer.lora_B[name].bias is None
    return name if plain and not layer.base_layer.weight.requires_grad else None


class _LoraLinear(torch.autograd.Function):
    """x W^T + bias + scale * (x A^T) B^T with W and bias frozen."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, down, up, scale: float, dtype: torch.dtype):  # type: ignore[no-untyped-def]
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1]).to(dtype)
            matrix = weight.to(dtype)
            out = rows @ matrix.T if bias is None else torch.addmm(bias.to(dtype), rows, matrix.T)
            inner = (rows @ down.to(dtype).T) * scale
            out.addmm_(inner, up.to(dtype).T)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale, ctx.shape, ctx.input_dtype = scale, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient):  # type: ignore[no-untyped-def]
        rows, inner, weight, down, up = ctx.saved_tensors
        dtype = rows.dtype
        to_x = to_down = to_up = None
        with torch.autocast(rows.device.type, enabled=False):
            gradient = gradient.reshape(-1, gradient.shape[-1]).to(dtype)
            to_inner = (gradient @ up.to(dtype)) * ctx.scale
            if ctx.needs_input_grad[0]:
                to_x = (gradient @ weight.to(dtype)).addmm_(to_inner, down.to(dtype))
                to_x = to_x.view(ctx.shape).to(ctx.input_dtype)
            if ctx.needs_input_grad[3]:
                to_down = (to_inner.T @ rows).to(down.dtype)
            if ctx.needs_input_grad[4]:
                to_up = (gradient.T @ inner).to(up.dtype)
        return to_x, None, None, to_down, to_up, None, None
