"""Micro-batches: how many episodes one forward takes, bounded by rows and by tokens, halved where memory ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from humanward.errors import InputError
from humanward.models.tokens import Tokens

T = TypeVar("T")


class MicroBatches:
    """Splits batches into forwards of at most ``rows`` episodes and ``tokens`` padded tokens.

    The split changes memory and time, never the result beyond rounding: every caller sums over real tokens and divides
    once. ``on_halve`` is told, in words, when CUDA ran out of memory and ``rows`` was halved for the rest of the run.
    """

    def __init__(
        self, rows: int, tokens: int | None = None, on_halve: Callable[[str], None] = lambda line: None
    ) -> None:
        self.rows, self.tokens, self._on_halve = rows, tokens, on_halve

    def split(self, tokens: Tokens) -> list[torch.Tensor]:
        """Row numbers of each micro-batch.

        What fits into one forward stays whole and in order; otherwise episodes of like length go together, so that
        little is padded. A single episode larger than the token bound is a micro-batch of its own.
        """
        lengths = (tokens.prompt_mask.sum(1) + tokens.response_mask.sum(1)).tolist()
        if self._fits(lengths):
            return [torch.arange(len(lengths), device=tokens.prompt_ids.device)]
        groups: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
            if not groups or not self._fits([lengths[i] for i in groups[-1]] + [lengths[row]]):
                groups.append([])
            groups[-1].append(row)
        return [torch.tensor(group, device=tokens.prompt_ids.device) for group in groups]

    def _fits(self, lengths: Sequence[int]) -> bool:
        return len(lengths) <= self.rows and (self.tokens is None or len(lengths) * max(lengths) <= self.tokens)

    def map(self, tokens: Tokens, function: Callable[[Tokens], Sequence[torch.Tensor]]) -> tuple[torch.Tensor, ...]:
        """``function`` over the micro-batches (trimmed of padding); its results (b, r) as (B, R), 0 on padding."""

        def run() -> tuple[torch.Tensor, ...]:
            found: list[torch.Tensor] = []
            for rows in self.split(tokens):
                for place, part in enumerate(function(tokens[rows].trimmed())):
                    if place == len(found):
                        found.append(part.new_zeros(tokens.response_ids.shape))
                    found[place][rows, : part.shape[1]] = part
            return tuple(found)

        return self.retry(run, tokens)

    def retry(self, run: Callable[[], T], tokens: Tokens) -> T:
        """``run()``, again with half as many rows as its largest micro-batch had whenever CUDA runs out of memory.

        ``run`` has to start from nothing each time. InputError where a single episode does not fit.
        """
        while True:
            try:
                return run()
            except torch.OutOfMemoryError as error:
                largest = max(len(rows) for rows in self.split(tokens))
                if largest == 1:
                    raise InputError(
                        "the device's memory does not hold one episode's forward and backward pass; set "
                        "model.gradient_checkpointing = true or model.quantization = 'nf4', or lower "
                        "sampling.max_new_tokens or model.max_prompt_tokens"
                    ) from error
                self.rows = largest // 2
            # Outside of the handler, where the failed forward's tensors are no longer held by the traceback.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._on_halve(
                f"the device ran out of memory; from here on a forward takes at most {self.rows} episodes "
                f"(the result is the same; set ppo.micro_batch_size = {self.rows} to start so)"
            )
