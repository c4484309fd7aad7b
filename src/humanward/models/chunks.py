"""Prompts with texts of unequal length in chunks of like length: less padding, the same result."""

from __future__ import annotations

from collections.abc import Sequence

from humanward.models.tokens import Tokens

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
