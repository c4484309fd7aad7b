"""Prompts from the demo model's own user turns, chosen because they often provoke a toxic reply.

Provocation is measured by the detector on replies sampled for the choice alone; the judge has no part in it, and
reported toxicity comes from fresh replies.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from humanward.demo.recipe import corpus
from humanward.demo.recipe.evaluate import Scorer, probability, scorer
from humanward.demo.recipe.filters import refused
from humanward.demo.recipe.policy import BOS, USER, load
from humanward.errors import InputError
from humanward.records import Prompt, content_id, write_jsonl

SIZES = {"train": 600, "validation": 100, "test": 300}
CANDIDATES = 3200


def acceptable(text: str) -> bool:
    """Whether a sampled turn may be shipped: readable, short, and clear of the refused subjects."""
    words = text.split()
    return (
        2 <= len(words) <= 30
        and text.isascii()
        and len(re.findall(r"[A-Za-z ,.'!?-]", text)) >= 0.9 * len(text)
        and not re.search(r"https?:|<\||\b(\w+)( \1\b){2}|www\.|/[ur]/", text)
        and not refused(text)
    )


@torch.no_grad()
def sample(model: Any, tokenizer: Any, heads: Sequence[str], limit: int, batch: int = 128) -> list[tuple[str, bool]]:
    """One continuation of each head at temperature 1 (at most ``limit`` tokens) and whether it ended by itself."""
    results: list[tuple[str, bool]] = [("", False)] * len(heads)
    order = sorted(range(len(heads)), key=lambda i: len(heads[i]))
    for i in range(0, len(order), batch):
        chosen = order[i : i + batch]
        inputs = tokenizer([heads[j] for j in chosen], add_special_tokens=False, padding=True, return_tensors="pt")
        inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
        output = model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=limit,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        for j, ids in zip(chosen, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ended = tokenizer.eos_token_id in ids
            body = ids[: ids.index(tokenizer.eos_token_id)] if ended else ids
            results[j] = (tokenizer.decode(body, skip_special_tokens=True).strip(), ended)
    return results


def reply_heads(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """The prompts as chats that the model is to answer."""
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
        for p in prompts
    ]


def user_turns(model: Any, tokenizer: Any, count: int, longest: int = 40) -> list[str]:
    """Acceptable turns, without duplicates, out of ``count`` that the model wrote as the user."""
    turns: dict[str, str] = {}
    for text, ended in sample(model, tokenizer, [BOS + USER] * count, longest):
        text = corpus.squeeze(text)
        if ended and acceptable(text):
            turns.setdefault(corpus.normalised(text), text)
    return list(turns.values())


def provocation(model: Any, tokenizer: Any, prompts: Sequence[str], score: Scorer, replies: int) -> np.ndarray:
    """(B,) mean P(hate) of ``replies`` sampled replies to each prompt."""
    heads = [head for head in reply_heads(tokenizer, prompts) for _ in range(replies)]
    texts = [text for text, _ in sample(model, tokenizer, heads, 48)]
    return probability(score(texts)).reshape(len(prompts), replies).mean(axis=1)


def choose(
    turns: Sequence[str], provoked: np.ndarray, calm_share: float, sizes: dict[str, int], seed: int
) -> list[Prompt]:
    """The most provoking turns and ``calm_share`` calm ones (from the lower half), shuffled into the splits."""
    total = sum(sizes.values())
    if len(turns) < total:
        raise InputError(f"prompts: {len(turns)} usable user turns, but {total} are needed; sample more candidates")
    rng = random.Random(seed)
    order = np.argsort(-provoked, kind="stable").tolist()
    provoking = order[: total - round(calm_share * total)]
    rest = order[len(provoking) :]
    calm = rng.sample(rest[-max(len(turns) // 2, total - len(provoking)) :], total - len(provoking))
    chosen = [turns[i] for i in provoking + calm]
    rng.shuffle(chosen)
    splits = [name for name, size in sizes.items() for _ in range(size)]
    return [
        Prompt(content_id("demo/policy", text), text, source="demo/policy", split=split)
        for text, split in zip(chosen, splits, strict=True)
    ]


def judged(model: Any, tokenizer: Any, prompts: Sequence[str], scores: dict[str, Scorer]) -> dict[str, Any]:
    """Fresh replies to the prompts: toxicity under each scorer, and whether they end, are empty, are long."""
    replies = sample(model, tokenizer, reply_heads(tokenizer, prompts), 48)
    texts = [text for text, _ in replies]
    logits = {name: score(texts) for name, score in scores.items()}
    report: dict[str, Any] = {
        name: {
            "mean": float(probability(z).mean()),
            "std": float(probability(z).std()),
            "above_half": float(np.mean(z > 0)),
        }
        for name, z in logits.items()
    }  # fmt: skip
    if len(scores) == 2:
        report["correlation"] = float(np.corrcoef([probability(z) for z in logits.values()])[0, 1])
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return report | {
        "n": len(texts),
        "ended": float(np.mean([ended for _, ended in replies])),
        "empty": float(np.mean([not text for text in texts])),
        "tokens": float(np.mean(lengths)),
    }


def build(
    out: Path,
    seed: int,
    log: Callable[[str], None],
    replies: int = 3,
    calm_share: float = 0.15,
) -> dict[str, Any]:
    """Writes ``out/prompts/{train,validation,test}.jsonl``; returns how toxic fresh replies to each split are."""
    sizes, candidates = SIZES, CANDIDATES
    torch.manual_seed(seed)
    model, tokenizer = load(out / "policy")
    model.eval()
    detector, judge = scorer(out / "detector"), scorer(out / "judge")
    turns = user_turns(model, tokenizer, candidates)
    log(f"prompts: {len(turns)} usable turns of {candidates}")
    provoked = provocation(model, tokenizer, turns, detector, replies)
    prompts = choose(turns, provoked, calm_share, sizes, seed)
    metrics: dict[str, Any] = {"candidates": candidates, "usable": len(turns), "calm_share": calm_share}
    for split in sizes:
        mine = [prompt for prompt in prompts if prompt.split == split]
        write_jsonl(out / "prompts" / f"{split}.jsonl", mine)
        texts = [prompt.text for prompt in mine]
        metrics[split] = judged(model, tokenizer, texts, {"detector": detector, "judge": judge})
        log(f"prompts: {split} {metrics[split]}")
    return metrics
