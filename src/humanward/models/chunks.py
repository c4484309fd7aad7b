"""Prompts with texts of unequal length in chunks of like length: less padding, the same result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from humanward.errors import InputError
from humanward.models.tokens import Tokens

T = TypeVar("T")

CHUNK_TOKENS = 4096
"""Padded tokens in one forward: texts of very unequal length are grouped by it, which changes no result."""


def length_chunks(extents: Sequence[tuple[int, int]], budget: int = CHUNK_TOKENS) -> list[list[int]]:
    """Numbers of the prompts, in chunks of like length whose padded size is at most ``budget`` tokens.

    ``extents`` holds (texts, tokens of the longest) of each prompt. A prompt larger than the budget is a chunk of its
    own; those that all fit together stay together, in their order.
    """
    if sum(texts for texts, _ in extents) * max(longest for _, longest in extents) <= budget:
        return [list(range(len(extents)))]
    chunks: list[list[int]] = []
    held = 0
    for number in sorted(range(len(extents)), key=lambda i: (extents[i][1], i)):
        texts, longest = extents[number]
        if not chunks or (held + texts) * longest > budget:
            chunks.append([])
            held = 0
        chunks[-1].append(number)
        held += texts
    return chunks


def extent(tokens: Tokens) -> tuple[int, int]:
    """(texts, tokens of the longest with its prompt) of one prompt's texts, for ``length_chunks``."""
    return len(tokens), int((tokens.prompt_mask.sum(1) + tokens.response_mask.sum(1)).max())


class ChunkBudget:
    """How many padded tokens one forward of a training takes; halved where CUDA's memory ends.

    ``arguments`` is what ``length_chunks`` takes after the extents: nothing until then. ``on_halve`` is told in words.
    """

    def __init__(self, on_halve: Callable[[str], None] = lambda line: None) -> None:
        self.arguments: tuple[int, ...] = ()
        self._on_halve = on_halve

    def retry(self, run: Callable[[], T], extents: Sequence[tuple[int, int]]) -> T:
        """``run()``, again with chunks of half the size whenever CUDA runs out of memory.

        ``run`` has to start from nothing each time, and to chunk ``extents`` by ``arguments``. InputError where the
        texts of a single prompt do not fit.
        """
        while True:
            try:
                return run()
            except torch.OutOfMemoryError as error:
                chunks = [chunk for chunk in length_chunks(extents, *self.arguments) if len(chunk) > 1]
                if not chunks:
                    raise InputError(
                        "the device's memory does not hold the forward and backward pass of one prompt's texts; set "
                        "model.gradient_checkpointing = true or model.quantization = 'nf4', or lower "
                        "offline.max_tokens or reward.max_tokens_trained"
                    ) from error
                self.arguments = (max(_padded([extents[i] for i in chunk]) for chunk in chunks) // 2,)
            # Outside of the handler, where the failed forward's tensors are no longer held by the traceback.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._on_halve(
                f"the device ran out of memory; from here on a forward takes at most {self.arguments[0]} padded tokens "
                "(the result is the same)"
            )


def _padded(extents: Sequence[tuple[int, int]]) -> int:
    return sum(texts for texts, _ in extents) * max(longest for _, longest in extents)
