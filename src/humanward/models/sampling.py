"""Sampling responses, exactly and reproducibly.

A sample depends on (seed, prompt, sample number) alone, never on its batch companions: every token is the inverse
cumulative distribution at a uniform number of a counter-based generator keyed by those three and the position. Before
and after thus share their randomness, which makes their comparison a paired one. A model's generation settings
(minimum length, forced or suppressed tokens, repetition penalty) are not applied: they would sample from another
distribution than the one whose log-probabilities training computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import DynamicCache, EncoderDecoderCache

from humanward.config import SamplingConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.engine import Engine
from humanward.models.states import decoder_prefix
from humanward.models.tokens import Tokens, make_tokens, pad_left


@dataclass(frozen=True)
class Response:
    """Sampled token ids and whether the model ended by itself, by an end token or a stop text; either is included."""

    ids: tuple[int, ...]
    ended: bool


def uniforms(seed: int, key: str, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) that depend on ``seed`` and ``key`` alone (Philox, counter-based)."""
    digest = hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(count)


def choose(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> torch.Tensor:
    """(B,) token ids: the inverse cumulative distribution of softmax(logits / temperature) at ``uniform`` (B,).

    ``top_k`` keeps the k most probable tokens (0: all), ``top_p`` the smallest set of most probable tokens whose
    probability reaches p (1: all), ``min_p`` those whose probability is at least that share of the largest (0: all).
    They apply in this order; each renormalises what it keeps.
    """
    scaled = logits.float() if temperature == 1.0 else logits.float() / temperature
    if 0 < top_k < scaled.shape[-1]:
        threshold = scaled.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < threshold, -torch.inf)
    probabilities = scaled.softmax(-1)
    if top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.where(before < top_p, ordered, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, kept)
    if min_p > 0.0:
        least = min_p * probabilities.amax(-1, keepdim=True)
        probabilities = torch.where(probabilities < least, 0.0, probabilities)
    return _inverse(probabilities, uniform)


BLOCK = 64
"""Probabilities that are added up before the blocks' sums are: two short searches instead of one long sum."""


def _inverse(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """(B,) the index whose share of the cumulative distribution of ``probabilities`` (B, V) holds ``uniform`` (B,).

    The distribution need not be normalised. First the block of tokens is found that holds it, then the token.
    """
    count = probabilities.shape[-1]
    blocks = functional.pad(probabilities, (0, -count % BLOCK)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniform.to(sums)[:, None] * sums[:, -1:]
    block = torch.searchsorted(sums, target, right=True).clamp_max(sums.shape[-1] - 1)
    inside = blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0].double().cumsum(-1)
    left = target - functional.pad(sums, (1, 0)).gather(1, block)
    # Sums in another order may differ by rounding: a token without probability at either end is not chosen for it.
    last = (inside < inside[:, -1:]).sum(-1, keepdim=True)
    token = torch.searchsorted(inside, left.clamp_min(0), right=True).minimum(last)
    return (block * BLOCK + token)[:, 0]


class _Decoder:
    """One batch of unfinished rows with its cache; the two architectures differ only here.

    A prompt that stands in the batch several times is read once: its rows share what was computed for it.
    """

    def __init__(self, base: SharedBase, prompts: Sequence[Sequence[int]]) -> None:
        self.base, self.model = base, base.model
        places: dict[tuple[int, ...], int] = {}
        self._spread: torch.Tensor | None = torch.tensor([places.setdefault(tuple(p), len(places)) for p in prompts])
        ids, mask = pad_left(list(places), base.pad_id)
        self.mask = mask.to(base.device)
        self.encoded: Any = None
        if self.model.config.is_encoder_decoder:
            self.cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
            right = torch.argsort(~mask, dim=1, stable=True)
            self.mask = mask.gather(1, right).to(base.device)
            self.encoded = self.model.get_encoder()(
                input_ids=ids.gather(1, right).to(base.device), attention_mask=self.mask.long()
            )
            prefix = torch.tensor(decoder_prefix(self.model), device=base.device)
            self.next_ids = prefix.expand(len(places), -1)
        else:
            self.cache = DynamicCache(config=self.model.config)
            self.next_ids = ids.to(base.device)

    def logits(self) -> torch.Tensor:
        """(B, V) for the next token, after reading ``next_ids``; ids that the tokenizer does not know are left out."""
        logits = self._read()[:, : self.base.vocabulary]
        if self._spread is None:
            return logits
        rows, self._spread = self._spread.to(logits.device), None
        if len(rows) > len(logits):
            self.keep(rows)
            logits = logits[rows]
        return logits

    def _read(self) -> torch.Tensor:
        with self.base._autocast():
            if self.encoded is not None and not self.base._own_head:
                out = self.model(
                    encoder_outputs=self.encoded,
                    attention_mask=self.mask.long(),
                    decoder_input_ids=self.next_ids,
                    past_key_values=self.cache,
                    use_cache=True,
                )
                return out.logits[:, -1]
            if self.encoded is not None:
                decoded = self.model.get_decoder()(
                    input_ids=self.next_ids,
                    encoder_hidden_states=self.encoded.last_hidden_state,
                    encoder_attention_mask=self.mask.long(),
                    past_key_values=self.cache,
                    use_cache=True,
                )
                return self.base.logits(decoded.last_hidden_state[:, -1])
            width = self.next_ids.shape[1]
            places = (self.mask.long().cumsum(-1) - 1).clamp_min(0)[:, -width:]
            inputs = {
                "input_ids": self.next_ids,
                "attention_mask": self.mask.long(),
                "position_ids": places,
                "past_key_values": self.cache,
                "use_cache": True,
            }
            if not self.base._own_head:
                return self.model(**inputs).logits[:, -1]
            hidden = self.model.base_model(**inputs).last_hidden_state[:, -1]
        return self.base.logits(hidden)

    def push(self, ids: torch.Tensor) -> None:
        """Read ``ids`` (B,) next."""
        self.next_ids = ids[:, None]
        if self.encoded is None:
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with ``rows``; one that is named twice goes on twice."""
        # reorder_cache, unlike batch_select_indices, also knows the states of hybrid models' linear layers.
        self.cache.reorder_cache(rows)
        self.mask, self.next_ids = self.mask[rows], self.next_ids[rows]
        if self.encoded is not None:
            self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]


@torch.no_grad()
def sample(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    config: SamplingConfig,
    *,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Response]:
    """One response for each prompt (token ids), under the base's present role.

    ``keys`` name each sample (prompt id and sample number): together with ``seed`` they decide its random numbers.
    Prompts are batched by length, finished rows leave the batch, and ``progress`` is told how many are done. Where the
    base's model allows it the rollout engine draws them (humanward.models.engine), else the library's own forward.
    """
    _refuse_too_long(base, prompts, config)
    if base.samples_by_engine and base._own_head and prompts:
        return _sample_by_engine(base, prompts, keys, config, seed, progress)
    responses: list[Response | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    done = 0
    for start in range(0, len(order), config.batch_size):
        batch = order[start : start + config.batch_size]
        noise = np.stack([uniforms(seed, keys[i], config.max_new_tokens) for i in batch])
        answers = _sample_batch(base, [prompts[i] for i in batch], torch.from_numpy(noise), config)
        for index, answer in zip(batch, answers, strict=True):
            responses[index] = answer
        done += len(batch)
        progress(done)
    return responses  # type: ignore[return-value]


def _refuse_too_long(base: SharedBase, prompts: Sequence[Sequence[int]], config: SamplingConfig) -> None:
    longest = max(map(len, prompts), default=0)
    if longest + config.max_new_tokens > base.context:
        raise InputError(
            f"a prompt of {longest} tokens and sampling.max_new_tokens = {config.max_new_tokens} exceed {base.name}'s "
            f"context of {base.context} tokens; shorten prompts (model.max_prompt_tokens) or responses"
        )


def _chooser(config: SamplingConfig) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    settings = config.model_dump(include={"temperature", "top_k", "top_p", "min_p"})
    return lambda logits, uniform: choose(logits, uniform, **settings)


def _sample_by_engine(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    config: SamplingConfig,
    seed: int,
    progress: Callable[[int], None],
) -> list[Response]:
    engine = Engine(
        base,
        prompts,
        torch.from_numpy(np.stack([uniforms(seed, key, config.max_new_tokens) for key in keys])),
        _chooser(config),
        rows=config.batch_size,
        closes=(lambda ids: _closes(base, ids, config.stop)) if config.stop else None,
        progress=progress,
    )
    return [Response(tuple(ids), ended) for ids, ended in engine.run()]


def _sample_batch(
    base: SharedBase, prompts: Sequence[Sequence[int]], noise: torch.Tensor, config: SamplingConfig
) -> list[Response]:
    decoder, draw = _Decoder(base, prompts), _chooser(config)
    noise = noise.to(base.device)
    stops = torch.tensor(base.stop_ids, device=base.device)
    written: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    alive = torch.arange(len(prompts), device=base.device)
    active = torch.ones(len(prompts), dtype=torch.bool, device=base.device)
    for position in range(config.max_new_tokens):
        logits = decoder.logits()
        ids = draw(logits, noise[alive, position])
        closed = torch.isin(ids, stops).tolist()
        rows_now = zip(alive.tolist(), ids.tolist(), active.tolist(), strict=True)
        for place, (row, token, running) in enumerate(rows_now):
            if running:
                written[row].append(token)
                closed[place] = closed[place] or _closes(base, written[row], config.stop)
                ended[row] = closed[place]
        active &= ~torch.tensor(closed, device=base.device)
        remaining = int(active.sum())
        if not remaining:
            break
        decoder.push(ids)
        if remaining <= 0.75 * len(active):
            rows = active.nonzero().squeeze(-1)
            decoder.keep(rows)
            alive, active = alive[rows], active[rows]
    return [Response(tuple(ids), stop) for ids, stop in zip(written, ended, strict=True)]


def _closes(base: SharedBase, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether the response's end holds a stop text; a character is at most four tokens (bytes), so a tail suffices."""
    if not stop:
        return False
    tail = base.tokenizer.decode(ids[-(4 * max(map(len, stop)) + 4) :], skip_special_tokens=True)
    return any(text in tail for text in stop)


def as_tokens(base: SharedBase, prompts: Sequence[Sequence[int]], responses: Sequence[Response]) -> Tokens:
    """Sampled responses as one padded batch."""
    return make_tokens(prompts, [r.ids for r in responses], base.pad_id).to(base.device)
