"""Writes the demo's prompts and measures how toxic the policy's replies to them are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from humanward.demo.recipe.evaluate import Scorer, probability, scorer
from humanward.demo.recipe.policy import load
from humanward.demo.recipe.written import SIZES, written_prompts
from humanward.records import write_jsonl


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


def build(out: Path, seed: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Writes ``out/prompts/{train,validation,test}.jsonl``; returns how toxic the replies to each split are."""
    torch.manual_seed(seed)
    model, tokenizer = load(out / "policy")
    model.eval()
    scores = {"detector": scorer(out / "detector"), "judge": scorer(out / "judge")}
    prompts = written_prompts()
    metrics: dict[str, Any] = {}
    for split in SIZES:
        mine = [prompt for prompt in prompts if prompt.split == split]
        write_jsonl(out / "prompts" / f"{split}.jsonl", mine)
        metrics[split] = judged(model, tokenizer, [prompt.text for prompt in mine], scores)
        log(f"prompts: {split} {metrics[split]}")
    return metrics
