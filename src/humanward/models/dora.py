"""DoRA's magnitudes on a base in 16 or 4 bits."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.utils.integrations import dequantize_module_weight


@torch.no_grad()
def start_magnitudes_exactly(model: Any, name: str) -> None:
    """Give a new DoRA adapter ``name`` the magnitudes that its forward divides by, so that it begins as the base.

    PEFT takes them in the base's precision and divides by norms in the adapter's: in bfloat16 every column then starts
    up to .4 % off, and log-probabilities by a mean of .02 nats a token (demo policy).
    """
    for layer in model.modules():
        magnitudes = getattr(layer, "lora_magnitude_vector", {})
        if not isinstance(layer, LoraLayer) or name not in magnitudes:
            continue
        dora = magnitudes[name]
        if isinstance(dora, DoraLinearLayer):
            weight = dequantize_module_weight(layer.get_base_layer()).to(dora.weight.dtype)
            dora.weight.copy_(
                dora.get_weight_norm(weight=weight, lora_weight=torch.zeros_like(weight[:1, :1]), scaling=0)
            )
