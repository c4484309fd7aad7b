"""A forward and backward pass rehearsed on shapes alone: what it will hold in memory, before any weight is read.

The model is built from its config.json without numbers, the code that trains and samples runs on it, and every tensor
that it would have allocated is counted from its making to its end. So the count follows the architecture, the adapters,
autocast and gradient checkpointing by itself. Layers that are alike are rehearsed a few at a time and multiplied.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from humanward.config import LoraConfig, RunConfig
from humanward.models import states
from humanward.models.base import SharedBase
from humanward.models.checkpointing import checkpoint_layers
from humanward.models.loading import Loaded
from humanward.models.logprobs import CHUNK_ELEMENTS, flat_statistics
from humanward.models.memory import Batch, ClassifierSize, batches_of
from humanward.models.sampling import _Decoder, choose
from humanward.models.tokens import Tokens

SHALLOW = 2
"""Layers of each kind that a rehearsal begins with; one more tells what a layer adds."""

_CAPPING = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of models whose logits are not the plain product of state and output matrix."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made inside the block: ``live`` now, ``peak`` at most. ``known`` are not counted."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage not in self._known:
                    self._known.add(storage)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._end, storage.nbytes())
        return out

    def _end(self, size: int) -> None:
        self.live -= size


class _Rehearsed(SharedBase):
    """A SharedBase of shapes, whose logits cannot be compared: the model's settings say whether they are plain."""

    def _head_is_plain(self) -> bool:
        text = self.model.config.get_text_config()
        return not any(getattr(text, name, None) not in (None, 1, 1.0) for name in _CAPPING)

    def _engine_agrees(self) -> bool:
        return False


@dataclass(frozen=True)
class Build:
    """What a model is built from: its transformers config, the dtype of its weights, and the policy's adapter.

    ``adapter`` is one that exists (PEFT's config), which takes the place of ``lora``; ``whole`` trains a float32 copy
    of everything instead.
    """

    config: Any
    dtype: torch.dtype
    lora: LoraConfig
    name: str
    adapter: Any = None
    whole: bool = False
    quantized: bool = False


def shapes_of(build: Build) -> Any:
    """The model without numbers (on torch's meta device), in evaluation mode and frozen."""
    family = AutoModelForSeq2SeqLM if build.config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        return family.from_config(build.config, dtype=build.dtype).eval().requires_grad_(False)


def base_of(build: Build, *, checkpointing: bool = False, cut: Callable[[Any], None] = lambda model: None) -> Any:
    """(base, mode): a SharedBase of shapes with its policy role, to be used inside ``mode``."""
    model = shapes_of(build)
    cut(model)
    if build.quantized:
        model.is_loaded_in_4bit = True
    vocabulary = model.get_input_embeddings().weight.shape[0]
    # The adapters are made on the meta device like the base: PEFT moves them to it, which fake tensors do not allow.
    with torch.device("meta"):
        base = _Rehearsed(
            Loaded(model, None, (0,), 0, 1 << 20, vocabulary, build.name, ()), gradient_checkpointing=checkpointing
        )
        if build.whole:
            base._whole["policy"] = _whole(build, cut, checkpointing)
        elif build.adapter is not None:
            base._inject("policy", build.adapter)
        else:
            base.add_role("policy", build.lora)
    mode = FakeTensorMode()
    for part in (model, *base._whole.values()):
        _to_fake(part, mode)
    base.device = torch.device("cpu")
    return base, mode


def _whole(build: Build, cut: Callable[[Any], None], checkpointing: bool) -> Any:
    model = shapes_of(build).float()
    cut(model)
    if checkpointing:
        checkpoint_layers(model, build.name)
    return model.requires_grad_(True)


def _to_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put tensors that have a shape and a device, but no numbers, in the place of those on the meta device."""
    made: dict[int, tuple[Any, Any]] = {}
    with mode:
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in made:
                        fake: Any = torch.empty(tensor.shape, dtype=tensor.dtype)
                        if isinstance(tensor, nn.Parameter):
                            fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                        made[id(tensor)] = (tensor, fake)
                    table[name] = made[id(tensor)][1]


def tokens_of(batch: Batch) -> Tokens:
    """A batch without padding."""
    rows, prompt, response = batch.rows, batch.prompt, batch.response
    return Tokens(
        torch.zeros(rows, prompt, dtype=torch.long),
        torch.ones(rows, prompt, dtype=torch.bool),
        torch.zeros(rows, response, dtype=torch.long),
        torch.ones(rows, response, dtype=torch.bool),
    )


def _learn(base: Any, batch: Batch, *, logits: bool) -> int:
    """Peak of a forward and backward pass of the policy, beside its weights and gradients.

    The gradients of earlier micro-batches are there already. Without ``logits`` the loss is on the states alone, as the
    reward model's and the critic's are.
    """
    with base.role("policy"):
        parameters = base.role_parameters("policy")
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        tokens = tokens_of(batch)
        known = [*_tensors(base), *(p.grad for p in parameters)]
        with LiveBytes(known) as counted:
            _loss(base, tokens, logits=logits).backward()
        return counted.peak


def _loss(base: Any, tokens: Tokens, *, logits: bool) -> torch.Tensor:
    if not logits:
        return base.states(tokens).float().sum()
    return _statistics(base, tokens, entropy=False)[0].sum()


def _statistics(base: Any, tokens: Tokens, *, entropy: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``SharedBase.logprobs``, on a batch without padding, whose selection needs no numbers."""
    if base._own_head:
        source, logits_of = base.states(tokens), base.logits
    else:
        with base._autocast():
            _, source = states.own_logits(base.model, tokens)
        logits_of = _as_it_is
    flat = source[:, :-1].flatten(0, 1)
    return flat_statistics(
        flat, tokens.response_ids.flatten(), logits_of, temperature=1.0, vocabulary=base.vocabulary, entropy=entropy
    )


def _as_it_is(chunk: torch.Tensor) -> torch.Tensor:
    return chunk


def _judge(base: Any, batch: Batch, *, logits: bool) -> int:
    """Peak of a forward pass without gradients, with log-probabilities and entropies or for states alone."""
    tokens = tokens_of(batch)
    with base.role("policy"), torch.no_grad(), LiveBytes(_tensors(base)) as counted:
        if logits:
            _statistics(base, tokens, entropy=True)
        else:
            base.states(tokens)
    return counted.peak


def _sample(base: Any, batch: Batch) -> int:
    """Peak of sampling: reading the prompts, or the last token's step, whichever holds more."""
    with base.role("policy"), torch.no_grad():
        return max(
            _decode(base, batch.rows, batch.prompt, 0)[1], _decode(base, batch.rows, batch.prompt, batch.response)[1]
        )


def _cache(base: Any, batch: Batch) -> int:
    """What the cache holds when the last token is chosen."""
    with base.role("policy"), torch.no_grad():
        return _decode(base, batch.rows, batch.prompt, batch.response)[0]


def _decode(base: Any, rows: int, prompt: int, tokens: int) -> tuple[int, int]:
    """(bytes of the cache, peak) of the step that chooses token number ``tokens``; 0: that which reads the prompts."""
    uniform = torch.zeros(rows, dtype=torch.float64)
    with LiveBytes(_tensors(base)) as counted:
        # Prompts have to differ: one that stands in the batch twice is read once.
        decoder = _Decoder(base, [[row, *[0] * (prompt - 1)] for row in range(rows)])
        if tokens > 1:
            _fill(decoder, rows, tokens - 2)
            counted.peak = counted.live
        choose(decoder.logits(), uniform, temperature=1.0)
        held = {t.untyped_storage() for t in _held_by(decoder.cache)}
    return sum(storage.nbytes() for storage in held), counted.peak


def _held_by(cache: Any) -> list[torch.Tensor]:
    """The tensors of a cache of transformers, with those of the encoder's side."""
    parts = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    layers = [layer for part in (parts if any(parts) else [cache]) if part is not None for layer in part.layers]
    return [value for layer in layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]


def _fill(decoder: Any, rows: int, written: int) -> None:
    """Read the prompts and ``written`` tokens at once, and one more token next."""
    decoder._spread = None
    more = torch.zeros(rows, written, dtype=torch.long)
    decoder.next_ids = torch.cat([decoder.next_ids, more], 1)
    if decoder.encoded is None:
        decoder.mask = torch.cat([decoder.mask, more.bool()], 1)
    decoder._read()
    decoder.push(torch.zeros(rows, dtype=torch.long))


def _tensors(base: Any) -> list[torch.Tensor]:
    parts = (base._frozen, *base._whole.values())
    return [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]


# --- at full depth ---------------------------------------------------------------------------------------------------


class Rehearsals:
    """The peaks of one build, each rehearsed once: bytes beside weights, gradients and the optimizer's moments."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self._known: dict[tuple[Any, ...], int] = {}

    def learn(self, batch: Batch, *, checkpointing: bool, logits: bool = True) -> int:
        """Of a forward and backward pass."""
        return self._at_full_depth(
            ("learn", batch, checkpointing, logits), lambda base: _learn(base, batch, logits=logits), checkpointing
        )

    def judge(self, batch: Batch, *, logits: bool = True) -> int:
        """Of a forward pass without gradients."""
        return self._at_full_depth(("judge", batch, logits), lambda base: _judge(base, batch, logits=logits), False)

    def sample(self, batch: Batch) -> tuple[int, int]:
        """(the cache after the last token, the peak of sampling with it)."""
        cache = self._at_full_depth(("cache", batch), lambda base: _cache(base, batch), False)
        return cache, self._at_full_depth(("sample", batch), lambda base: _sample(base, batch), False)

    def _at_full_depth(self, key: tuple[Any, ...], count: Callable[[Any], int], checkpointing: bool) -> int:
        if key not in self._known:
            depths = depths_of(shapes_of(self.build))
            shallow = [min(SHALLOW, depth) for depth in depths]
            total = self._at(shallow, count, checkpointing)
            first = total
            for place, depth in enumerate(depths):
                if depth > shallow[place]:
                    deeper = [*shallow[:place], shallow[place] + 1, *shallow[place + 1 :]]
                    total += (depth - shallow[place]) * (self._at(deeper, count, checkpointing) - first)
            self._known[key] = total
        return self._known[key]

    def _at(self, depths: list[int], count: Callable[[Any], int], checkpointing: bool) -> int:
        base, mode = base_of(self.build, checkpointing=checkpointing, cut=lambda model: cut_layers(model, depths))
        with mode:
            return count(base)


def _stacks(model: Any) -> list[nn.ModuleList]:
    """The lists of layers of which all but the first are alike; others are rehearsed as they are."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > SHALLOW + 1:
            layers = list(module)
            if all(isinstance(layer, GradientCheckpointingLayer) for layer in layers):
                kinds = {tuple((name, p.shape) for name, p in layer.named_parameters()) for layer in layers[1:]}
                if len(kinds) == 1:
                    found.append(module)
    return found


def depths_of(model: Any) -> list[int]:
    """How many layers each of the model's stacks of like layers has."""
    return [len(stack) for stack in _stacks(model)]


def cut_layers(model: Any, depths: list[int]) -> None:
    """Leave the first so many layers of each stack."""
    for stack, depth in zip(_stacks(model), depths, strict=True):
        del stack[depth:]


# --- what a prediction asks ------------------------------------------------------------------------------------------

TOKENIZER_BYTES = 500
"""Of a token in a fast tokenizer (and its Python objects), measured: docs/memory.md."""


class ModelSizes(Rehearsals):
    """humanward.models.memory.Sizes of a model's configuration, of classifiers and reward models known by their files.

    Nothing is loaded. ``vocabulary`` counts the tokenizer's tokens.
    """

    def __init__(
        self, build: Build, classifiers: Sequence[ClassifierSize] = (), reward_models: int = 0, vocabulary: int = 0
    ) -> None:
        super().__init__(build)
        self._model = shapes_of(build)
        self._classifiers, self._reward_models = tuple(classifiers), reward_models
        self._adapters: dict[str, int] = {}
        tied = {id(p): p for p in self._model.parameters()}
        self.weights = sum(p.numel() for p in tied.values())
        self.tokenizer = TOKENIZER_BYTES * (vocabulary or self._model.get_input_embeddings().weight.shape[0])

    def base(self, *, quantized: bool) -> int:
        """Bytes of the frozen base; of a quantised weight half a byte and its constants."""
        packed = _quantised(self._model) if quantized else {}
        wide = getattr(self._model, "_keep_in_fp32_modules", None) or () if quantized else ()
        total = 0
        tensors = {id(t): (name, t) for name, t in (*self._model.named_parameters(), *self._model.named_buffers())}
        for key, (name, tensor) in tensors.items():
            item = 4 if any(part in name.split(".") for part in wide) else tensor.element_size()
            total += nf4_bytes(tensor.numel()) if key in packed else tensor.numel() * item
        return total

    def dequantized(self) -> int:
        """Bytes of the largest quantised weight unpacked."""
        return max((w.numel() * w.element_size() for w in _quantised(self._model).values()), default=0)

    def adapter(self, lora: LoraConfig | None) -> int:
        """Weights of an adapter; None: of the one that the build starts from."""
        key = "start" if lora is None else lora.model_dump_json()
        if key not in self._adapters:
            build = replace(self.build, whole=False)
            base, _ = base_of(build if lora is None else replace(build, lora=lora, adapter=None))
            self._adapters[key] = sum(p.numel() for p in base.role_parameters("policy"))
        return self._adapters[key]

    def adapter_itemsize(self, dtype: str) -> int:
        """Bytes of one weight of an adapter in float32 or in the base's dtype."""
        return 4 if dtype == "float32" else self.build.dtype.itemsize

    def reward_models(self) -> int:
        """Bytes of the adapters of ready-trained reward models."""
        return self._reward_models

    def classifiers(self) -> Sequence[ClassifierSize]:
        """The classifiers beside the base."""
        return self._classifiers

    def bound(self, config: RunConfig) -> int:
        """More bytes than the run can hold, without a rehearsal: for models so small that nobody need reckon."""
        trained = 7 * 4 * self.weights if self.build.whole else 0
        adapter = self.adapter(None if config.model.adapter else config.lora)
        members = config.reward.ensemble + len(config.reward.models) + 3
        ready = self._reward_models + sum(one.weights + one.forward for one in self._classifiers)
        widths = sum(sum(m.weight.shape) for m in self._model.modules() if isinstance(m, nn.Linear | Conv1D))
        heads = int(getattr(self.build.config.get_text_config(), "num_attention_heads", 0) or 16)
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        working = 0
        for batch in batches_of(config).values():
            length = batch.prompt + batch.response
            logits = min(batch.rows * batch.response, max(batch.rows, CHUNK_ELEMENTS // vocabulary)) * vocabulary
            features = batch.rows * length * widths
            working = max(working, 16 * features + 8 * batch.rows * heads * length**2 + 40 * logits)
        return 4 * self.weights + trained + 7 * 4 * adapter * members + ready + self.tokenizer + working

    def precision(self) -> dict[str, str]:
        """What ``SharedBase.precision`` will say."""
        return base_of(self.build)[0].precision


def nf4_bytes(weights: int) -> int:
    """Bytes of a weight in NF4 with double quantisation, as bitsandbytes keeps it.

    Half a byte a weight, one for each block of 64, four for each 256 of those blocks; tables of 16 and 256 floats, an
    offset. Source: Dettmers et al. 2023 (arXiv 2305.14314), section 3.
    """
    blocks = -(-weights // 64)
    return -(-weights // 2) + blocks + 4 * -(-blocks // 256) + 4 * (16 + 256 + 1)


def _quantised(model: Any) -> dict[int, torch.Tensor]:
    """The weights that NF4 packs, by identity: linear layers but the output matrix and those kept in float32."""
    wide = getattr(model, "_keep_in_fp32_modules", None) or ()
    head = model.get_output_embeddings()
    return {
        id(module.weight): module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and name.rpartition(".")[2] not in wide
    }


def classifier_size(role: str, config: Any, dtype: torch.dtype, device: str, rows: int, tokens: int) -> ClassifierSize:
    """A classifier's weights and the peak of a forward of ``rows`` texts, from its configuration."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, dtype=dtype).eval().requires_grad_(False)
    weights = parameter_bytes(model)
    mode = FakeTensorMode()
    _to_fake(model, mode)
    with mode, torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as counted:
        # Where the padding begins is data; the trunk alone needs none of it.
        model.base_model(input_ids=torch.zeros(rows, tokens, dtype=torch.long), attention_mask=torch.ones(rows, tokens))
    return ClassifierSize(role, weights, counted.peak, device)


def parameter_bytes(model: Any) -> int:
    """Bytes of all weights and buffers, those that are tied once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
