"""The rollout engine: rows of one static cache, read and written in place, filled again as responses end.

Every row holds one response: its prompt's keys and values from column 0 on, its own after them. A step reads the last
token of all rows, writes one column each, and draws the next tokens; rows that are done are left as they are until an
eighth of all can be filled from the waiting prompts, or closed up where none waits. A prompt's samples share one
reading of it. What happens when depends on lengths and tokens alone, never on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from humanward.models import states
from humanward.models.decode import Trunk, unknown_setting
from humanward.models.output_head import FLOAT32_LIMIT, OutputHead
from humanward.models.tokens import make_tokens

if TYPE_CHECKING:
    from humanward.models.base import SharedBase

PREFILL_TOKENS = 1 << 14
"""Prompts are read so many tokens at a time."""

FLOAT32_BOUND, BFLOAT16_BOUND = 1e-5, 0.03
"""How far logits may lie from those of the model's own forward, as a share of the largest (at least 1)."""

STEP = 16
"""Columns by which a cache grows, or an eighth of its width if that is more."""

CHECK_EVERY = {"cpu": 1}
"""Steps between two looks at which rows are done; elsewhere 8, since a look waits for the device."""

Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits (B, V), uniform numbers (B,)) -> token ids (B,)."""


class _Head:
    """(B, V) float32 logits of hidden states, as ``SharedBase.logits`` computes them, with a matrix cast only once."""

    def __init__(self, base: SharedBase) -> None:
        head = base._head()
        if head.weight.numel() <= FLOAT32_LIMIT:
            head = OutputHead(head.weight.float(), None if head.bias is None else head.bias.float(), head.compute_dtype)
        self._head, self._vocabulary = head, base.vocabulary

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._head(hidden)[:, : self._vocabulary]


class Cache:
    """Keys and values of ``rows`` responses with up to ``length`` columns: one tensor (2, rows, G, width, d) a layer.

    Where it ``grows``, which is on the CPU, the tensors are as wide as what is filled, in steps: its products copy what
    is not contiguous. On other devices they have their full width from the start, so that nothing moves.
    """

    def __init__(self, base: SharedBase, rows: int, length: int, *, grows: bool | None = None) -> None:
        self.grows = base.device.type == "cpu" if grows is None else grows
        self.dtype, self.device = base.compute_dtype, base.device
        self.trunk = Trunk(base, length)
        first: Any = self.trunk.layers[0]
        self.groups, self.repeats, self.size = first.groups, first.heads // first.groups, first.size
        self.rows, self.length = rows, length
        self.width = 0 if self.grows else length
        self.layers = [self._empty() for _ in self.trunk.layers]
        self._group = torch.arange(self.groups, device=self.device)
        self._columns = torch.arange(max(length, rows), device=self.device)

    def _empty(self) -> torch.Tensor:
        return torch.zeros(2, self.rows, self.groups, self.width, self.size, dtype=self.dtype, device=self.device)

    def reserve(self, width: int) -> None:
        """Make room for ``width`` columns, and some more."""
        if width <= self.width:
            return
        before, step = self.width, max(STEP, width // 8)
        self.width = min(self.length, -(-width // step) * step)
        for number, old in enumerate(self.layers):
            self.layers[number] = self._empty()
            self.layers[number][:, :, :, :before] = old

    def _write(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        new = torch.cat([k.to(self.dtype).reshape(-1, self.size), v.to(self.dtype).reshape(-1, self.size)])
        self.layers[layer].view(-1, self.size).index_copy_(0, self._place, new)

    def _places(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Where keys, then values, of tokens in ``rows`` and ``columns`` stand among all vectors of a layer."""
        keys = (((rows[:, None] * self.groups) + self._group) * self.width + columns[:, None]).flatten()
        return torch.cat([keys, keys + self.rows * self.groups * self.width])

    # --- one token a row ---

    def read_tokens(self, ids: torch.Tensor, lengths: torch.Tensor, width: int) -> torch.Tensor:
        """(B, D) states after the tokens ``ids`` (B,) of the first B rows, which hold ``lengths`` tokens before them.

        ``width`` is at least one more than the longest.
        """
        self.reserve(width)
        count = len(ids)
        self._place = self._places(self._columns[:count], lengths)
        # On the CPU all columns that there are; elsewhere the tensors need not be contiguous.
        self._seen = self.width if self.grows else min(self.length, -(-width // STEP) * STEP)
        seen = self._columns[: self._seen] <= lengths[:, None]
        if self.grows:
            self._bags = self._bags_of(count)
            mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, -torch.inf)
            self._mask = (
                mask[:, None, None].expand(-1, self.groups, self.repeats, -1).reshape(-1, self.repeats, self._seen)
            )
        else:
            self._mask = seen[:, None, None]
        return self.trunk(ids, lengths, self._attend_token)

    def _attend_token(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        self._write(layer, k, v)
        count = len(q)
        keys, values = self.layers[layer][:, :count].unbind()
        if self.grows:
            keys, values = keys.flatten(0, 1), values.flatten(0, 1)
            asked = q.to(self.dtype).reshape(-1, self.repeats, self.size)
            scores = torch.baddbmm(self._mask, asked, keys.transpose(1, 2), alpha=scale)
            return self._mean(scores.softmax(-1), layer, values).view(count, -1)
        read = functional.scaled_dot_product_attention(
            q[:, :, None].to(self.dtype),
            keys[:, :, : self._seen],
            values[:, :, : self._seen],
            self._mask,
            scale=scale,
            enable_gqa=self.repeats > 1,
        )
        return read.reshape(count, -1)

    def _mean(self, weights: torch.Tensor, layer: int, values: torch.Tensor) -> torch.Tensor:
        """(B G, repeats, d) means of ``values`` (B G, width, d) with ``weights`` (B G, repeats, width)."""
        if self._bags is None:
            return torch.bmm(weights, values)
        table = self.layers[layer][1].view(-1, self.size)
        return functional.embedding_bag(
            self._bags[0], table, self._bags[1], mode="sum", per_sample_weights=weights.view(-1)
        )

    def _bags_of(self, count: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(indices, offsets) of the weighted sums of values as bags of embeddings.

        A product with one row reads its matrix at a third of the speed of PyTorch's sums of embeddings, which are made
        for reading many vectors once.
        """
        if not self.grows or self.repeats > 1 or "AVX" not in torch.backends.cpu.get_cpu_capability():
            return None
        found = torch.arange(count * self.groups * self.width, dtype=torch.int32)
        return found, found[:: self.width].clone()

    # --- whole prompts ---

    def read_prompts(self, prompts: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """(U, D) states after each prompt, which is read once and written into all of its ``rows``."""
        lengths = [len(prompt) for prompt in prompts]
        longest, starts = max(lengths), _starts(lengths)
        self.reserve(longest)
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=self.device)
        columns = torch.cat([self._columns[:length] for length in lengths])
        self._padded = torch.cat([self._columns[:length] + i * longest for i, length in enumerate(lengths)])
        self._shape = (len(prompts), longest)
        copies = [(start, length, row) for start, length, of in zip(starts, lengths, rows, strict=True) for row in of]
        self._source = torch.cat([torch.arange(start, start + n, device=self.device) for start, n, _ in copies])
        rows_of = torch.cat([self._columns.new_full((n,), row) for _, n, row in copies])
        self._place = self._places(rows_of, columns[self._source])
        last = torch.tensor([start + n - 1 for start, n in zip(starts, lengths, strict=True)], device=self.device)
        return self.trunk(ids, columns, self._attend_prompts, last)

    def _attend_prompts(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        self._write(layer, k[self._source], v[self._source])
        # Padding stands after a prompt's end, where a causal mask keeps it from being seen.
        spread = []
        for x in (q, k, v):
            x = x.to(self.dtype)
            room = x.new_zeros(self._shape[0] * self._shape[1], *x.shape[1:])
            spread.append(room.index_copy_(0, self._padded, x).view(*self._shape, *x.shape[1:]).transpose(1, 2))
        read = functional.scaled_dot_product_attention(
            spread[0], spread[1], spread[2], is_causal=True, scale=scale, enable_gqa=self.repeats > 1
        )
        return read.transpose(1, 2).reshape(self._shape[0] * self._shape[1], -1)[self._padded]

    # --- rows ---

    def copy_rows(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Write rows ``source`` into rows ``target``."""
        for kept in self.layers:
            kept[:, target] = kept[:, source]

    def take(self, row: int, width: int) -> list[torch.Tensor]:
        """A copy of the first ``width`` columns of ``row``, for ``put``."""
        return [kept[:, row : row + 1, :, :width].clone() for kept in self.layers]

    def put(self, taken: Sequence[torch.Tensor], rows: torch.Tensor) -> None:
        """Write what ``take`` copied into ``rows``."""
        width = taken[0].shape[3]
        self.reserve(width)
        for kept, new in zip(self.layers, taken, strict=True):
            kept[:, rows, :, :width] = new


def _starts(lengths: Sequence[int]) -> list[int]:
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts


class Engine:
    """Responses to ``prompts``, each with its row of ``noise`` (N, tokens), drawn by ``choose``.

    ``closes`` is told a response's tokens after each one and says whether a stop text has ended it; None: there is no
    stop text. ``progress`` is told how many responses are done. ``check_every`` (steps between two looks at which rows
    are done) and ``grows`` (of the cache) are the device's own unless given.
    """

    def __init__(
        self,
        base: SharedBase,
        prompts: Sequence[Sequence[int]],
        noise: torch.Tensor,
        choose: Choose,
        *,
        rows: int,
        closes: Callable[[list[int]], bool] | None = None,
        progress: Callable[[int], None] = lambda done: None,
        check_every: int | None = None,
        grows: bool | None = None,
    ) -> None:
        self.base, self.prompts, self.choose, self.closes, self.progress = base, prompts, choose, closes, progress
        self.most = noise.shape[1]
        self.rows = min(rows, len(prompts))
        device = base.device
        self.check_every = 1 if closes else check_every or CHECK_EVERY.get(device.type, 8)
        self.cache = Cache(base, self.rows, max(map(len, prompts)) + self.most, grows=grows)
        self.head = _Head(base)
        first: dict[tuple[int, ...], int] = {}
        self.same = [first.setdefault(tuple(prompt), len(first)) for prompt in prompts]
        self.waiting = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), self.same[i], i))[::-1]
        # One column more than tokens: rows that are done write and read there.
        self.noise = functional.pad(noise, (0, 1)).to(device)
        self.stops = torch.tensor(base.stop_ids, device=device)
        self.owner: list[int | None] = []
        self.responses: list[tuple[list[int], bool] | None] = [None] * len(prompts)
        self.done = 0
        self.width = 0
        self._shared: tuple[int, list[torch.Tensor], torch.Tensor] | None = None

        def state(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(self.rows, *shape, dtype=dtype, device=device)

        self.last, self.lengths, self.count, self.who = state(), state(), state(), state()
        self.active, self.ended = state(dtype=torch.bool), state(dtype=torch.bool)
        self.written = state(self.most + 1)
        self.numbers = torch.arange(self.rows, device=device)

    @torch.no_grad()
    def run(self) -> list[tuple[list[int], bool]]:
        """(token ids, whether the response ended by itself) for every prompt, in the order given."""
        while self.waiting or self.owner:
            self._arrange()
            for _ in range(self.check_every):
                self._step()
            self._collect()
        return self.responses  # type: ignore[return-value]

    # --- rows come and go ---

    def _arrange(self) -> None:
        """Fill free rows with waiting prompts, or close the gaps where none waits; an eighth of the rows at a time."""
        while True:
            free = [row for row, owner in enumerate(self.owner) if owner is None]
            running = len(self.owner) - len(free)
            free += range(len(self.owner), self.rows)
            if self.waiting and (len(free) * 8 >= self.rows or not running):
                self._admit(free[: len(self.waiting)])
                # A response may end with its first token.
                self._collect()
                self.width = int(self.lengths[: len(self.owner)].mul(self.active[: len(self.owner)]).max())
                continue
            gaps = len(self.owner) - running
            if gaps and not self.waiting and (gaps * 8 >= len(self.owner) or not running):
                self._close_gaps(running)
            return

    def _admit(self, rows: list[int]) -> None:
        chosen = [self.waiting.pop() for _ in rows]
        self.owner += [None] * (max(rows) + 1 - len(self.owner))
        groups: dict[int, list[int]] = {}
        for row, index in zip(rows, chosen, strict=True):
            self.owner[row] = index
            groups.setdefault(self.same[index], []).append(row)
        logits = self._read(groups)
        place = self.last.new_tensor(rows)
        self.who[place] = self.last.new_tensor(chosen)
        self.lengths[place] = self.last.new_tensor([len(self.prompts[i]) for i in chosen])
        self.count[place] = 0
        self.active[place], self.ended[place] = True, False
        self._emit(place, logits)
        self.width = max(self.width, *(len(self.prompts[i]) for i in chosen))

    def _read(self, groups: dict[int, list[int]]) -> torch.Tensor:
        """(rows, V) logits after the prompts of ``groups`` (prompt's number -> its rows), each read once."""
        found: list[torch.Tensor] = []
        keys = list(groups)
        if self._shared is not None and keys[0] == self._shared[0]:
            _, taken, logits = self._shared
            self.cache.put(taken, self.last.new_tensor(groups[keys[0]]))
            found.append(logits.expand(len(groups[keys.pop(0)]), -1))
        self._shared = None
        texts = {key: self.prompts[self.owner[groups[key][0]]] for key in keys}  # type: ignore[index]
        for chunk in _chunks(keys, [len(texts[key]) for key in keys]):
            hidden = self.cache.read_prompts([texts[key] for key in chunk], [groups[key] for key in chunk])
            spread = [i for i, key in enumerate(chunk) for _ in groups[key]]
            found.append(self.head(hidden)[self.last.new_tensor(spread)])
        if self.waiting and (key := self.same[self.waiting[-1]]) in groups:
            taken = self.cache.take(groups[key][0], len(self.prompts[self.waiting[-1]]))
            self._shared = key, taken, found[-1][-1:]
        return torch.cat(found)

    def _close_gaps(self, running: int) -> None:
        gaps = [row for row in range(running) if self.owner[row] is None]
        movers = [row for row in range(running, len(self.owner)) if self.owner[row] is not None]
        if gaps:
            source, target = self.last.new_tensor(movers), self.last.new_tensor(gaps)
            self.cache.copy_rows(source, target)
            for tensor in self._states():
                tensor[target] = tensor[source]
            for gap, mover in zip(gaps, movers, strict=True):
                self.owner[gap] = self.owner[mover]
        del self.owner[running:]
        if running:
            self.width = int(self.lengths[:running].max())

    def _states(self) -> list[torch.Tensor]:
        return [self.last, self.lengths, self.count, self.who, self.active, self.ended, self.written]

    def _collect(self) -> None:
        """Take out the responses that are done."""
        rows = len(self.owner)
        active = self.active[:rows]
        if self.closes is not None:
            self._look_for_stop_texts(rows)
        if bool(active.all()):
            return
        before = self.done
        for row, running in enumerate(active.tolist()):
            index = self.owner[row]
            if running or index is None:
                continue
            ids = self.written[row, : int(self.count[row])].tolist()
            self.responses[index] = ids, bool(self.ended[row])
            self.owner[row] = None
            self.done += 1
        if self.done > before:
            self.progress(self.done)

    def _look_for_stop_texts(self, rows: int) -> None:
        assert self.closes is not None
        counts = self.count[:rows].tolist()
        for row, ids in enumerate(self.written[:rows].tolist()):
            if self.owner[row] is not None and not self.ended[row] and self.closes(ids[: counts[row]]):
                self.ended[row], self.active[row] = True, False

    # --- one token for every row ---

    def _step(self) -> None:
        rows = len(self.owner)
        if not rows:
            return
        self.width = min(self.width + 1, self.cache.length)
        hidden = self.cache.read_tokens(self.last[:rows], self.lengths[:rows], self.width)
        self.lengths[:rows] += self.active[:rows]
        self._emit(slice(0, rows), self.head(hidden))

    def _emit(self, place: slice | torch.Tensor, logits: torch.Tensor) -> None:
        """Draw the next token of the rows at ``place``; rows that are done stay as they are."""
        count, active = self.count[place], self.active[place]
        ids = self.choose(logits, self.noise[self.who[place], count])
        self.written[self._rows(place), count] = ids
        self.last[place] = ids
        count = count + active
        ended = active & (ids[:, None] == self.stops).any(1)
        self.count[place] = count
        self.ended[place] |= ended
        self.active[place] = active & ~ended & (count < self.most)

    def _rows(self, place: slice | torch.Tensor) -> torch.Tensor:
        return self.numbers[: place.stop] if isinstance(place, slice) else place


def _chunks(keys: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """``keys`` in order, cut so that each chunk has at most PREFILL_TOKENS tokens, or one prompt."""
    chunks: list[list[int]] = []
    room = 0
    for key, length in zip(keys, lengths, strict=True):
        if not chunks or length > room:
            chunks.append([])
            room = PREFILL_TOKENS
        chunks[-1].append(key)
        room -= length
    return chunks


def teacher_forced(base: SharedBase, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Any:
    """(B, R, V) logits before each token of ``answers``, all of R tokens, as the engine computes them."""
    count = len(answers[0])
    cache, head = Cache(base, len(prompts), max(map(len, prompts)) + count), _Head(base)
    found = [head(cache.read_prompts(prompts, [[row] for row in range(len(prompts))]))]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=base.device)
    for position in range(count - 1):
        ids = torch.tensor([answer[position] for answer in answers], device=base.device)
        found.append(head(cache.read_tokens(ids, lengths, int(lengths.max()) + 1)))
        lengths = lengths + 1
    return torch.stack(found, 1)


@torch.no_grad()
def why_not(base: SharedBase) -> str | None:
    """None where the engine computes what the base's model computes, else the reason in words.

    Compared are the logits of a short batch, prompts read at once and responses token by token.
    """
    if base.model.config.is_encoder_decoder:
        return "it has an encoder"
    if not base._own_head:
        return "it scales or caps its logits"
    if (reason := unknown_setting(base.model, base.context)) is not None:
        return reason
    top = min(base.vocabulary, 1 << 15) - 1
    prompts = [[top * i // 7 for i in range(5)], [top // 2, 1]]
    answers = [[top * i // 5 for i in range(4)], [top, 0, top // 3, 2]]
    tokens = make_tokens(prompts, answers, base.pad_id).to(base.device)
    with base._autocast():
        hidden = states.hidden_states(base.model, tokens)
    plain = base.logits(hidden[:, :-1])[..., : base.vocabulary]
    difference = float((plain - teacher_forced(base, prompts, answers)).abs().max() / plain.abs().max().clamp_min(1))
    bound = FLOAT32_BOUND if base.compute_dtype == torch.float32 else BFLOAT16_BOUND
    return None if difference <= bound else f"its logits would differ from its own forward's by {difference:.1g}"
