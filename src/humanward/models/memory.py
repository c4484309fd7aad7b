"""Predicted peak memory of a run, by role and by thing, and the options that would make it fit: docs/memory.md.

Arithmetic alone. What depends on the architecture (``Sizes``) comes from humanward.models.rehearsal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from humanward.algorithm_config import OFF_POLICY, ON_POLICY
from humanward.config import LoraConfig, RunConfig
from humanward.models.chunks import CHUNK_TOKENS

FLOAT32 = 4
HEAP_SHARE = 0.15
"""Of what comes and goes on the CPU, the share that lies unused between the heap's blocks: docs/memory.md."""
SCORING_ROWS = 32
"""Responses in one forward of the trained reward model."""

SAMPLING, JUDGING, SCORING, LEARNING, UPDATING, SAVING = (
    "sampling",
    "judging",
    "scoring",
    "learning",
    "updating",
    "saving",
)
REWARD = "reward training"


@dataclass(frozen=True)
class Batch:
    """Episodes in one forward, and the tokens of each one's prompt and response."""

    rows: int
    prompt: int
    response: int


class Sizes(Protocol):
    """What a prediction needs to know of models, none of which is loaded. All in bytes, but for counts of weights."""

    weights: int
    """The base's weights, those that are tied once."""
    tokenizer: int

    def base(self, *, quantized: bool) -> int:
        """The frozen base's weights and buffers."""

    def dequantized(self) -> int:
        """What one 4-bit weight holds while it is multiplied, at most."""

    def adapter(self, lora: LoraConfig | None) -> int:
        """An adapter's number of weights; None: of the adapter that the run starts from."""

    def adapter_itemsize(self, dtype: str) -> int:
        """Bytes of one of its weights."""

    def learn(self, batch: Batch, *, checkpointing: bool, logits: bool) -> int:
        """Peak of a forward and backward pass beside weights and gradients."""

    def judge(self, batch: Batch, *, logits: bool) -> int:
        """Peak of a forward pass without gradients, with or without log-probabilities and entropies."""

    def sample(self, batch: Batch) -> tuple[int, int]:
        """(the cache of keys and values after the last token, the peak of everything that sampling makes)."""

    def reward_models(self) -> int:
        """The adapters of ready-trained reward models, together."""

    def classifiers(self) -> Sequence[ClassifierSize]:
        """Those that the run loads beside the base."""


@dataclass(frozen=True)
class ClassifierSize:
    """A ready-made classifier: its role in the run, its weights, the peak of a forward, where it is."""

    role: str
    weights: int
    forward: int
    device: str


@dataclass(frozen=True)
class Line:
    """One thing in memory: whose it is, how many bytes, by which formula, in which moments it is there, and where."""

    role: str
    thing: str
    bytes: int
    formula: str
    moments: tuple[str, ...]
    device: str


@dataclass(frozen=True)
class Prediction:
    """Every line, and the batches that they were reckoned for."""

    lines: tuple[Line, ...]
    batches: dict[str, Batch]

    def moments(self, device: str) -> dict[str, int]:
        """Bytes on a device at each moment."""
        held = [line for line in self.lines if line.device == device]
        names = dict.fromkeys(moment for line in held for moment in line.moments)
        return {name: sum(line.bytes for line in held if name in line.moments) for name in names}

    def peak(self, device: str) -> tuple[str, int]:
        """(the moment that holds most, its bytes); ("", 0) where nothing is on the device."""
        moments = self.moments(device)
        worst = max(moments, key=lambda name: moments[name], default="")
        return worst, moments.get(worst, 0)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that hold something."""
        return tuple(dict.fromkeys(line.device for line in self.lines))


# --- batches ---------------------------------------------------------------------------------------------------------


def batches_of(config: RunConfig) -> dict[str, Batch]:
    """The largest batch of each moment, all prompts and responses as long as the configuration allows."""
    prompt, response = config.model.max_prompt_tokens, config.sampling.max_new_tokens
    found = {SAMPLING: Batch(config.sampling.batch_size, prompt, response)}
    if config.algorithm in ON_POLICY:
        rows = min(config.ppo.micro_batch_size, max(1, config.ppo.micro_batch_tokens // (prompt + response)))
        found[LEARNING] = found[JUDGING] = Batch(rows, prompt, response)
    elif config.algorithm in OFF_POLICY:
        found[LEARNING] = found[JUDGING] = _chunk(config, config.offline.max_tokens, config.offline.batch_size)
    if config.algorithm not in OFF_POLICY and config.reward.uses_trained:
        found[SCORING] = Batch(SCORING_ROWS, prompt, response)
    if config.algorithm not in OFF_POLICY and config.reward.trains:
        found[REWARD] = _chunk(config, config.reward.max_tokens_trained, config.reward.batch_size)
    return found


def _chunk(config: RunConfig, limit: int, prompts: int) -> Batch:
    """A chunk of texts (humanward.models.chunks). Texts that the run samples have the run's lengths; others may be as
    long as ``limit`` lets them, half of it the response."""
    response, texts = config.sampling.max_new_tokens, config.feedback.completions_per_prompt
    if config.feedback.source in ("simulated", "terminal"):
        longest = min(limit, config.model.max_prompt_tokens + response)
        rows = min(max(texts, CHUNK_TOKENS // longest), prompts * texts)
        response = min(response, longest - 1)
    else:
        longest, response = limit, limit // 2
        rows = max(2, CHUNK_TOKENS // longest)
    return Batch(rows, longest - response, response)


# --- lines -----------------------------------------------------------------------------------------------------------


def predict(config: RunConfig, sizes: Sizes, device: str = "cpu", overhead: int = 0) -> Prediction:
    """Every thing in memory, by role. ``device`` holds the base; ``overhead`` is the process before any model."""
    batches = batches_of(config)
    moments = [SAMPLING, SCORING]
    if LEARNING in batches:
        moments += [JUDGING, LEARNING, UPDATING]
    if config.model.train == "full" and LEARNING in batches:
        moments.append(SAVING)
    training = tuple(moments)
    always = (*training, REWARD) if REWARD in batches else training
    lines = [
        Line("process", "libraries", overhead, "resident before any model is loaded", always, "cpu"),
        Line("process", "tokenizers", sizes.tokenizer, "about 500 bytes a token", always, "cpu"),
    ]
    place = _Placed(lines, device)
    quantized = config.model.quantization != "none"
    stored = "packed 4-bit linear layers with their constants, the rest as it is" if quantized else "weights x bytes"
    place("base", "frozen weights", sizes.base(quantized=quantized), stored, always)
    if quantized:
        place("base", "one layer unpacked", sizes.dequantized(), "the largest layer, as it multiplies", always)
    _trained(place, config, sizes, training, always)
    _reward_model(place, config, sizes, always)
    _transient(place, config, sizes, batches)
    lines += [
        Line(f"{one.role} classifier", "weights", one.weights, "weights x bytes", always, one.device)
        for one in sizes.classifiers()
    ]
    _largest_scorer(place, sizes, batches)
    lines += _heap(lines)
    return Prediction(tuple(line for line in lines if line.bytes), batches)


def _heap(lines: Sequence[Line]) -> list[Line]:
    """Room lost between blocks, for each moment in which something comes and goes on the CPU."""
    passing: dict[str, int] = {}
    for line in lines:
        if line.device == "cpu" and len(line.moments) == 1:
            passing[line.moments[0]] = passing.get(line.moments[0], 0) + line.bytes
    what = f"{HEAP_SHARE:.0%} of what comes and goes"
    return [Line("process", "heap", round(HEAP_SHARE * n), what, (moment,), "cpu") for moment, n in passing.items()]


class _Placed:
    """Adds lines on the base's device."""

    def __init__(self, lines: list[Line], device: str) -> None:
        self.lines, self.device = lines, device

    def __call__(self, role: str, thing: str, size: int, formula: str, moments: Sequence[str]) -> None:
        self.lines.append(Line(role, thing, size, formula, tuple(moments), self.device))


def _trained(place: _Placed, config: RunConfig, sizes: Sizes, training: Sequence[str], always: Sequence[str]) -> None:
    """Policy and critic with gradients, moments and kept copies; the reference where it is not the base itself."""
    on_policy = config.algorithm in ON_POLICY
    learns = LEARNING in training
    whole = config.model.train == "full"
    start = config.model.adapter is not None
    item = FLOAT32 if whole or start else sizes.adapter_itemsize(config.lora.dtype)
    policy = sizes.weights if whole else sizes.adapter(None if start else config.lora)
    if start:
        place("reference", "adapter", sizes.adapter(None) * FLOAT32, "the SFT adapter, frozen: weights x 4", always)
    trained = {"policy": policy * item}
    if config.algorithm == "ppo" and config.ppo.critic == "adapter":
        lora = config.lora
        if config.ppo.critic_start == "reward":
            lora = lora.model_copy(update={"rank": config.reward.rank})
        trained["critic"] = sizes.adapter(lora) * sizes.adapter_itemsize(lora.dtype)
    for role, size in trained.items():
        what = "float32 copy of the base" if whole and role == "policy" else "adapter"
        place(role, what, size, "weights x bytes", always if role == "policy" else training)
        if learns:
            place(role, "gradients", size, "as many bytes as the weights", training)
            place(role, "Adam's two moments", 2 * size, "2 x the weights", training)
        if on_policy:
            place(role, "kept copies", 2 * size, "2 x the weights: to go back to within the KL budget", training)
        if whole and role == "policy":
            place(role, "copy to be saved", size, "the weights, before they are cast to the base's dtype", (SAVING,))


def _reward_model(place: _Placed, config: RunConfig, sizes: Sizes, always: Sequence[str]) -> None:
    if config.algorithm in OFF_POLICY or not config.reward.uses_trained:
        return
    if not config.reward.trains:
        place("reward model", "adapters", sizes.reward_models(), "weights x bytes of each", always)
        return
    lora = config.lora.model_copy(update={"rank": config.reward.rank})
    one = sizes.adapter(lora) * sizes.adapter_itemsize(lora.dtype)
    members = config.reward.ensemble
    place("reward model", "adapters", members * one, f"{members} x weights x bytes, and heads of a few KB", always)
    place("reward model", "gradients", one, "as many bytes as one member's weights", (REWARD,))
    place("reward model", "Adam's two moments", 2 * one, "2 x one member's weights", (REWARD,))


def _transient(place: _Placed, config: RunConfig, sizes: Sizes, batches: dict[str, Batch]) -> None:
    """What a forward, a backward pass or a sampled token makes and gives back."""
    checkpointing = config.model.gradient_checkpointing
    kept = "layers' inputs, and one layer's activations again" if checkpointing else "what the backward pass needs"
    cache, sampling = sizes.sample(batches[SAMPLING])
    keys = "2 x layers x key-value heads x head size x tokens x bytes"
    place("policy", "cache of keys and values", cache, keys, (SAMPLING,))
    place("policy", "a step of sampling", sampling - cache, "reading the prompts or choosing a token", (SAMPLING,))
    if JUDGING in batches:
        size = sizes.judge(batches[JUDGING], logits=True)
        place("policy", "forward without gradients", size, "one micro-batch and its logits", (JUDGING,))
    for moment, role, logits in ((LEARNING, "policy", True), (REWARD, "reward model", False)):
        if moment in batches:
            trunk = sizes.learn(batches[moment], checkpointing=checkpointing, logits=False)
            place(role, "activations", trunk, kept, (moment,))
            if logits:
                both = sizes.learn(batches[moment], checkpointing=checkpointing, logits=True)
                place(role, "logits", max(0, both - trunk), "one chunk forward and backward", (moment,))


def _largest_scorer(place: _Placed, sizes: Sizes, batches: dict[str, Batch]) -> None:
    """Scorers work one after another: the one that holds most counts, on each device."""
    forwards = [(f"{one.role} classifier", one.forward, one.device) for one in sizes.classifiers()]
    if SCORING in batches:
        forwards.append(("reward model", sizes.judge(batches[SCORING], logits=False), place.device))
    for device in dict.fromkeys(device for *_, device in forwards):
        role, size, _ = max((one for one in forwards if one[2] == device), key=lambda one: one[1])
        place.lines.append(Line(role, "forward", size, "one batch without gradients", (SCORING,), device))


# --- what would make it fit ------------------------------------------------------------------------------------------

Changes = dict[str, object]
"""Options with their new values, by section.key."""


def changed(config: RunConfig, changes: Changes) -> RunConfig:
    """The configuration with these options."""
    for key, value in changes.items():
        section, name = key.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})
    return config


def choices(config: RunConfig) -> list[list[Changes]]:
    """The options that save memory, the least costly first; each with its values, the mildest first."""
    found: list[list[Changes]] = []
    if not config.model.gradient_checkpointing:
        found.append([{"model.gradient_checkpointing": True}])
    if config.algorithm in ON_POLICY:
        rows = batches_of(config)[LEARNING].rows
        found.append([{"ppo.micro_batch_size": n} for n in _halves(rows) if config.ppo.minibatch_size % n == 0])
    found.append([{"sampling.batch_size": n} for n in _halves(config.sampling.batch_size)])
    if config.model.quantization == "none" and config.model.train == "adapter":
        found.append([{"model.quantization": "nf4"}])
    if config.model.train == "full":
        found.append([{"model.train": "adapter"}])
    return [values for values in found if values]


def _halves(number: int) -> Iterator[int]:
    power = 1
    while power * 2 < number:
        power *= 2
    while power >= 1 and power < number:
        yield power
        power //= 2


def remedies(config: RunConfig, fits: Callable[[RunConfig], bool]) -> list[Changes]:
    """Every option that suffices alone; where none does, the first that suffice together; empty where all do not.

    Of an option with several values the mildest that suffices is named.
    """
    options = choices(config)
    alone = [found for values in options if (found := _mildest(config, {}, values, fits))]
    if alone:
        return alone
    together: Changes = {}
    for values in options:
        if found := _mildest(config, together, values, fits):
            return [found]
        together |= values[-1]
    return []


def _mildest(
    config: RunConfig, before: Changes, values: Sequence[Changes], fits: Callable[[RunConfig], bool]
) -> Changes | None:
    """The first of the values that suffices with what was changed ``before``; the last one tells whether any does."""
    if not fits(changed(config, {**before, **values[-1]})):
        return None
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(changed(config, {**before, **values[middle]})):
            high = middle
        else:
            low = middle + 1
    return {**before, **values[low]}


def readable(size: float) -> str:
    """Bytes in GB (10**9), or in MB below one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
