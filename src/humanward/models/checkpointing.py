"""Gradient checkpointing of a model's layers: activations are computed again in the backward pass instead of kept.

transformers checkpoints only what is in training mode, and training mode brings dropout with it, which would make
log-probabilities random. So each layer is wrapped here, in evaluation mode, where recomputing gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from humanward.errors import InputError


def checkpoint_layers(model: Any, name: str) -> int:
    """Wrap every layer that transformers marks as one to checkpoint; returns how many.

    Gradients equal those without, up to rounding; a forward that needs none is untouched. InputError where the model
    marks no layer.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"model.gradient_checkpointing = true: {name} has no layers that transformers can checkpoint; turn it off "
            "and lower ppo.micro_batch_tokens instead"
        )
    for layer in layers:
        layer.forward = _checkpointed(layer.forward)
    return len(layers)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return wrapped
