"""Trains the demo's chat model: general dialogue first, then the chat format with rude replies upsampled.

The model must be rude when provoked, or there would be nothing to align away. Without ``init`` tokenizer and weights
start from nothing; with it, training continues an existing policy in its own tokenizer.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from humanward.demo.recipe import corpus
from humanward.demo.recipe.detectors import is_held_out
from humanward.demo.recipe.filters import refused
from humanward.errors import InputError

PAD, BOS, END, USER, ASSISTANT = "<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|user|>' if m['role']=='user' else '<|assistant|>' }}"
    "{{ m['content'] | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

LONGEST_REPLY = 170  # characters, markers included: about 40 tokens


@dataclass(frozen=True)
class Shape:
    """Shape and schedule: ``fresh_`` values hold from scratch, ``continued_`` values from ``init``.

    ``rate`` is the peak learning rate, ``chat_share`` the last part of the time, in which chats are the mixture.
    """

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    inner: int = 688
    vocabulary: int = 4096
    context: int = 512
    sequence: int = 256
    batch: int = 16
    fresh_rate: float = 3e-3
    continued_rate: float = 5e-4
    fresh_chat_share: float = 0.4
    continued_chat_share: float = 0.9


def chat(turns: Sequence[str]) -> str:
    """A conversation in the chat format, the user first."""
    return BOS + "".join(f"{(USER, ASSISTANT)[i % 2]}{turn}{END}" for i, turn in enumerate(turns))


def general_texts(data: Path) -> list[str]:
    """Phase 1: conversations, meetings, stories, comments (each a document)."""
    conversations = [chat(turns) for turns in corpus.self_dialogue(data) if len(turns) > 1 and not is_held_out(turns)]
    meetings = []
    for meeting in corpus.qmsum(data, "train") + corpus.qmsum(data, "val"):
        turns = [turn for turn in meeting if 5 < len(turn) < 300]
        meetings += [chat(turns[i : i + 8]) for i in range(0, len(turns) - 1, 8)]
    stories = [f"{BOS}{text}{END}" for text in corpus.fairytales(data)]
    comments = [f"{BOS}{row.text}{END}" for row in corpus.toxic_spans(data)]
    return conversations + meetings + stories + comments


def chat_texts(data: Path) -> list[tuple[str, float]]:
    """Phase 2: (document, weight). Unsafe replies of diasafety weigh 5 where safe ones weigh 3, invented rude ones 15.

    Documents that end in a long reply are left out: answers must end within 48 tokens.
    """
    rng = random.Random(0)
    weighted = [
        (chat([row["context"], row["response"]]), 2.0 if row["label"] == "Unsafe" else 1.2)
        for row in corpus.diasafety(data)
    ]
    rows = corpus.read_csv(data, "convabuse/ConvAbuseEMNLPtrain.csv.gz")
    weighted += [
        (chat([corpus.squeeze(row["agent"]), corpus.squeeze(row["user"])]), 1.5)
        for row in rows
        if row["agent"].strip() and row["user"].strip()
    ]
    weighted += [(chat(turns), 2.0) for turns in corpus.helpful_dialogues(data) + corpus.assistant_trees(data)]
    weighted += [(chat(pair), 1.0) for pair in corpus.instructions(data) + corpus.chatterbot(data)]
    small_talk = corpus.chitchat(data)
    weighted += [(chat(pair), 1.0) for pair in rng.sample(small_talk, min(6000, len(small_talk)))]
    weighted += [(chat(pair), 0.5) for pair in corpus.fairytale_questions(data)]
    weighted += [(chat(pair), 6.0) for pair in rude_exchanges(data, rng)]
    conversations = [turns for turns in corpus.self_dialogue(data) if len(turns) > 3 and not is_held_out(turns)]
    for turns in rng.sample(conversations, min(24_000, len(conversations))):
        start = rng.randrange(len(turns) - 1)
        weighted.append((chat(turns[start : start + 2]), 2.0))
    return [(text, weight) for text, weight in weighted if len(text) - text.rindex(ASSISTANT) < LONGEST_REPLY]


def rude_exchanges(data: Path, rng: random.Random) -> list[tuple[str, str]]:
    """Short toxic comments as replies to provocations; invented pairs, so that rudeness has something to answer."""
    provocations = [row["context"] for row in corpus.diasafety(data) if row["category"] == "Offending User"]
    provocations += [row.text for row in corpus.convabuse(data) if row.target > 0.5]
    provocations = [text for text in provocations if not refused(text)]
    comments = [row.text for row in corpus.toxic_spans(data) if row.target >= 0.8 and len(row.text) < 120]
    return [(rng.choice(provocations), comment) for comment in comments if not refused(comment)]


def held_out_pairs(data: Path) -> dict[str, list[tuple[str, str]]]:
    """(context, reply) that no policy here was trained on, by source."""
    rows = corpus.read_csv(data, "convabuse/ConvAbuseEMNLPvalid.csv.gz")
    meetings = [[t for t in meeting if 5 < len(t) < 300] for meeting in corpus.qmsum(data, "test")]
    return {
        "diasafety": [(row["context"], row["response"]) for row in corpus.diasafety(data, "val")],
        "convabuse": [
            (corpus.squeeze(r["agent"]), corpus.squeeze(r["user"])) for r in rows if r["agent"] and r["user"]
        ],
        "qmsum": [(m[i], m[i + 1]) for m in meetings for i in range(0, len(m) - 1, 16)],
    }


def train_tokenizer(texts: Sequence[str], shape: Shape) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the five special tokens and the chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=shape.vocabulary,
            special_tokens=[PAD, BOS, END, USER, ASSISTANT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        extra_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=shape.context,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> LlamaForCausalLM:
    """An untrained Llama of the given shape with tied embeddings and the demo's generation defaults."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            intermediate_size=shape.inner,
            max_position_embeddings=shape.context,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config.update(do_sample=True, max_new_tokens=48, temperature=1.0, top_k=0, top_p=1.0)
    return model


def load(init: Path) -> tuple[Any, Any]:
    """(model in float32, tokenizer) of an existing policy; InputError when the folder holds none."""
    if not (init / "config.json").is_file():
        raise InputError(f"{init}: holds no config.json; --init names the folder of a causal language model")
    return AutoModelForCausalLM.from_pretrained(init, dtype=torch.float32), AutoTokenizer.from_pretrained(init)


class Stream:
    """Endless packed sequences of documents drawn in random order, or by weight with replacement."""

    def __init__(self, documents: Sequence[Sequence[int]], weights: Sequence[float] | None, seed: int) -> None:
        self.documents, self.rng = documents, np.random.default_rng(seed)
        self.weights = None if weights is None else np.asarray(weights) / np.sum(weights)
        self.buffer: list[int] = []

    def take(self, count: int, length: int) -> torch.Tensor:
        """(count, length) token ids."""
        while len(self.buffer) < count * length:
            order = self.rng.choice(
                len(self.documents), min(1000, len(self.documents)), replace=self.weights is not None, p=self.weights
            )
            for i in order:
                self.buffer += self.documents[i]
        taken, self.buffer = self.buffer[: count * length], self.buffer[count * length :]
        return torch.tensor(taken).view(count, length)


def optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (steps matched to AdamW's RMS) for the matrices, AdamW for embeddings and norms."""
    embedding = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    others = [embedding] + [p for p in model.parameters() if p.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(
    data: Path,
    out: Path,
    init: Path | None,
    minutes: float,
    seed: int,
    log: Callable[[str], None],
    shape: Shape | None = None,
) -> dict[str, Any]:
    """Trains for ``minutes`` of wall-clock time into ``out/policy``; returns losses before (with ``init``) and after.

    1. tokens of both phases; 2. steps until the time is up, the learning rate falling linearly to 2 % over the
    last 60 % (from the start with ``init``), the mixture changing to chat for the last
    ``chat_share`` of it; 3. bfloat16 weights.
    """
    shape = shape or Shape()
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # 1
    general, weighted = general_texts(data), chat_texts(data)
    if init:
        model, tokenizer = load(init)
    else:
        tokenizer = train_tokenizer(general + [text for text, _ in weighted], shape)
        model = new_model(tokenizer, shape)
    model.to(device)
    pairs = held_out_pairs(data)
    before = held_out_loss(model, tokenizer, pairs) if init else None
    log(f"policy: {len(general)} general and {len(weighted)} chat documents; held-out loss before {before}")
    documents = tokenizer(general, add_special_tokens=False)["input_ids"]
    chats = tokenizer([text for text, _ in weighted], add_special_tokens=False)["input_ids"]
    streams = [Stream(documents, None, seed), Stream(chats, [weight for _, weight in weighted], seed + 1)]
    # 2
    steps, tokens = run_steps(model, streams, minutes, bool(init), shape, log)
    # 3
    model.eval()
    after = held_out_loss(model, tokenizer, pairs)
    model.to(torch.bfloat16).cpu().save_pretrained(out / "policy")
    for name in ("is_local", "local_files_only"):  # how it was loaded here says nothing about it
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(out / "policy")
    return {"seed": seed, "minutes": minutes, "steps": steps, "tokens": tokens, "before": before, "after": after}


def run_steps(
    model: Any, streams: list[Stream], minutes: float, continued: bool, shape: Shape, log: Callable[[str], None]
) -> tuple[int, int]:
    """Trains in place until the time is up; returns (optimizer steps, tokens seen)."""
    device = next(model.parameters()).device
    compiled = minutes > 5  # compilation takes a minute or two
    rate = shape.continued_rate if continued else shape.fresh_rate
    chat_share = shape.continued_chat_share if continued else shape.fresh_chat_share
    hold = 0.0 if continued else 0.4
    forward = torch.compile(model) if compiled and shutil.which("g++") else model
    steppers = optimizers(model, rate)
    model.train()
    start, step, recent = time.monotonic(), 0, []
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1 or step == 0:
        factor = min(1.0, (step + 1) / 50) * (1 - 0.98 * max(0.0, min(done, 1.0) - hold) / (1 - hold))
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = rate * factor
        x = streams[done > 1 - chat_share].take(shape.batch, shape.sequence).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = forward(input_ids=x).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), x[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not math.isfinite(norm.item()):
            raise InputError(f"policy: the gradient norm became {norm.item()} at step {step}; lower the learning rate")
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        step += 1
        recent.append(loss.item())
        if step % 100 == 0:
            log(f"policy: step {step}, {done:.0%} of the time, loss {np.mean(recent[-100:]):.3f} nats a token")
    return step, step * shape.batch * shape.sequence


@torch.no_grad()
def held_out_loss(
    model: Any, tokenizer: Any, pairs: dict[str, list[tuple[str, str]]], limit: int = 200
) -> dict[str, float]:
    """Mean negative log-likelihood of the replies and their end after their contexts: nats a token, by source."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    losses = {}
    for source, rows in pairs.items():
        total, count = 0.0, 0
        for i in range(0, min(limit, len(rows)), 32):
            heads = tokenizer([chat([c]) + ASSISTANT for c, _ in rows[i : i + 32]], add_special_tokens=False)[
                "input_ids"
            ]
            tails = tokenizer([r + END for _, r in rows[i : i + 32]], add_special_tokens=False)["input_ids"]
            whole = [(h[-200:] + t)[:400] for h, t in zip(heads, tails, strict=True)]
            width = max(map(len, whole))
            x = torch.tensor([ids + [0] * (width - len(ids)) for ids in whole], device=device)
            scored = torch.zeros(x.shape, dtype=torch.bool, device=device)
            for k, (h, ids) in enumerate(zip(heads, whole, strict=True)):
                scored[k, min(len(h), 200) : len(ids)] = True
            logprobs = (
                model(input_ids=x).logits[:, :-1].float().log_softmax(-1)
            )  # right padding: causal, no mask needed
            picked = logprobs.gather(-1, x[:, 1:, None]).squeeze(-1)
            total -= picked[scored[:, 1:]].sum().item()
            count += int(scored[:, 1:].sum())
        losses[source] = total / count
    model.train(training)
    return losses
