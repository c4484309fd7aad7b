"""Sampling alone: tokens a second of humanward's engine, transformers' generate and its generate_batch, side by side.

Every side has the same random weights and prompts and draws exactly as many tokens (no end token), each in turn in one
process, ``--repeats`` times; medians with the spread, in wall-clock and in processor seconds (on a machine that others
use, compare these within one run). A ratio is the side's median processor seconds over those of the engine.

    python benchmarks/sampling_speed.py --shape tiny --train base lora --threads 1 --json > sampling.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from machine import describe_machine
from speed.work import LORA, SHAPES, VOCABULARY
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from humanward.config import LoraConfig, SamplingConfig
from humanward.models.base import SharedBase
from humanward.models.loading import Loaded
from humanward.models.sampling import sample

NO_END = VOCABULARY
"""An end token that no model draws: every side writes the same number of tokens."""

SIDES = ("humanward", "generate sdpa", "generate eager", "generate static", "generate_batch")
Draw = Callable[[], int]


def prompts_of(count: int, shortest: int, longest: int) -> list[list[int]]:
    """Random prompts, their lengths spread evenly from ``shortest`` to ``longest``."""
    drawn = random.Random(0)
    return [[drawn.randrange(3, VOCABULARY) for _ in range(drawn.randint(shortest, longest))] for _ in range(count)]


def model_of(given: argparse.Namespace, attention: str) -> Any:
    """The model of random weights, alike for every side."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=1024, pad_token_id=0, eos_token_id=NO_END, **SHAPES[given.shape]
    )
    return LlamaForCausalLM._from_config(
        config, dtype=getattr(torch, given.dtype), attn_implementation=attention
    ).eval()


def moved(parameters: Any) -> None:
    """LoRA weights as after some training: those that begin at zero are not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def humanward(given: argparse.Namespace, train: str, prompts: list[list[int]]) -> Draw:
    """Our engine."""
    base = SharedBase(Loaded(model_of(given, "sdpa"), None, (NO_END,), 0, 1024, VOCABULARY, given.shape, ()))
    if train == "lora":
        base.add_role("policy", LoraConfig(rank=LORA["r"], alpha=LORA["lora_alpha"], target_modules="all-linear"))
        moved(base.role_parameters("policy"))
    config = SamplingConfig(max_new_tokens=given.response, batch_size=given.batch)
    keys = [str(i) for i in range(len(prompts))]

    def draw() -> int:
        with base.role("policy" if train == "lora" else "reference"):
            return sum(len(r.ids) for r in sample(base, prompts, keys, config, seed=0))

    return draw


def library(given: argparse.Namespace, train: str, prompts: list[list[int]], side: str) -> Draw:
    """transformers' generate, with each of its ways to attend and to keep keys and values, or generate_batch."""
    model: Any = model_of(given, "eager" if side in ("generate eager", "generate static") else "sdpa")
    if train == "lora":
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **LORA), autocast_adapter_dtype=False)
        moved(p for name, p in model.named_parameters() if "lora_" in name)
    config = GenerationConfig(
        max_new_tokens=given.response, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0,
        eos_token_id=-1 if side == "generate_batch" else NO_END,
        cache_implementation="static" if side == "generate static" else None,
    )  # fmt: skip
    if side == "generate_batch":
        bare = model.base_model.model if train == "lora" else model
        # Left to itself it takes most of the machine's memory, and minutes to do so.
        blocks = given.batch * -(-(given.longest + given.response) // 256)
        paged = ContinuousBatchingConfig(num_blocks=blocks, max_batch_tokens=given.batch * given.longest)

        def draw_batch() -> int:
            found = bare.generate_batch(inputs=prompts, generation_config=config, continuous_batching_config=paged)
            return sum(len(one.generated_tokens) for one in found.values())

        return draw_batch
    groups = [prompts[start : start + given.batch] for start in range(0, len(prompts), given.batch)]

    def draw() -> int:
        tokens = 0
        for group in groups:
            longest = max(map(len, group))
            ids = torch.tensor([[0] * (longest - len(p)) + p for p in group])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in group])
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            tokens += out[:, longest:].numel()
        return tokens

    return draw


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' notices."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def measure(given: argparse.Namespace, train: str) -> dict[str, Any]:
    """Every side in turn; its seconds by repeat, after one run that is not counted."""
    prompts = prompts_of(given.prompts or given.batch, given.shortest, given.longest)
    sides = {
        side: humanward(given, train, prompts) if side == "humanward" else library(given, train, prompts, side)
        for side in given.sides
    }
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    expected = len(prompts) * given.response
    with torch.no_grad():
        for repeat in range(given.repeats + 1):
            for side, draw in sides.items():
                wall, cpu = time.perf_counter(), time.process_time()
                tokens = draw()
                took = time.perf_counter() - wall, time.process_time() - cpu
                if tokens != expected:
                    raise SystemExit(f"{side} drew {tokens} tokens instead of {expected}")
                if repeat:
                    seconds[side].append(took)
    ours = statistics.median(cpu for _, cpu in seconds["humanward"]) if "humanward" in seconds else None
    return {side: _summary(took, expected, ours) for side, took in seconds.items()}


def _summary(took: list[tuple[float, float]], tokens: int, ours: float | None) -> dict[str, Any]:
    walls, cpus = [w for w, _ in took], [c for _, c in took]
    return {
        "tokens_per_second": round(tokens / statistics.median(walls), 1),
        "tokens_per_cpu_second": round(tokens / statistics.median(cpus), 1),
        "cpu_seconds": [round(statistics.median(cpus), 3), round(min(cpus), 3), round(max(cpus), 3)],
        "wall_seconds": [round(statistics.median(walls), 3), round(min(walls), 3), round(max(walls), 3)],
        "ratio": None if ours is None else round(statistics.median(cpus) / ours, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--train", nargs="+", choices=("base", "lora"), default=["base", "lora"])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=0, help="how many in all [as many as a batch]")
    parser.add_argument("--shortest", type=int, default=16)
    parser.add_argument("--longest", type=int, default=48)
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with quiet():
        found = {train: measure(given, train) for train in given.train}
    settings = {k: v for k, v in vars(given).items() if k not in ("json", "sides", "train")}
    result = {**describe_machine(), **settings, "load": list(os.getloadavg()), "measured": found}
    if given.json:
        print(json.dumps(result))
        return
    for train, sides in found.items():
        for side, row in sides.items():
            print(f"{train:5} {side:16} {row}")


if __name__ == "__main__":
    main()
