"""Reductions across processes, and no-ops in one process.

Every sum that crosses micro-batches or processes (whitening, loss normalisers, KL, metrics) goes through here, so
that the same code gives the same numbers on one machine and on many.
"""

from __future__ import annotations

import torch
import torch.distributed as dist


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of ``tensor`` over all processes, as a new tensor of the same shape."""
    if world() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()
