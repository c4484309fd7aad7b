"""Token batches. Legend: B batch, P prompt length, R response length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch


class TensorBatch:
    """A frozen dataclass whose fields are tensors of one leading size B, or such batches themselves."""

    def _map(self, function) -> Self:  # type: ignore[no-untyped-def]
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return type(self)(
            **{name: x._map(function) if isinstance(x, TensorBatch) else function(x) for name, x in fields.items()}
        )

    def __getitem__(self, index: torch.Tensor | slice) -> Self:
        """The rows that ``index`` selects, in every field."""
        return self._map(lambda x: x[index])

    def to(self, device: torch.device | str) -> Self:
        """The batch on another device."""
        return self._map(lambda x: x.to(device))

    def __len__(self) -> int:
        first = getattr(self, dataclasses.fields(self)[0].name)  # type: ignore[arg-type]
        return len(first)


@dataclass(frozen=True)
class Tokens(TensorBatch):
    """Prompts padded on the left and responses padded on the right; every mask is True on real tokens.

    ``prompt_ids`` and ``prompt_mask`` are (B, P), ``response_ids`` and ``response_mask`` (B, R). The token that ends a
    response is part of it: its mask is True.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    response_ids: torch.Tensor
    response_mask: torch.Tensor

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def trimmed(self) -> Tokens:
        """The same batch without columns that are padding in every row (at least one response column stays)."""
        prompt = int(self.prompt_mask.sum(1).max())
        response = max(int(self.response_mask.sum(1).max()), 1)
        start = self.prompt_ids.shape[1] - prompt
        return Tokens(
            self.prompt_ids[:, start:],
            self.prompt_mask[:, start:],
            self.response_ids[:, :response],
            self.response_mask[:, :response],
        )


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (B, longest row), with padding on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) >= (width - lengths)[:, None]


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (B, longest row and at least 1), with padding on the right."""
    width = max(1, *map(len, rows))
    ids = torch.tensor([list(row) + [pad] * (width - len(row)) for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) < lengths[:, None]


def make_tokens(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Tokens:
    """Ids of prompts and responses as one padded batch."""
    return Tokens(*pad_left(prompts, pad), *pad_right(responses, pad))
